"""What the state root of a block proves: a value stands on a path, none does, or these are all that stand below one.

The hashes are those of the ledger's path tree (`ledger.path_tree` builds it and says why it looks so):

- value = SHA-256(0x00 | bytes); node = SHA-256(0x04 | value or 32 zeroes | root of the children).
- Children form a binary trie over SHA-256(name): none is 32 zeroes, a single one is SHA-256(0x02 | SHA-256(name) | node),
  more are SHA-256(0x03 | those with the next bit 0 | those with the next bit 1).

Rules:
- The root must come from a block that was verified. Everything else is anybody's data, and what does not lead to the
  root raises `InvalidProof`.
- A path is absent where its way ends at nothing, or at the only other child there, or at a node that holds no value.
- A subtree is proved by all of its values together: one that is changed, left out, added or moved gives another root.
"""

from __future__ import annotations

import hashlib
import hmac
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from polarise.merkle import HASH_BYTES, InvalidProof

ZERO = bytes(HASH_BYTES)
KEY_BITS = 256

Child = tuple[bytes, bytes]  # key and node hash


@dataclass(frozen=True, slots=True)
class Step:
    """One node on the way down, the root of the tree first.

    Attributes:
        value: Hash of the node's own value, 32 bytes; None when it has none.
        siblings: What lies on the other side of each branch among its children, the top one first; 32 bytes each.
    """

    value: bytes | None
    siblings: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Other:
    """The only child at the place where the wanted one would stand.

    Attributes:
        key: SHA-256 of its name.
        node: Its hash.
    """

    key: bytes
    node: bytes


@dataclass(frozen=True, slots=True)
class Way:
    """The way from the state root to a path, or to where it would go on if the path existed.

    Attributes:
        steps: A step for each segment of the path; fewer when it ends before.
        other: Who stands at the end instead; None when nobody does, or when the path exists.
    """

    steps: tuple[Step, ...]
    other: Other | None = None


@dataclass
class _Folder:
    """A path of a subtree while it is added up."""

    value: bytes | None = None
    children: dict[str, _Folder] = field(default_factory=dict)


def check_value(root: bytes, path: str, value: bytes | None, children: bytes | None, way: Way) -> None:
    """Check what stands on one path.

    Args:
        root: State root of a verified block.
        path: ``/`` and segments.
        value: The value's bytes; None claims that there is none.
        children: Root over the children of the path's node; None claims that there is no such node.
        way: The way to it; untrusted.

    Raises:
        InvalidProof: It does not lead to the root.
    """
    if children is None:
        if value is not None:
            raise InvalidProof("a value needs the root of the children beside it")
        _check_root(root, path, None, way)
        return
    if value is None and hmac.compare_digest(children, ZERO):
        raise InvalidProof("a node without value and children does not exist")
    _check_hash(children)
    _check_root(root, path, node_hash(None if value is None else value_hash(value), children), way)


def check_subtree(root: bytes, path: str, values: Mapping[str, bytes], way: Way) -> None:
    """Check that these are all values on a path and below it; none is a claim, too.

    Args:
        root: State root of a verified block.
        path: Where the subtree begins.
        values: Whole path -> the value's bytes.
        way: The way to ``path``; untrusted.

    Raises:
        InvalidProof: A value lies elsewhere, or all of them together do not lead to the root.
    """
    _check_root(root, path, subtree_hash(path, values), way)


def subtree_hash(path: str, values: Mapping[str, bytes]) -> bytes | None:
    """Return the hash of the node on a path from all values on it and below; None without any.

    Costs four hashes a value or so: its own, its node, its child, and a branch.

    Raises:
        InvalidProof: A value lies elsewhere.
    """
    if not values:
        return None
    top = _Folder()
    for place, value in values.items():
        if place != path and not place.startswith(f"{path}/"):
            raise InvalidProof(f"{place[:200]!r} does not lie below {path}")
        folder = top
        for segment in place[len(path) :].split("/")[1:]:
            folder = folder.children.setdefault(segment, _Folder())
        folder.value = value_hash(value)
    return _folder_hash(top)


def value_hash(value: bytes) -> bytes:
    """Hash the bytes of a value."""
    return hashlib.sha256(b"\x00" + value).digest()


