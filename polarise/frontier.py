"""The right edge of a Merkle tree: enough to add leaves and to know the root, in O(log n) memory.

Whoever reads a log from some signed size on keeps one of these: leaf by leaf it is added to, and at the next checkpoint
its root is the signed one or the lines are not the log's.
"""

from __future__ import annotations

from polarise.merkle import EMPTY_ROOT, HASH_BYTES, InvalidProof, node_hash


class Frontier:
    """The complete subtrees under the right edge of a tree: all that is needed to go on adding leaves.

    Args:
        size: Leaves so far.
        nodes: Hashes of the complete subtrees from left to right, one per set bit of ``size``; from a stranger they are
            worth as much as the comparison of `root` with a signed one.

    Raises:
        InvalidProof: Another number or length of hashes.
    """

    def __init__(self, size: int = 0, nodes: tuple[bytes, ...] = ()) -> None:
        if len(nodes) != size.bit_count() or any(len(node) != HASH_BYTES for node in nodes):
            raise InvalidProof(f"the edge of {size} leaves has {size.bit_count()} hashes of {HASH_BYTES} bytes")
        self.size = size
        self._nodes = list(nodes)

    def copy(self) -> Frontier:
        """Return a frontier that goes on by itself."""
        return Frontier(self.size, self.nodes)

    @property
    def nodes(self) -> tuple[bytes, ...]:
        """Hashes of the complete subtrees from left to right."""
        return tuple(self._nodes)

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
