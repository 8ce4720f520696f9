"""The Merkle tree of a growing log, read from stored nodes: roots and proofs in O(log n) look-ups.

Rules:
- Stored is node (level, index): the root over leaves [index * 2^level, (index + 1) * 2^level), once all of them exist.
  Such a node never changes, so the store only ever adds.
- Every function is pure over a `ReadNode`; the shapes are those of RFC 9162 section 2.1.
"""

from __future__ import annotations

from collections.abc import Callable

from polarise.frontier import Frontier
from polarise.merkle import node_hash

ReadNode = Callable[[int, int], bytes]


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
