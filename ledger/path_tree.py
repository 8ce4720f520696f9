"""The state of the ledger as one hash: a tree of paths in which every write touches only the nodes above it.

Rules:
- node = SHA-256(0x04 | hash of the value or 32 zeroes | root of the children); value hash = SHA-256(0x00 | bytes).
- Children form a binary trie over SHA-256(name): no child is 32 zeroes, a single one is
  SHA-256(0x02 | SHA-256(name) | node), more are SHA-256(0x03 | root of those with the next bit 0 | … with bit 1).
  So a directory of a million names costs about 20 hashes a write, and a proof of one name is as short.
- A node without value and children does not exist; the same values give the same root in whatever order they came.
- Trees are immutable: a snapshot is a reference, undoing a refused step is going back to it.
- The hashes themselves are `polarise.state_proof`'s, so that whoever checks a proof needs nothing of the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TypeAlias

from polarise.state_proof import (
    ZERO,
    Other,
    Step,
    Way,
    branch_hash,
    child_hash,
    key_bit,
    name_key,
    node_hash,
    value_hash,
)


class Node:
    """A path's value and what lies below it; hashed when somebody asks."""

    def __init__(self, value: bytes | None, children: Trie) -> None:
        self.value = value
        self.children = children

    @cached_property
    def hash(self) -> bytes:
        """Hash over value and children."""
        return node_hash(self.value, self.children_root)

    @property
    def children_root(self) -> bytes:
        """Root over the children."""
        return _root(self.children)


class _Leaf:
    """The only child in its part of the trie."""

    __slots__ = ("key", "node")

    def __init__(self, key: bytes, node: Node) -> None:
        self.key = key
        self.node = node


class _Branch:
    """Two or more children, told apart by one bit of their keys."""

    __slots__ = ("_hash", "left", "right")

    def __init__(self, left: Trie, right: Trie) -> None:
        self.left = left
        self.right = right
        self._hash: bytes | None = None

    def root(self) -> bytes:
        if self._hash is None:
            self._hash = branch_hash(_root(self.left), _root(self.right))
        return self._hash


Trie: TypeAlias = "_Leaf | _Branch | None"
EMPTY = Node(None, None)


def set_value(tree: Node, path: str, value: bytes | None) -> Node:
    """Return the tree with another value on one path.

    Args:
        tree: The tree before.
        path: ``/`` and segments.
        value: Its bytes; None takes the path away.
    """
    return _set(tree, path.split("/")[1:], None if value is None else value_hash(value))


def find(tree: Node, path: str) -> tuple[Way, Node | None]:
    """Return the way to a path, for `polarise.state_proof`, and the node there; None when there is none."""
    node, steps = tree, list[Step]()
    for segment in path.split("/")[1:]:
        key, trie, siblings = name_key(segment), node.children, list[bytes]()
        while isinstance(trie, _Branch):
            is_right = key_bit(key, len(siblings))
            siblings.append(_root(trie.left if is_right else trie.right))
            trie = trie.right if is_right else trie.left
        steps.append(Step(node.value, tuple(siblings)))
        if trie is None:
            return Way(tuple(steps)), None
        if trie.key != key:
            return Way(tuple(steps), Other(trie.key, trie.node.hash)), None
        node = trie.node
    return Way(tuple(steps)), node


def _set(node: Node, segments: Sequence[str], value: bytes | None) -> Node:
    if not segments:
        return Node(value, node.children)
    key = name_key(segments[0])
    child = _set(_find(node.children, key, 0) or EMPTY, segments[1:], value)
    if child.value is None and child.children is None:
        return Node(node.value, _remove(node.children, key, 0))
    return Node(node.value, _insert(node.children, _Leaf(key, child), 0))


def _root(trie: Trie) -> bytes:
    if trie is None:
        return ZERO
    if isinstance(trie, _Leaf):
        return child_hash(trie.key, trie.node.hash)
    return trie.root()


def _find(trie: Trie, key: bytes, depth: int) -> Node | None:
    while isinstance(trie, _Branch):
        trie = trie.right if key_bit(key, depth) else trie.left
        depth += 1
    return trie.node if trie is not None and trie.key == key else None


def _insert(trie: Trie, leaf: _Leaf, depth: int) -> Trie:
    if trie is None or (isinstance(trie, _Leaf) and trie.key == leaf.key):
        return leaf
    if isinstance(trie, _Leaf):
        branch = _Branch(None, trie) if key_bit(trie.key, depth) else _Branch(trie, None)
        return _insert(branch, leaf, depth)
    if key_bit(leaf.key, depth):
        return _Branch(trie.left, _insert(trie.right, leaf, depth + 1))
    return _Branch(_insert(trie.left, leaf, depth + 1), trie.right)


def _remove(trie: Trie, key: bytes, depth: int) -> Trie:
    if not isinstance(trie, _Branch):
        return None if trie is not None and trie.key == key else trie
    left, right = trie.left, trie.right
    if key_bit(key, depth):
        right = _remove(right, key, depth + 1)
    else:
        left = _remove(left, key, depth + 1)
    # A single child stands at the highest place where it is alone, whatever stood beside it before.
    if left is None and not isinstance(right, _Branch):
        return right
    if right is None and not isinstance(left, _Branch):
        return left
    return _Branch(left, right)
