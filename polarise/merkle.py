"""The SHA-256 Merkle tree of RFC 9162 (the one of RFC 6962): roots, inclusion proofs and consistency proofs.

Rules:
- A leaf is hashed with prefix 0x00 and a node with 0x01, so that no node can be passed off as a leaf.
- A tree of any size is allowed; the last node of an odd level moves up unchanged, which gives the same tree as the
  RFC's "largest power of two smaller than n" split.
- A proof has exactly one valid length for its index and size; a longer or shorter one is refused.
- Functions that build take our own data and raise IndexError or ValueError; functions that verify take anybody's data
  and raise InvalidProof only.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

HASH_BYTES = 32
SIZE_MAX = 1 << 63
EMPTY_ROOT = hashlib.sha256(b"").digest()


class InvalidProof(ValueError):
    """A proof that does not lead to the root; the caller turns it into its own verdict."""


def leaf_hash(data: bytes) -> bytes:
    """Hash one leaf's bytes (RFC 9162 section 2.1.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two child hashes of 32 bytes each (RFC 9162 section 2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf *contents*; the root of no leaves is SHA-256 of nothing."""
    return root_of_hashes([leaf_hash(leaf) for leaf in leaves])


def root_of_hashes(hashes: Sequence[bytes]) -> bytes:
    """Return the root over leaf *hashes*, in n - 1 node hashes."""
    if not hashes:
        return EMPTY_ROOT
    level = list(hashes)
    while len(level) > 1:
        level = _next_level(level)
    return level[0]


def inclusion_proof(hashes: Sequence[bytes], index: int) -> list[bytes]:
    """Return the sibling hashes that lead from one leaf to the root, lowest first.

    Args:
        hashes: Leaf hashes of the whole tree.
        index: Position of the leaf, 0 <= index < len(hashes).

    Raises:
        IndexError: The index is outside the tree.
    """
    if not 0 <= index < len(hashes):
        raise IndexError(f"leaf {index} of a tree of {len(hashes)} leaves")
    proof = []
    level = list(hashes)
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            proof.append(level[sibling])
        level = _next_level(level)
        index >>= 1
    return proof


def inclusion_proof_length(index: int, size: int) -> int:
    """Return how many hashes the only valid proof of leaf `index` in a tree of `size` leaves has."""
    length = 0
    last = size - 1
    while last > 0:
        if index & 1 or index < last:
            length += 1
        index >>= 1
        last >>= 1
    return length


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected_root: bytes) -> None:
    """Check that a leaf hash stands at `index` of the tree with that root (RFC 9162 section 2.1.3.2).

    Args:
        leaf: Leaf hash, 32 bytes; hash the content with `leaf_hash` first.
        index: Claimed position of the leaf.
        size: Number of leaves under the root; must come from a trusted place.
        proof: Sibling hashes, lowest first; untrusted.
        expected_root: The trusted root.

    Raises:
        InvalidProof: Index outside the tree, wrong length, or the hashes lead to another root.
    """
    if not 0 <= index < size <= SIZE_MAX:
        raise InvalidProof(f"leaf {index} is outside a tree of {size} leaves")
    _require_hashes((leaf, *proof))
    expected_length = inclusion_proof_length(index, size)
    if len(proof) != expected_length:
        raise InvalidProof(f"inclusion proof has {len(proof)} hashes, expected {expected_length}")
    siblings = iter(proof)
    node, last = leaf, size - 1
    while last > 0:
        if index & 1:
            node = node_hash(next(siblings), node)
        elif index < last:
            node = node_hash(node, next(siblings))
        index >>= 1
        last >>= 1
    if not hmac.compare_digest(node, expected_root):
        raise InvalidProof(f"inclusion proof leads to root {node.hex()}, expected {expected_root.hex()}")