def name_key(name: str) -> bytes:
    """Return the place of a name among its siblings."""
    return hashlib.sha256(name.encode()).digest()


def child_hash(key: bytes, node: bytes) -> bytes:
    """Hash the only child in its part of the trie."""
    return hashlib.sha256(b"\x02" + key + node).digest()


def branch_hash(left: bytes, right: bytes) -> bytes:
    """Hash two parts of the trie."""
    return hashlib.sha256(b"\x03" + left + right).digest()


def node_hash(value: bytes | None, children: bytes) -> bytes:
    """Hash a node from the hash of its value and the root of its children."""
    return hashlib.sha256(b"\x04" + (value or ZERO) + children).digest()


def key_bit(key: bytes, depth: int) -> int:
    """Return the bit that tells children apart at a depth."""
    return key[depth >> 3] >> (7 - (depth & 7)) & 1


def _check_root(root: bytes, path: str, node: bytes | None, way: Way) -> None:
    found = _climb(path, node, way)
    if not hmac.compare_digest(found, root):
        raise InvalidProof(f"the proof for {path} leads to state root {found.hex()}, expected {root.hex()}")


def _climb(path: str, node: bytes | None, way: Way) -> bytes:
    """Return the root that the way leads to, from the node on the path or from its absence."""
    keys = [name_key(segment) for segment in path.split("/")[1:]][: len(way.steps)]
    if len(keys) != len(way.steps) or not keys or (node is not None and len(keys) != path.count("/")):
        raise InvalidProof(f"the way to {path} has {len(way.steps)} steps, the path {path.count('/')} segments")
    _check_shape(keys, node, way)
    hashed = child_hash(keys[-1], node) if node is not None else _end_hash(way.other)
    for depth in reversed(range(len(keys))):
        step = way.steps[depth]
        hashed = node_hash(step.value, _fold(hashed, keys[depth], step.siblings))
        if depth > 0:
            hashed = child_hash(keys[depth - 1], hashed)
    return hashed


def _check_shape(keys: Sequence[bytes], node: bytes | None, way: Way) -> None:
    for step in way.steps:
        _check_hash(*step.siblings, *(() if step.value is None else (step.value,)))
        if len(step.siblings) > KEY_BITS:
            raise InvalidProof(f"a key has {KEY_BITS} bits, the proof has {len(step.siblings)} branches")
    if way.other is None:
        return
    _check_hash(way.other.key, way.other.node)
    if node is not None or way.other.key == keys[-1]:
        raise InvalidProof("a path that exists is not proved by another one")
    shared = range(len(way.steps[-1].siblings))
    if any(key_bit(way.other.key, depth) != key_bit(keys[-1], depth) for depth in shared):
        raise InvalidProof("the other child does not stand where the path would go on")


def _end_hash(other: Other | None) -> bytes:
    return ZERO if other is None else child_hash(other.key, other.node)


def _fold(hashed: bytes, key: bytes, siblings: Sequence[bytes]) -> bytes:
    """Return the root of a trie from the hash at the end of a key's way in it."""
    for depth in reversed(range(len(siblings))):
        other = siblings[depth]
        hashed = branch_hash(other, hashed) if key_bit(key, depth) else branch_hash(hashed, other)
    return hashed


def _folder_hash(folder: _Folder) -> bytes:
    children = sorted((name_key(name), _folder_hash(child)) for name, child in folder.children.items())
    return node_hash(folder.value, _trie_root(children, 0, len(children), 0))


def _trie_root(children: Sequence[Child], first: int, end: int, depth: int) -> bytes:
    """Return the root over ``children[first:end]``, which are in order of their keys and share ``depth`` bits."""
    if end - first <= 1:
        return child_hash(*children[first]) if end > first else ZERO
    middle = bisect_left(children, 1, first, end, key=lambda child: key_bit(child[0], depth))
    return branch_hash(_trie_root(children, first, middle, depth + 1), _trie_root(children, middle, end, depth + 1))


def _check_hash(*values: bytes) -> None:
    for value in values:
        if len(value) != HASH_BYTES:
            raise InvalidProof(f"a hash in the proof is not {HASH_BYTES} bytes")
