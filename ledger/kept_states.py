"""The states of the newest blocks, kept so that a reader can be shown values under a block that was signed.

Rules:
- A state is a path tree, which never changes: to keep one is to keep a reference.
- As many blocks are kept as a reader of a large subtree needs to come to its end, and as many as a value needs to be
  final. Older states are gone; who needs one replays the ledger.
- After a start the states are built again from the stored values. One that a block did not sign is refused: the file
  does not hold what was signed.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from ledger import path_tree
from ledger.path_tree import Node
from polarise.block import SignedBlock
from polarise.errors import LogDamaged

# With a block every 5 s a reader has five minutes for all pages of a subtree.
KEPT_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class KeptState:
    """One block and its state.

    Attributes:
        block: The block.
        tree: Its path tree, whose hash is the block's state root.
    """

    block: SignedBlock
    tree: Node


class KeptStates:
    """States by height; safe to use from several threads.

    Args:
        final_confirmations: From the genesis.
    """

    def __init__(self, final_confirmations: int) -> None:
        self.count_max = KEPT_BLOCKS + final_confirmations
        self._lock = threading.Lock()
        self._states: dict[int, KeptState] = {}

    def add(self, block: SignedBlock, tree: Node) -> None:
        """Keep the newest block's state, and let go of the oldest."""
        with self._lock:
            self._states[block.block.height] = KeptState(block, tree)
            if len(self._states) > self.count_max:
                del self._states[next(iter(self._states))]

    def at(self, height: int) -> KeptState | None:
        """Return the state of a block, None when it is not kept."""
        with self._lock:
            return self._states.get(height)

    def load(self, connection: sqlite3.Connection, blocks: Sequence[SignedBlock]) -> None:
        """Build the states of the newest blocks from the stored values.

        Args:
            connection: Has the table of values.
            blocks: Blocks in order, each the next of the one before.

        Raises:
            LogDamaged: The values do not lead to a block's state root.
        """
        tree, first = path_tree.EMPTY, -1
        for signed in blocks:
            block = signed.block
            for path, value in _written(connection, first, block.size):
                tree = path_tree.set_value(tree, path, value)
            if tree.hash.hex() != block.state:
                raise LogDamaged(
                    f"block {block.height}", f"signed state root {block.state}, the values give {tree.hash.hex()}"
                )
            self.add(signed, tree)
            first = block.size


def _written(connection: sqlite3.Connection, first: int, end: int) -> list[tuple[str, bytes | None]]:
    """Return the newest value of each path that the leaves [first, end) wrote; the genesis is leaf -1."""
    rows = connection.execute(
        "SELECT path, value, MAX(leaf) FROM value WHERE leaf >= ? AND leaf < ? GROUP BY path", (first, end)
    )
    return [(path, None if value is None else bytes(value)) for path, value, _leaf in rows]
