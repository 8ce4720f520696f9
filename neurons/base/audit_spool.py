"""Lines for a node's audit log that are on their way there: on disk when `put` returns, given out in the order they came.

Rules:
- A line has its ``message_id`` from here on: whoever hands it on twice adds it once.
- Commands on the machine (`note_command`) put lines in beside a running daemon, and without one.
- Putting never raises and waits for nothing but the disk. What the disk does not take, or finds the spool full, is counted,
  and the count stands in the log as soon as there is room.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from neurons.base.database import Database
from polarise.canonical import JsonValue
from polarise.envelope import rfc3339, without_nulls
from polarise.errors import ConfigError, Unavailable

logger = logging.getLogger(__name__)

FILE_NAME = "audit-spool.sqlite"
LINES_MAX = 100_000
BATCH_LINES = 256
_SCHEMA = "CREATE TABLE line (id INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL)"

Event = Mapping[str, JsonValue]


class AuditSpool(Database):
    """The spool of one node.

    Args:
        root: Its data directory.
        lines_max: More are not taken.
    """

    def __init__(self, root: Path, *, lines_max: int = LINES_MAX) -> None:
        super().__init__(root / FILE_NAME, _SCHEMA, version=1)
        self._lines_max = lines_max
        self._lost_count = 0

    def put(self, kind: str, payload: Event) -> None:
        """Add one line; the moment of the call is its date."""
        event = _event(kind, payload)
        try:
            with self.transaction() as connection:
                self._tell_lost(connection)
                _insert(connection, event)
        except (_Full, Unavailable, sqlite3.Error) as err:
            self._lost_count += 1
            logger.error("a line of the audit log is lost", extra={"kind": kind, "cause": str(err)})
            return
        self._lost_count = 0

    def oldest(self) -> list[tuple[int, Event]]:
        """Return the next lines to hand on, with their places."""
        rows = self.query("SELECT id, event FROM line ORDER BY id LIMIT ?", (BATCH_LINES,))
        return [(int(row["id"]), json.loads(row["event"])) for row in rows]

    def drop(self, last: int) -> None:
        """Forget the lines up to this place: they are in the log."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM line WHERE id <= ?", (last,))

    def _tell_lost(self, connection: sqlite3.Connection) -> None:
        ((waiting,),) = connection.execute("SELECT COUNT(*) FROM line").fetchall()
        if waiting >= self._lines_max:
            raise _Full(f"{waiting} lines wait already")
        if self._lost_count:
            lost: Event = {"action": "lines.lost", "outcome": "LOST", "count": self._lost_count}
            _insert(connection, _event("audit.node", lost))


class _Full(Exception):
    """No more lines are taken."""


def _event(kind: str, payload: Event) -> Event:
    return {
        "message_id": str(uuid.uuid4()),
        "kind": kind,
        "date": rfc3339(time.time_ns()),
        "payload": without_nulls(payload),
    }


def _insert(connection: sqlite3.Connection, event: Event) -> None:
    connection.execute("INSERT INTO line (event) VALUES (?)", (json.dumps(event),))


def note_command(root: Path, action: str, payload: Event | None = None) -> None:
    """Say in a node's audit log what somebody did on its machine; a node that never kept one is left alone."""
    if not (root / FILE_NAME).is_file():
        return
    try:
        with AuditSpool(root) as spool:
            spool.put("audit.command", {"action": action, "outcome": "OK", **(payload or {})})
    except (OSError, sqlite3.Error, ConfigError) as err:
        logger.error("a line of the audit log is lost", extra={"kind": "audit.command", "cause": str(err)})
