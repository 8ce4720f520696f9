"""The right edge of a growing Merkle tree: enough to add leaves and know the root, in log2(n) hashes.

A reader that verified a log up to some size keeps this, and nothing else of the log, to verify what comes next.
"""

from __future__ import annotations

from collections.abc import Sequence

from polarise.merkle import EMPTY_ROOT, HASH_BYTES, InvalidProof, node_hash


class Frontier:
    """Roots of the complete subtrees that a tree of ``size`` leaves falls into, largest first.

    Args:
        size: Number of leaves.
        hashes: One per set bit of ``size``; untrusted ones prove themselves by the root they lead to.

    Raises:
        InvalidProof: Not so many hashes, or one is no hash.
    """

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        if size < 0 or len(hashes) != size.bit_count() or any(len(value) != HASH_BYTES for value in hashes):
            raise InvalidProof(f"a tree of {size} leaves has {max(size, 0).bit_count()} subtrees, got {len(hashes)}")
        self.size = size
        self.hashes: tuple[bytes, ...] = tuple(hashes)

    def add(self, leaf: bytes) -> None:
        """Add one leaf hash: one node hash on average."""
        stack = list(self.hashes)
        rest = self.size
        while rest & 1:
            leaf = node_hash(stack.pop(), leaf)
            rest >>= 1
        self.hashes = (*stack, leaf)
        self.size += 1

    def root(self) -> bytes:
        """Return the root of the tree as it is now."""
        if not self.hashes:
            return EMPTY_ROOT
        node = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            node = node_hash(left, node)
        return node

    def copy(self) -> Frontier:
        """Return one that grows on its own."""
        return Frontier(self.size, self.hashes)
