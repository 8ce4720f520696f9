"""A ledger's file, read and not believed: leaves and signed notes in their order, whoever has the file in use."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from polarise.checkpoint import parse_checkpoint
from polarise.errors import ConfigError, LogDamaged
from polarise.genesis import Genesis
from polarise.notes import NoteInvalid, parse_note


@contextmanager
def open_stored(path: Path, genesis: Genesis) -> Iterator[sqlite3.Connection]:
    """Open the file for reading, in one transaction: its daemon may go on, we see one moment of it.

    Raises:
        ConfigError: There is no such file, or it is of another ledger.
        LogDamaged: SQLite cannot read it, now or while the block runs.
    """
    if not path.is_file():
        raise ConfigError("there is no such file", origin=str(path), allowed="the ledger's file, ledger.sqlite")
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as stored:
        try:
            stored.execute("BEGIN")
            _check_origin(stored, path, genesis)
            yield stored
        except sqlite3.DatabaseError as err:
            raise LogDamaged("file", f"SQLite cannot read it: {err}") from err


def lines(stored: sqlite3.Connection) -> Iterator[bytes]:
    """Yield the bytes of the leaves from the first on."""
    for expected, (index, line) in enumerate(stored.execute("SELECT id, CAST(line AS BLOB) FROM leaf ORDER BY id")):
        if index != expected:
            raise LogDamaged(f"leaf {expected}", "is missing")
        yield bytes(line)


def notes(stored: sqlite3.Connection) -> Iterator[bytes]:
    """Yield the notes of the blocks; number and size beside each must be the signed ones."""
    rows = stored.execute("SELECT id, size, CAST(note AS BLOB) FROM checkpoint ORDER BY id")
    for height, (number, size, note) in enumerate(rows):
        try:
            signed_size = parse_checkpoint(parse_note(bytes(note)).text).size
        except NoteInvalid as err:
            raise LogDamaged(f"block {height}", str(err)) from err
        if number != height or size != signed_size:
            raise LogDamaged(f"block {height}", f"stored as block {number} of size {size}, signed size {signed_size}")
        yield bytes(note)


def _check_origin(stored: sqlite3.Connection, path: Path, genesis: Genesis) -> None:
    (origin,) = stored.execute("SELECT origin FROM log").fetchone()
    if origin != genesis.origin:
        raise ConfigError(
            f"the file is of {origin!r}, the genesis of {genesis.origin!r}",
            origin=str(path),
            allowed="the genesis this ledger was made with",
        )
