"""The log inside one transaction: leaves and checkpoints are added, together with whatever else the owner writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from polarise.checkpoint import Checkpoint, SignedCheckpoint, sign_checkpoint
from polarise.frontier import Frontier
from polarise.merkle import leaf_hash
from polarise.signing import SigningKey

LINE_BYTES_MAX = 65535


class Writer:
    """The log inside one transaction of the store; whoever holds it is the only one who writes."""

    def __init__(self, connection: sqlite3.Connection, origin: str, frontier: Frontier, checkpoints: int) -> None:
        self.connection = connection
        self.frontier = frontier
        self.checkpoints_count = checkpoints
        self._origin = origin

    @property
    def size(self) -> int:
        """Leaves, this transaction's included."""
        return self.frontier.size

    def append(self, line: bytes) -> int:
        """Add one leaf and return its index.

        Raises:
            ValueError: Longer than 65,535 bytes.
        """
        if len(line) > LINE_BYTES_MAX:
            raise ValueError(f"a line has at most {LINE_BYTES_MAX} bytes, got {len(line)}")
        index = self.frontier.size
        self.connection.execute("INSERT INTO leaf VALUES (?, ?)", (index, line))
        self.connection.executemany("INSERT INTO node VALUES (?, ?, ?)", self.frontier.add(leaf_hash(line)))
        return index

    def sign_checkpoint(self, key: SigningKey, extensions: Sequence[str] = ()) -> SignedCheckpoint:
        """Sign the tree as it is now, and store the note."""
        root = self.frontier.root()
        signed = sign_checkpoint(Checkpoint(self._origin, self.size, root, tuple(extensions)), key)
        self.connection.execute(
            "INSERT INTO checkpoint VALUES (?, ?, ?)", (self.checkpoints_count, self.size, signed.raw)
        )
        self.checkpoints_count += 1
        return signed

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo everything inside when it raises; what came before in the transaction stays."""
        frontier, checkpoints = self.frontier.copy(), self.checkpoints_count
        self.connection.execute("SAVEPOINT step")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK TO step")
            self.connection.execute("RELEASE step")
            self.frontier, self.checkpoints_count = frontier, checkpoints
            raise
        self.connection.execute("RELEASE step")
