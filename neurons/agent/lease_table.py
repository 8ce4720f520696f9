"""Which lease has which stream: whose it is, what container it has, and whether it goes on; kept for good."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neurons.base.database import Database

_SCHEMA = """
CREATE TABLE stream (
    lease_id TEXT PRIMARY KEY,
    renter_key TEXT NOT NULL,
    devices TEXT NOT NULL,
    container_id TEXT,
    folders TEXT,
    is_open INTEGER NOT NULL,
    opened_unix_ms INTEGER NOT NULL
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class LeaseStream:
    """What is known about one lease's stream.

    Attributes:
        lease_id: 32 hex digits.
        renter_key: Whose it is.
        devices: UUIDs of the lease's GPUs.
        container_id: Engine's id, None until the container runs.
        folders: Its cgroup folders, see `telemetry.usage.cgroup_folders`.
        is_open: Whether the lease goes on.
    """

    lease_id: str
    renter_key: str
    devices: tuple[str, ...]
    container_id: str | None
    folders: Mapping[str, str]
    is_open: bool


class LeaseTable(Database):
    """All lease streams there ever were on this node."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA, version=1)

    def add(self, lease_id: str, renter_key: str, devices: Sequence[str], opened_unix_ms: int) -> LeaseStream:
        """Write down a new stream, which is open."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO stream VALUES (?, ?, ?, NULL, NULL, 1, ?)",
                (lease_id, renter_key, json.dumps(list(devices)), opened_unix_ms),
            )
        return LeaseStream(lease_id, renter_key, tuple(devices), None, {}, is_open=True)

    def set_renter(self, lease_id: str, renter_key: str) -> LeaseStream:
        """Write down whose a stream is from now on."""
        with self.transaction() as connection:
            connection.execute("UPDATE stream SET renter_key = ? WHERE lease_id = ?", (renter_key, lease_id))
        return self._streams("SELECT * FROM stream WHERE lease_id = ?", lease_id)[0]

    def set_container(self, lease_id: str, container_id: str, folders: Mapping[str, Path]) -> LeaseStream:
        """Write down which container a lease has, and where its cgroup files lie."""
        texts = {name: str(folder) for name, folder in folders.items()}
        with self.transaction() as connection:
            connection.execute(
                "UPDATE stream SET container_id = ?, folders = ? WHERE lease_id = ?",
                (container_id, json.dumps(texts), lease_id),
            )
        return self._streams("SELECT * FROM stream WHERE lease_id = ?", lease_id)[0]

    def end(self, lease_id: str) -> None:
        """Write down that a stream is closed."""
        with self.transaction() as connection:
            connection.execute("UPDATE stream SET is_open = 0 WHERE lease_id = ?", (lease_id,))

    def find(self, lease_id: str) -> LeaseStream | None:
        """Return one stream, open or not."""
        found = self._streams("SELECT * FROM stream WHERE lease_id = ?", lease_id)
        return found[0] if found else None

    def open_streams(self) -> list[LeaseStream]:
        """Return the streams of the leases that go on."""
        return self._streams("SELECT * FROM stream WHERE is_open")

    def _streams(self, sql: str, *parameters: object) -> list[LeaseStream]:
        return [
            LeaseStream(
                lease_id=row["lease_id"],
                renter_key=row["renter_key"],
                devices=tuple(json.loads(row["devices"])),
                container_id=row["container_id"],
                folders=json.loads(row["folders"] or "{}"),
                is_open=bool(row["is_open"]),
            )
            for row in self.query(sql, parameters)
        ]