def consistency_proof(hashes: Sequence[bytes], old_size: int) -> list[bytes]:
    """Return the hashes that show the first `old_size` leaves are a prefix of the tree (RFC 9162 section 2.1.4.1).

    Args:
        hashes: Leaf hashes of the new tree.
        old_size: Size of the old tree, 0 <= old_size <= len(hashes); the proof is empty at both ends.

    Raises:
        ValueError: The old tree is larger than the new one.
    """
    if not 0 <= old_size <= len(hashes):
        raise ValueError(f"old size {old_size} of a tree of {len(hashes)} leaves")
    if old_size in (0, len(hashes)):
        return []
    return _subproof(hashes, old_size, is_old_root_known=True)


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the old tree is a prefix of the new one (RFC 9162 section 2.1.4.2).

    Raises:
        InvalidProof: The sizes go backwards, the length is wrong, or the hashes lead to other roots.
    """
    if not 0 <= old_size <= new_size <= SIZE_MAX:
        raise InvalidProof(f"old size {old_size} and new size {new_size} are out of order")
    _require_hashes(proof)
    if old_size in (0, new_size):
        _check_trivial_consistency(old_size, old_root, new_size, new_root, proof)
        return
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    if not path:
        raise InvalidProof("consistency proof is empty")
    computed_old, computed_new = _walk_consistency(old_size - 1, new_size - 1, path)
    if not hmac.compare_digest(computed_old, old_root):
        raise InvalidProof(f"consistency proof leads to old root {computed_old.hex()}, expected {old_root.hex()}")
    if not hmac.compare_digest(computed_new, new_root):
        raise InvalidProof(f"consistency proof leads to new root {computed_new.hex()}, expected {new_root.hex()}")


def _next_level(level: Sequence[bytes]) -> list[bytes]:
    parents = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    if len(level) % 2:
        parents.append(level[-1])
    return parents


def _require_hashes(values: Sequence[bytes]) -> None:
    for value in values:
        if len(value) != HASH_BYTES:
            raise InvalidProof(f"a hash in the proof is not {HASH_BYTES} bytes")


def _subproof(hashes: Sequence[bytes], old_size: int, *, is_old_root_known: bool) -> list[bytes]:
    size = len(hashes)
    if old_size == size:
        return [] if is_old_root_known else [root_of_hashes(hashes)]
    split = 1 << ((size - 1).bit_length() - 1)
    if old_size <= split:
        left = _subproof(hashes[:split], old_size, is_old_root_known=is_old_root_known)
        return [*left, root_of_hashes(hashes[split:])]
    right = _subproof(hashes[split:], old_size - split, is_old_root_known=False)
    return [*right, root_of_hashes(hashes[:split])]


def _check_trivial_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Two equal trees have equal roots, and the empty tree is a prefix of all; both need no hashes."""
    if proof:
        raise InvalidProof(f"consistency proof from {old_size} to {new_size} has {len(proof)} hashes, expected 0")
    expected = EMPTY_ROOT if old_size == 0 else new_root
    if not hmac.compare_digest(old_root, expected):
        raise InvalidProof(f"old root is {old_root.hex()}, expected {expected.hex()}")
    if new_size == 0 and not hmac.compare_digest(new_root, EMPTY_ROOT):
        raise InvalidProof(f"the root of no leaves is {EMPTY_ROOT.hex()}, got {new_root.hex()}")


def _walk_consistency(old_last: int, new_last: int, path: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Fold the proof into (old root, new root); both start at the largest complete subtree they share."""
    while old_last & 1:
        old_last >>= 1
        new_last >>= 1
    old_node = new_node = path[0]
    for sibling in path[1:]:
        if new_last == 0:
            raise InvalidProof("consistency proof is too long")
        if old_last & 1 or old_last == new_last:
            old_node = node_hash(sibling, old_node)
            new_node = node_hash(sibling, new_node)
            while old_last and not old_last & 1:
                old_last >>= 1
                new_last >>= 1
        else:
            new_node = node_hash(new_node, sibling)
        old_last >>= 1
        new_last >>= 1
    if new_last:
        raise InvalidProof("consistency proof is too short")
    return old_node, new_node
