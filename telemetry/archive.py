"""What a puller has verified: the lines, and how far each stream was followed, in one SQLite file.

Lines and cursor move in one transaction, so that after a crash the next pull begins exactly behind the last line kept.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from polarise.errors import ConfigError
from polarise.frontier import Frontier
from polarise.stream import Verified

_VERSION = 2
_SCHEMA = """
CREATE TABLE cursor (origin TEXT PRIMARY KEY, size INTEGER NOT NULL, frontier TEXT NOT NULL, note BLOB NOT NULL);
CREATE TABLE line (origin TEXT, seq INTEGER, line BLOB NOT NULL, PRIMARY KEY (origin, seq)) WITHOUT ROWID;
CREATE TABLE fork (origin TEXT NOT NULL, first BLOB NOT NULL, second BLOB NOT NULL);
"""
# Which of a node's own streams is followed, with its signed word for it and how many lines we hold that it lost.
_LOG_EPOCH = """
CREATE TABLE log_epoch (node_key TEXT NOT NULL, log_epoch INTEGER NOT NULL, lost_lines INTEGER NOT NULL,
                        statement TEXT NOT NULL, PRIMARY KEY (node_key, log_epoch)) WITHOUT ROWID;
"""


class Archive:
    """Verified lines of many streams.

    Args:
        path: The file; made when missing.

    Raises:
        ConfigError: The file was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        found = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if found > _VERSION:
            raise ConfigError(
                f"written by a newer version (format {found}, this one knows {_VERSION})",
                origin=str(path),
                allowed="run the newer version, or use another data directory",
            )
        if found < _VERSION:
            script = _LOG_EPOCH if found else _SCHEMA + _LOG_EPOCH
            self._connection.executescript(f"BEGIN; {script} PRAGMA user_version = {_VERSION}; COMMIT;")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._connection.close()

    def cursor(self, origin: str) -> tuple[Frontier, bytes | None]:
        """Return the tree over everything kept of a stream, and its newest checkpoint."""
        rows = self._query("SELECT size, frontier, note FROM cursor WHERE origin = ?", origin)
        if not rows:
            return Frontier(), None
        size, frontier, note = rows[0]
        return Frontier(int(str(size)), tuple(bytes.fromhex(text) for text in json.loads(str(frontier)))), _bytes(note)

    def keep(self, origin: str, verified: Verified, frontier: Frontier) -> None:
        """Keep lines and move the cursor behind them, durably."""
        hashes = json.dumps([value.hex() for value in frontier.nodes])
        rows = [(origin, verified.first + index, line) for index, line in enumerate(verified.lines)]
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany("INSERT INTO line VALUES (?, ?, ?)", rows)
                self._connection.execute(
                    "INSERT OR REPLACE INTO cursor VALUES (?, ?, ?, ?)",
                    (origin, frontier.size, hashes, verified.signed.raw),
                )
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def keep_fork(self, origin: str, first: bytes, second: bytes) -> None:
        """Keep two notes that contradict each other."""
        with self._lock:
            self._connection.execute("INSERT INTO fork VALUES (?, ?, ?)", (origin, first, second))

    def forks(self, origin: str) -> list[tuple[bytes, bytes]]:
        """Return every contradiction kept of a stream."""
        return [
            (_bytes(a), _bytes(b)) for a, b in self._query("SELECT first, second FROM fork WHERE origin = ?", origin)
        ]

    def log_epoch(self, node_key: str) -> int:
        """Return the log epoch in which a node's own stream is followed, 0 for the first."""
        return int(
            str(self._query("SELECT COALESCE(MAX(log_epoch), 0) FROM log_epoch WHERE node_key = ?", node_key)[0][0])
        )

    def begin_log_epoch(self, node_key: str, log_epoch: int, lost_lines: int, statement: str) -> None:
        """Follow a node's own stream in a later log epoch from now on; its word for it is kept."""
        with self._lock:
            self._connection.execute(
                "INSERT OR IGNORE INTO log_epoch VALUES (?, ?, ?, ?)", (node_key, log_epoch, lost_lines, statement)
            )

    def lines(self, origin: str, first: int, end: int) -> list[bytes]:
        """Return kept lines [first, end)."""
        rows = self._query(
            "SELECT line FROM line WHERE origin = ? AND seq >= ? AND seq < ? ORDER BY seq", origin, first, end
        )
        return [_bytes(row[0]) for row in rows]

    def _query(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"a blob came back as {type(value).__name__}")
    return value
