"""SQLite as the daemons use it: WAL, FULL synchronous, one connection behind a lock, and a version that is checked."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from polarise.errors import ConfigError, Unavailable

# What the file system refuses: full, unreadable, read-only, not to be opened (sqlite.org/rescode.html, primary codes).
_REFUSALS = {10: "input or output failed", 13: "the disk is full", 8: "it is read-only", 14: "it cannot be opened"}
RETRY_SECONDS = 30


class StorageRefused(Unavailable):
    """The file system does not take what has to be written; nothing of it was kept."""


class Database:
    """One SQLite file.

    Args:
        path: The file; made when missing.
        schema: Statements that make the tables, run when the file is new.
        version: Written as ``PRAGMA user_version``; a file with a newer one is refused.
        upgrades: Version -> statements that bring a file of the version before there. Without them the schema is run
            on an older file too, and must leave alone what is there.

    Raises:
        ConfigError: The file was written by a newer version of this software.
    """

    def __init__(self, path: Path, schema: str, version: int, upgrades: Mapping[int, str] | None = None) -> None:
        self._lock = threading.RLock()
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("PRAGMA foreign_keys=ON")
        self._migrate(path, schema, version, upgrades)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; later use is a defect."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run statements that are all kept, durably, or not at all.

        Raises:
            StorageRefused: The disk is full or fails; nothing was kept.
        """
        with self._lock, self._refusals():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # On a full disk SQLite may have ended the transaction by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def query(self, sql: str, parameters: tuple[object, ...] = ()) -> list[sqlite3.Row]:
        """Return all rows of a SELECT.

        Raises:
            StorageRefused: The disk fails.
        """
        with self._lock, self._refusals():
            return self._connection.execute(sql, parameters).fetchall()

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as err:
            cause = _REFUSALS.get(getattr(err, "sqlite_errorcode", 0) & 0xFF)
            if cause is None:
                raise
            raise StorageRefused(
                f"{self._path.name} cannot be written: {cause}; `df {self._path.parent}` tells",
                retry_after_seconds=RETRY_SECONDS,
            ) from err

    def _migrate(self, path: Path, schema: str, version: int, upgrades: Mapping[int, str] | None) -> None:
        found = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if found > version:
            raise ConfigError(
                f"written by a newer version (format {found}, this one knows {version})",
                origin=str(path),
                allowed="run the newer version, or use another data directory",
            )
        if found < version:
            script = schema
            if upgrades is not None and found > 0:
                script = "; ".join(upgrades[step] for step in range(found + 1, version + 1))
            with self._lock:
                self._connection.executescript(f"BEGIN; {script}; PRAGMA user_version = {version}; COMMIT;")
