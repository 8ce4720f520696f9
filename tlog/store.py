"""The log on disk: an append-only SQLite file that is truth, spool, replay and proof store in one.

Rules:
- What `append` returned an index for is on disk (WAL, synchronous FULL); threads that append at once share a commit.
- Leaves, nodes and checkpoints are added and never changed; triggers stop accidents, the signed roots show the rest.
- A checkpoint is stored before it is handed out, so that no restart can sign a smaller or another tree.
- Opening compares the newest checkpoint with the nodes below it; a file that does not fit is refused.
- Readers have a connection of their own and never wait for a disk flush.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from polarise.checkpoint import SignedCheckpoint, parse_checkpoint
from polarise.errors import ConfigError, LogDamaged
from polarise.frontier import Frontier
from polarise.notes import NoteInvalid, parse_note
from polarise.signing import SigningKey
from tlog import tree
from tlog.group_commit import GroupCommit
from tlog.sqlite_file import connect, is_new
from tlog.writer import LINE_BYTES_MAX, Writer

READ_BYTES_MAX = 8 * 1024 * 1024
VERSION = 1

_SCHEMA = """
CREATE TABLE log (origin TEXT NOT NULL);
CREATE TABLE leaf (id INTEGER PRIMARY KEY, line BLOB NOT NULL);
CREATE TABLE node (level INTEGER, id INTEGER, hash BLOB NOT NULL, PRIMARY KEY (level, id)) WITHOUT ROWID;
CREATE TABLE checkpoint (id INTEGER PRIMARY KEY, size INTEGER NOT NULL, note BLOB NOT NULL);
CREATE INDEX checkpoint_size ON checkpoint (size);
"""
_TRIGGER = """
CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
"""
_ADD_ONLY = "".join(
    _TRIGGER.format(table=table, verb=verb)
    for table in ("log", "leaf", "node", "checkpoint")
    for verb in ("UPDATE", "DELETE")
)


class LogStore:
    """One log in one file.

    Args:
        path: The file; made when missing.
        origin: Name of the log; a file of another one is refused.
        schema: Further tables of whoever embeds the log, made with the file.

    Raises:
        ConfigError: The file is of another log, or written by a newer version.
        LogDamaged: The file does not fit its newest checkpoint.
    """

    def __init__(self, path: Path, origin: str, *, schema: str = "") -> None:
        self.path = path
        self.origin = origin
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._write_connection = connect(path)
        _migrate(self._write_connection, path, origin, schema)
        self._read_connection = connect(path)
        self._read_connection.execute("PRAGMA query_only=ON")
        self._group: GroupCommit[Sequence[bytes], int] = GroupCommit(self._write)
        # What is committed; replaced as a whole after each commit, so that readers need no lock.
        self._committed = self._load()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; later use is a defect."""
        with self._writing, self._reading:
            self._write_connection.close()
            self._read_connection.close()

    @property
    def size(self) -> int:
        """Number of durable leaves."""
        return self._committed[0].size

    @property
    def checkpoints_count(self) -> int:
        """Number of checkpoints that were signed."""
        return self._committed[1]

    def append(self, line: bytes) -> int:
        """Add one leaf and return its index once it is durable.

        Raises:
            ValueError: Longer than 65,535 bytes.
        """
        return self.append_many((line,))

    def append_many(self, lines: Sequence[bytes]) -> int:
        """Add leaves that stand together, all or none, and return the index of the first once they are durable."""
        for line in lines:
            if len(line) > LINE_BYTES_MAX:
                raise ValueError(f"a line has at most {LINE_BYTES_MAX} bytes, got {len(line)}")
        return self._group.submit(lines)

    @contextmanager
    def transaction(self) -> Iterator[Writer]:
        """Write leaves, checkpoints and further tables in one durable step; all of it is kept, or nothing."""
        with self._writing:
            frontier, checkpoints = self._committed
            writer = Writer(self._write_connection, self.origin, frontier.copy(), checkpoints)
            self._write_connection.execute("BEGIN IMMEDIATE")
            try:
                yield writer
                self._write_connection.execute("COMMIT")
            except BaseException:
                if self._write_connection.in_transaction:
                    self._write_connection.execute("ROLLBACK")
                raise
            self._committed = (writer.frontier, writer.checkpoints_count)

    def checkpoint(self, key: SigningKey, extensions: Sequence[str] = ()) -> SignedCheckpoint:
        """Sign the log as it is and return the note once it is durable.

        Args:
            key: The log's key; signs under the origin's name.
            extensions: Further lines, none of them empty.
        """
        with self.transaction() as writer:
            return writer.sign_checkpoint(key, extensions)

    def latest_checkpoint(self) -> bytes | None:
        """Return the newest signed note, None before the first."""
        notes = self.checkpoints(max(self.checkpoints_count - 1, 0), 1)
        return notes[0] if notes else None

    def checkpoints(self, first: int, limit: int) -> list[bytes]:
        """Return up to ``limit`` signed notes in the order they were made, starting with number ``first``."""
        rows = self.query(
            "SELECT note FROM checkpoint WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (first, self.checkpoints_count, limit),
        )
        return [bytes(row[0]) for row in rows]

    def read(self, start: int, end: int) -> list[bytes]:
        """Return lines [start, end), fewer when the log ends or 8 MiB are reached first; at least one if it exists."""
        lines: list[bytes] = []
        total = 0
        with self._reading:
            rows = self._read_connection.execute(
                "SELECT line FROM leaf WHERE id >= ? AND id < ? ORDER BY id", (max(start, 0), min(end, self.size))
            )
            for (line,) in rows:
                total += len(line)
                if lines and total > READ_BYTES_MAX:
                    break
                lines.append(bytes(line))
        return lines

    def root(self, size: int | None = None) -> bytes:
        """Return the root over the first ``size`` leaves, all of them when it is left out."""
        return self.frontier(self.size if size is None else size).root()

    def frontier(self, size: int) -> Frontier:
        """Return the right edge of the first ``size`` leaves.

        Raises:
            IndexError: The log is smaller.
        """
        self._require(size)
        return tree.load_frontier(self.node, size)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the inclusion proof of a leaf in the tree of the first ``size`` leaves.

        Raises:
            IndexError: The leaf is not in that tree, or the log is smaller.
        """
        self._require(size)
        return tree.inclusion(self.node, index, size)

    def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """Return the proof that the tree of ``old_size`` leaves is a prefix of the one of ``new_size``.

        Raises:
            IndexError: The sizes are out of order, or the log is smaller.
        """
        self._require(new_size)
        return tree.consistency(self.node, old_size, new_size)

    def node(self, level: int, index: int) -> bytes:
        """Return the root over leaves [index * 2^level, (index + 1) * 2^level).

        Raises:
            LogDamaged: The node is not stored.
        """
        rows = self.query("SELECT CAST(hash AS BLOB) FROM node WHERE level = ? AND id = ?", (level, index))
        if not rows:
            raise LogDamaged(f"node {level}/{index}", "is missing")
        return bytes(rows[0][0])

    def nodes(self, level: int, start: int, end: int) -> list[bytes]:
        """Return the nodes [start, end) of one level, as far as they are complete."""
        rows = self.query(
            "SELECT hash FROM node WHERE level = ? AND id >= ? AND id < ? ORDER BY id",
            (level, start, min(end, self.size >> level)),
        )
        return [bytes(row[0]) for row in rows]

    def query(self, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a SELECT over what is committed."""
        with self._reading:
            return self._read_connection.execute(sql, parameters).fetchall()

    def _write(self, batch: Sequence[Sequence[bytes]]) -> list[int | Exception]:
        with self.transaction() as writer:
            firsts: list[int | Exception] = []
            for lines in batch:
                firsts.append(writer.size)
                for line in lines:
                    writer.append(line)
            return firsts

    def _require(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise IndexError(f"a tree of {size} leaves of a log of {self.size}")

    def _load(self) -> tuple[Frontier, int]:
        """Read size and right edge, and hold them against the newest checkpoint."""
        ((last,),) = self.query("SELECT MAX(id) FROM leaf")
        ((newest,),) = self.query("SELECT MAX(id) FROM checkpoint")
        size = 0 if last is None else int(last) + 1
        frontier = tree.load_frontier(self.node, size)
        notes = self.query("SELECT id, CAST(note AS BLOB) FROM checkpoint ORDER BY id DESC LIMIT 1")
        if notes:
            self._compare(f"checkpoint {notes[0][0]}", bytes(notes[0][1]), size)
        return frontier, 0 if newest is None else int(newest) + 1

    def _compare(self, place: str, raw: bytes, size: int) -> None:
        try:
            signed = parse_checkpoint(parse_note(raw).text)
        except NoteInvalid as err:
            raise LogDamaged(place, str(err)) from err
        if signed.size > size:
            raise LogDamaged(place, f"covers {signed.size} leaves, the file holds {size}")
        found = tree.load_frontier(self.node, signed.size).root()
        if found != signed.root:
            raise LogDamaged(place, f"signed root {signed.root.hex()}, the nodes give {found.hex()}")


def _migrate(connection: sqlite3.Connection, path: Path, origin: str, schema: str) -> None:
    if is_new(connection, path, VERSION):
        (literal,) = connection.execute("SELECT quote(?)", (origin,)).fetchone()
        connection.executescript(
            f"BEGIN; {_SCHEMA} {_ADD_ONLY} {schema} "  # noqa: S608  the origin was quoted by SQLite itself
            f"INSERT INTO log VALUES ({literal}); PRAGMA user_version = {VERSION}; COMMIT;"
        )
    stored = connection.execute("SELECT origin FROM log").fetchone()[0]
    if stored != origin:
        raise ConfigError(
            f"this is the log {stored!r}, expected {origin!r}",
            origin=str(path),
            allowed="the data directory of this log, or a new one",
        )
