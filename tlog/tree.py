"""The Merkle tree of a growing log, read from stored nodes: roots and proofs in O(log n) look-ups.

Rules:
- Stored is node (level, index): the root over leaves [index * 2^level, (index + 1) * 2^level), once all of them exist.
  Such a node never changes, so the store only ever adds.
- Every function is pure over a `ReadNode`; the shapes are those of RFC 9162 section 2.1.
"""

from __future__ import annotations

from collections.abc import Callable

from polarise.merkle import EMPTY_ROOT, node_hash

ReadNode = Callable[[int, int], bytes]


class Frontier:
    """The complete subtrees under the right edge of a tree: all that is needed to go on adding leaves.

    Args:
        size: Leaves so far.
        nodes: Hashes of the complete subtrees from left to right, one per set bit of ``size``.
    """

    def __init__(self, size: int = 0, nodes: tuple[bytes, ...] = ()) -> None:
        self.size = size
        self._nodes = list(nodes)

    def copy(self) -> Frontier:
        """Return a frontier that goes on by itself."""
        return Frontier(self.size, tuple(self._nodes))

    def add(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Add a leaf hash and return the nodes (level, index, hash) that are complete now, the leaf itself first."""
        completed = [(0, self.size, leaf)]
        node, level, index = leaf, 0, self.size
        while index & 1:
            node = node_hash(self._nodes.pop(), node)
            level, index = level + 1, index >> 1
            completed.append((level, index, node))
        self._nodes.append(node)
        self.size += 1
        return completed

    def root(self) -> bytes:
        """Return the root over all leaves so far."""
        if not self._nodes:
            return EMPTY_ROOT
        *rest, node = self._nodes
        for left in reversed(rest):
            node = node_hash(left, node)
        return node


def load_frontier(read: ReadNode, size: int) -> Frontier:
    """Return the frontier of the first ``size`` leaves."""
    nodes, start = [], 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            nodes.append(read(level, start >> level))
            start += 1 << level
    return Frontier(size, tuple(nodes))


def subtree_root(read: ReadNode, start: int, end: int) -> bytes:
    """Return the root over leaves [start, end), start a multiple of the largest power of two in the range."""
    size = end - start
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return read(level, start >> level)
    split = start + _split(size)
    return node_hash(subtree_root(read, start, split), subtree_root(read, split, end))


def inclusion(read: ReadNode, index: int, size: int) -> list[bytes]:
    """Return the inclusion proof of a leaf, lowest sibling first (RFC 9162 section 2.1.3.1).

    Raises:
        IndexError: The leaf is outside the tree.
    """
    if not 0 <= index < size:
        raise IndexError(f"leaf {index} of a tree of {size} leaves")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        split = start + _split(end - start)
        if index < split:
            proof.append(subtree_root(read, split, end))
            end = split
        else:
            proof.append(subtree_root(read, start, split))
            start = split
    return proof[::-1]


def consistency(read: ReadNode, old_size: int, new_size: int) -> list[bytes]:
    """Return the proof that the old tree is a prefix of the new one (RFC 9162 section 2.1.4.1).

    Raises:
        IndexError: The sizes are out of order.
    """
    if not 0 <= old_size <= new_size:
        raise IndexError(f"old size {old_size} of a tree of {new_size} leaves")
    if old_size in (0, new_size):
        return []
    proof: list[bytes] = []
    start, end, is_prefix = 0, new_size, True
    while old_size != end:
        split = start + _split(end - start)
        if old_size <= split:
            proof.append(subtree_root(read, split, end))
            end = split
        else:
            proof.append(subtree_root(read, start, split))
            start, is_prefix = split, False
    if not is_prefix:
        proof.append(subtree_root(read, start, end))
    return proof[::-1]


def _split(size: int) -> int:
    """Return the largest power of two smaller than ``size``."""
    return 1 << ((size - 1).bit_length() - 1)
