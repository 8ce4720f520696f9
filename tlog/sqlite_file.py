"""SQLite as the logs use it: WAL, FULL synchronous, explicit transactions, and a format version that is checked."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from polarise.errors import ConfigError


def connect(path: Path) -> sqlite3.Connection:
    """Open a file for reading and writing; made with its folder when missing. The caller locks."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def is_new(connection: sqlite3.Connection, path: Path, version: int) -> bool:
    """Tell whether the tables have to be made yet.

    Raises:
        ConfigError: The file was written by a newer version of this software.
    """
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > version:
        raise ConfigError(
            f"written by a newer version (format {found}, this one knows {version})",
            origin=str(path),
            allowed="run the newer version, or use another data directory",
        )
    return found < version
