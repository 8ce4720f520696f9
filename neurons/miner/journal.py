"""The journal of leases: what the miner intended, written durably before it acts.

Rules:
- A reservation is a row; inserting it checks capacity in the same transaction, so two requests never share a port,
  a device or a byte.
- On a full disk nothing is granted; leases still change and end, on room that was kept for that (`ballast`).
- A row leaves only when nothing of the lease is left on this host.
- After a crash the journal, the labels and the engine are compared by `neurons.miner.reconcile`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from neurons.base.database import Database, StorageRefused
from neurons.miner.ballast import Ballast
from neurons.miner.journal_schema import SCHEMA, UPGRADES, VERSION
from neurons.miner.lease import Expiry, Lease, LeaseId, LeaseState, PrivatePlace
from polarise.receipt import Limits
from polarise.rented import CountersignedReceipt
from polarise.statement import SignedStatement

# How long and how many Idempotency-Keys of ended leases are remembered: of one renter, so that nobody pushes out
# another's, and of all together.
SPENT_KEY_MS = 24 * 3600 * 1000
SPENT_KEYS_PER_RENTER_MAX = 1_000
SPENT_KEYS_MAX = 20_000

# Writes more in the transaction that changes a lease, or drops it.
Also = Callable[[sqlite3.Connection, Lease], None]
Written = TypeVar("Written")


class Journal(Database):
    """All leases of one node."""

    def __init__(self, path: Path) -> None:
        # Beside the file, for it is that disk which must not be full.
        self.ballast = Ballast(path.parent)
        super().__init__(path, SCHEMA, version=VERSION, upgrades=UPGRADES)

    def reserve(self, decide: Callable[[list[Lease]], Lease]) -> Lease:
        """Insert the lease that ``decide`` makes of all present ones, in one transaction.

        Args:
            decide: Chooses port and devices or raises; nothing is written then. A lease that a slot became takes its row.
        """
        with self.transaction() as connection:
            lease = decide([_lease(row) for row in connection.execute("SELECT * FROM lease")])
            row = _row(lease)
            marks = ", ".join("?" for _ in row)
            connection.execute("DELETE FROM lease WHERE lease_id = ?", (lease.lease_id,))
            connection.execute(f"INSERT INTO lease ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))  # noqa: S608
        return lease

    def change(
        self, lease_id: LeaseId, decide: Callable[[Lease], Lease | None], *, also: Also = lambda *_: None
    ) -> Lease | None:
        """Change a lease to what ``decide`` makes of it, in one transaction, and return it as it is now.

        Args:
            lease_id: Which one.
            decide: Returns the changed lease, or None to leave it as it is; nothing is written when it raises.
            also: Called with the connection and the changed lease, to write more in the same transaction.

        Returns:
            None when the lease is gone or was left as it is.
        """

        def write(connection: sqlite3.Connection) -> Lease | None:
            found = _first(connection.execute("SELECT * FROM lease WHERE lease_id = ?", (lease_id,)).fetchall())
            changed = decide(found) if found else None
            if changed is not None:
                row = _row(changed)
                assignments = ", ".join(f"{name} = ?" for name in row)
                connection.execute(
                    f"UPDATE lease SET {assignments} WHERE lease_id = ?",  # noqa: S608  names come from `_row`
                    (*row.values(), lease_id),
                )
                also(connection, changed)
            return changed

        return self._write(write)

    def update(self, lease: Lease, *, also: Also = lambda *_: None, **changes: object) -> Lease:
        """Change these columns durably, whatever became of the others, and return the lease as it is now."""

        def decide(found: Lease) -> Lease:
            return replace(found, **changes)  # type: ignore[arg-type]  # dataclasses.replace checks the names

        return self.change(lease.lease_id, decide, also=also) or decide(lease)

    def move(self, lease: Lease, pick_port: Callable[[list[Lease]], int]) -> Lease:
        """Give a lease another port, chosen among all present leases in the same transaction."""
        with self.transaction() as connection:
            port = pick_port([_lease(row) for row in connection.execute("SELECT * FROM lease")])
            connection.execute("UPDATE lease SET ssh_port = ? WHERE lease_id = ?", (port, lease.lease_id))
        return replace(lease, ssh_port=port)

    def forget(self, lease_id: LeaseId, now_unix_ms: int, *, also: Also = lambda *_: None) -> None:
        """Drop the row; call it only when nothing of the lease is left.

        Args:
            lease_id: Which one; of a lease that was granted the Idempotency-Key is remembered for a day.
            now_unix_ms: Wall clock.
            also: As in `change`, with the lease that goes; not called when it is gone already.
        """

        def write(connection: sqlite3.Connection) -> None:
            lease = _first(connection.execute("SELECT * FROM lease WHERE lease_id = ?", (lease_id,)).fetchall())
            if lease is None:
                return
            connection.execute("DELETE FROM lease WHERE lease_id = ?", (lease_id,))
            also(connection, lease)
            if lease.container_id is not None and lease.idempotency_key is not None:
                row = (lease.renter_key, lease.idempotency_key, lease.request_digest, now_unix_ms)
                connection.execute("INSERT OR REPLACE INTO spent_key VALUES (?, ?, ?, ?)", row)
                _drop_old_keys(connection, lease.renter_key, now_unix_ms)

        self._write(write)

    def all(self) -> list[Lease]:
        """Return every lease, oldest first."""
        return [_lease(row) for row in self.query("SELECT * FROM lease ORDER BY created_unix_ms, lease_id")]

    def private_numbers(self) -> set[int]:
        """Return the numbers of the private networks that leases are in, come into or have not left yet."""
        return {lease.private.number for lease in self.all() if lease.private is not None}

    def by_id(self, lease_id: LeaseId) -> Lease | None:
        """Return one lease."""
        return _first(self.query("SELECT * FROM lease WHERE lease_id = ?", (lease_id,)))

    def by_device(self, device: str) -> Lease | None:
        """Return the lease that holds a device, in whatever state."""
        return next((lease for lease in self.all() if device in lease.devices), None)

    def by_container(self, container_id: str) -> Lease | None:
        """Return the lease of a container, by its full id or a prefix of at least 12 hex digits.

        A prefix that fits two containers finds none. The caller has checked the pattern.
        """
        rows = self.query("SELECT * FROM lease WHERE substr(container_id, 1, ?) = ?", (len(container_id), container_id))
        return _first(rows) if len(rows) == 1 else None

    def by_idempotency_key(self, renter_key: str, idempotency_key: str) -> Lease | None:
        """Return the lease that an earlier request with the same key made."""
        return _first(
            self.query(
                "SELECT * FROM lease WHERE renter_key = ? AND idempotency_key = ?", (renter_key, idempotency_key)
            )
        )

    def spent_key(self, renter_key: str, idempotency_key: str, now_unix_ms: int) -> str | None:
        """Return the digest of the request that used the key for a lease which is over; None when none is remembered."""
        rows = self.query(
            "SELECT request_digest FROM spent_key WHERE renter_key = ? AND idempotency_key = ? AND ended_unix_ms > ?",
            (renter_key, idempotency_key, now_unix_ms - SPENT_KEY_MS),
        )
        return str(rows[0]["request_digest"]) if rows else None

    def _write(self, write: Callable[[sqlite3.Connection], Written]) -> Written:
        """Write what must not fail for want of room: on a full disk the room that is kept for it is given up."""
        try:
            with self.transaction() as connection:
                return write(connection)
        except StorageRefused:
            if not self.ballast.give_up():
                raise
        with self.transaction() as connection:
            return write(connection)


def _drop_old_keys(connection: sqlite3.Connection, renter_key: str, now_unix_ms: int) -> None:
    connection.execute("DELETE FROM spent_key WHERE ended_unix_ms <= ?", (now_unix_ms - SPENT_KEY_MS,))
    connection.execute(
        "DELETE FROM spent_key WHERE renter_key = ? AND idempotency_key IN (SELECT idempotency_key FROM spent_key "
        "WHERE renter_key = ? ORDER BY ended_unix_ms DESC LIMIT -1 OFFSET ?)",
        (renter_key, renter_key, SPENT_KEYS_PER_RENTER_MAX),
    )
    connection.execute(
        "DELETE FROM spent_key WHERE (renter_key, idempotency_key) IN "
        "(SELECT renter_key, idempotency_key FROM spent_key ORDER BY ended_unix_ms DESC LIMIT -1 OFFSET ?)",
        (SPENT_KEYS_MAX,),
    )


def _first(rows: list[sqlite3.Row]) -> Lease | None:
    return _lease(rows[0]) if rows else None


def _row(lease: Lease) -> dict[str, object]:
    return {
        "lease_id": lease.lease_id,
        "state": str(lease.state),
        "renter_key": lease.renter_key,
        "limits": json.dumps(lease.limits.to_wire()),
        "devices": json.dumps(lease.devices),
        "image": lease.image,
        "ssh_port": lease.ssh_port,
        "nonce": lease.nonce,
        "created_unix_ms": lease.created_unix_ms,
        "expires_unix_ms": lease.expiry.wall_unix_ms,
        "expires_boot_ms": lease.expiry.boot_ms,
        "boot_id": lease.expiry.boot_id,
        "container_id": lease.container_id,
        "image_id": lease.image_id,
        "host_key": lease.host_key,
        "has_password": int(lease.has_password),
        "idempotency_key": lease.idempotency_key,
        "request_digest": lease.request_digest,
        "isolation": lease.isolation,
        "runtime": lease.runtime,
        "countersigned": None if lease.countersigned is None else lease.countersigned.model_dump_json(),
        "consent": None if lease.consent is None else lease.consent.model_dump_json(),
        "address": lease.address,
        "lost": lease.lost,
        "private": None if lease.private is None else json.dumps(asdict(lease.private)),
    }


def _lease(row: sqlite3.Row) -> Lease:
    signed, consent, private = row["countersigned"], row["consent"], row["private"]
    return Lease(
        lease_id=LeaseId(row["lease_id"]),
        state=LeaseState(row["state"]),
        renter_key=row["renter_key"],
        limits=Limits.model_validate_json(row["limits"]),
        devices=tuple(json.loads(row["devices"])),
        image=row["image"],
        ssh_port=row["ssh_port"],
        nonce=row["nonce"],
        created_unix_ms=row["created_unix_ms"],
        expiry=Expiry(row["expires_unix_ms"], row["expires_boot_ms"], row["boot_id"]),
        container_id=row["container_id"],
        image_id=row["image_id"],
        host_key=row["host_key"],
        has_password=bool(row["has_password"]),
        idempotency_key=row["idempotency_key"],
        request_digest=row["request_digest"],
        isolation=row["isolation"],
        runtime=row["runtime"],
        countersigned=None if signed is None else CountersignedReceipt.model_validate_json(signed, strict=True),
        consent=None if consent is None else SignedStatement.model_validate_json(consent, strict=True),
        address=row["address"],
        lost=row["lost"],
        private=None if private is None else PrivatePlace(**json.loads(private)),
    )
