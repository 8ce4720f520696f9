"""What leases have used, and the signed statement of each that is over: kept in the journal, beside the leases.

Rules:
- A reading is added in one transaction with the sums it changes, so that no crash counts it twice.
- The final statement is written in the transaction that drops the lease: one per lease, and none is ever lost.
- A lease that nobody ever got has no statement.
- Statements are kept for 90 days, the newest 1,000 of a renter and 20,000 of all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from neurons.miner.journal import Journal
from neurons.miner.lease import Lease, LeaseId
from neurons.miner.meter import Meter, Reading, whole
from polarise.signing import Identity
from polarise.statement import SignedStatement, sign_statement
from polarise.usage import STATEMENT_KIND, DeviceUsage, Usage

KEPT_MS = 90 * 86400 * 1000
KEPT_PER_RENTER_MAX = 1_000
KEPT_MAX = 20_000
_MIB_SECOND = (1 << 20) * 1000


class UsageBook:
    """The meters and statements of one node.

    Args:
        journal: Where they stand.
        identity: Signs statements with its statement subkey.
    """

    def __init__(self, journal: Journal, identity: Identity) -> None:
        self._journal = journal
        self._identity = identity

    def begin(self, connection: sqlite3.Connection, lease: Lease, first: Reading) -> None:
        """Begin to count, in the transaction that hands the lease out.

        Args:
            connection: Of that transaction.
            lease: Which.
            first: A reading at this moment; what its source counted before is not the lease's.
        """
        _write(connection, lease.lease_id, Meter(first.wall_unix_ms, first))

    def record(self, readings: Mapping[LeaseId, tuple[Reading, int]]) -> None:
        """Add readings, each with the milliseconds its lease is past its expiry; a lease that is gone is left out."""
        with self._journal.transaction() as connection:
            for lease_id, (reading, overdue_ms) in readings.items():
                row = connection.execute("SELECT created_unix_ms FROM lease WHERE lease_id = ?", (lease_id,)).fetchone()
                if row is None:
                    continue
                found = _read(connection, lease_id)
                if found is None:
                    # Handed out by a version that did not count: its counters are all there, its time begins now.
                    unread = Reading(reading.source, reading.boot_id, reading.boot_ms - 1, reading.wall_unix_ms)
                    found = Meter(int(row["created_unix_ms"]), unread)
                _write(connection, lease_id, found.advanced(reading, overdue_ms=overdue_ms))

    def meter(self, lease_id: LeaseId) -> Meter | None:
        """Return the sums of a lease; None when nothing was counted yet."""
        rows = self._journal.query("SELECT meter FROM usage WHERE lease_id = ?", (lease_id,))
        return Meter.from_json(rows[0]["meter"]) if rows else None

    def interim(self, lease: Lease) -> SignedStatement | None:
        """Sign what a lease has used so far; None when nothing was counted yet."""
        meter = self.meter(lease.lease_id)
        return None if meter is None else self._sign(lease, meter, is_final=False)

    def close(self, connection: sqlite3.Connection, lease: Lease, now_unix_ms: int) -> None:
        """Sign the final statement and keep it, in the transaction that drops the lease."""
        meter = _read(connection, lease.lease_id)
        connection.execute("DELETE FROM usage WHERE lease_id = ?", (lease.lease_id,))
        if meter is None or lease.container_id is None:
            return
        statement = self._sign(lease, meter, is_final=True).model_dump_json()
        row = (lease.lease_id, lease.container_id, lease.renter_key, now_unix_ms, statement)
        connection.execute("INSERT OR IGNORE INTO usage_statement VALUES (?, ?, ?, ?, ?)", row)
        _drop_old(connection, lease.renter_key, now_unix_ms)

    def final(self, lease_id: str) -> SignedStatement | None:
        """Return the final statement of a lease; None when it is not over, or forgotten."""
        return _first(self._journal.query("SELECT * FROM usage_statement WHERE lease_id = ?", (lease_id,)))

    def final_of_container(self, container_id: str) -> tuple[str, SignedStatement] | None:
        """Return renter and final statement by container id, or a prefix of it that fits one alone."""
        rows = self._journal.query(
            "SELECT * FROM usage_statement WHERE container_id >= ? AND container_id < ? LIMIT 2",
            (container_id, container_id + "g"),
        )
        statement = _first(rows) if len(rows) == 1 else None
        return None if statement is None else (str(rows[0]["renter_key"]), statement)

    def _sign(self, lease: Lease, meter: Meter, *, is_final: bool) -> SignedStatement:
        usage = Usage(
            lease_id=lease.lease_id,
            container_id=str(lease.container_id),
            node_key=self._identity.public_key,
            renter_key=lease.renter_key,
            began_unix_ms=meter.began_unix_ms,
            until_unix_ms=meter.last.wall_unix_ms,
            is_final=is_final,
            allocated_ms=meter.allocated_ms,
            cpu_ms=whole(meter.cpu_ns, 1_000_000),
            memory_mib_seconds=whole(meter.memory_byte_ms, _MIB_SECOND),
            network_in_bytes=whole(meter.network_in_bytes),
            network_out_bytes=whole(meter.network_out_bytes),
            devices=tuple(DeviceUsage(uuid=uuid, allocated_ms=meter.allocated_ms) for uuid in lease.devices),
            lost=lease.lost,
        )
        return sign_statement(self._identity, STATEMENT_KIND, usage)


def _read(connection: sqlite3.Connection, lease_id: str) -> Meter | None:
    row = connection.execute("SELECT meter FROM usage WHERE lease_id = ?", (lease_id,)).fetchone()
    return None if row is None else Meter.from_json(row["meter"])


def _write(connection: sqlite3.Connection, lease_id: str, meter: Meter) -> None:
    connection.execute("INSERT OR REPLACE INTO usage VALUES (?, ?)", (lease_id, meter.to_json()))


def _first(rows: list[sqlite3.Row]) -> SignedStatement | None:
    return SignedStatement.model_validate_json(rows[0]["statement"], strict=True) if rows else None


def _drop_old(connection: sqlite3.Connection, renter_key: str, now_unix_ms: int) -> None:
    connection.execute("DELETE FROM usage_statement WHERE ended_unix_ms <= ?", (now_unix_ms - KEPT_MS,))
    connection.execute(
        "DELETE FROM usage_statement WHERE lease_id IN (SELECT lease_id FROM usage_statement WHERE renter_key = ? "
        "ORDER BY ended_unix_ms DESC LIMIT -1 OFFSET ?)",
        (renter_key, KEPT_PER_RENTER_MAX),
    )
    connection.execute(
        "DELETE FROM usage_statement WHERE lease_id IN (SELECT lease_id FROM usage_statement "
        "ORDER BY ended_unix_ms DESC LIMIT -1 OFFSET ?)",
        (KEPT_MAX,),
    )
