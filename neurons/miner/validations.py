"""What this miner was asked to prove, by whom, how far it came, what it worked, and the verdicts on it.

Rules:
- Challenges and verdicts are for the operator. Work is what the share of an hour is counted from (`duty`), which is why
  it stands apart: no validator that sends many challenges, or one name twice, can push it out. Nor can it push out the
  orders that another one gave (`orders`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neurons.base.database import Database
from neurons.miner.duty import WINDOW_MS, Work

_WORK = """
CREATE TABLE IF NOT EXISTS work (
    device TEXT NOT NULL,
    began_unix_ms INTEGER NOT NULL,
    work_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS work_by_device ON work (device, began_unix_ms)
"""
# Whose work it was is known from version 4 on.
_WORK_BY = "ALTER TABLE work ADD COLUMN validator_key TEXT NOT NULL DEFAULT ''"
_ORDERS = """
CREATE TABLE IF NOT EXISTS challenge_order (
    device TEXT NOT NULL,
    validator_key TEXT NOT NULL,
    challenge_id TEXT NOT NULL,
    ordered_unix_ms INTEGER NOT NULL,
    work_ms INTEGER NOT NULL,
    statement TEXT NOT NULL,
    received_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (device, validator_key, challenge_id)
) WITHOUT ROWID
"""
_VALIDATIONS = """
CREATE TABLE IF NOT EXISTS validation (
    challenge_id TEXT PRIMARY KEY,
    validator_key TEXT NOT NULL,
    device TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    prepared_unix_ms INTEGER NOT NULL,
    work_ms INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS verdict (
    validator_key TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    statement TEXT NOT NULL,
    received_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (validator_key, epoch)
) WITHOUT ROWID
"""
_SCHEMA = f"""
{_VALIDATIONS};
{_WORK};
{_WORK_BY};
{_ORDERS}
"""
# What an older version worked in the last hour counts too.
_WORK_OF_VERSION_2 = (
    "INSERT INTO work SELECT device, prepared_unix_ms, work_ms FROM validation WHERE work_ms IS NOT NULL"
)
_UPGRADES = {2: f"{_VALIDATIONS}", 3: f"{_WORK}; {_WORK_OF_VERSION_2}", 4: f"{_WORK_BY}; {_ORDERS}"}
KEPT = 10_000
# Of one validator for one device, and for how long; what is shown is of the last hour by the validators' clocks.
ORDERS_KEPT = 128
ORDERS_KEPT_MS = 2 * WINDOW_MS
# Per validator; who may send any stands on the miner's list of validators.
VERDICTS_KEPT = 100


@dataclass(frozen=True, slots=True)
class Validation:
    """One challenge as the miner saw it.

    Attributes:
        challenge_id: The validator's name for it.
        validator_key: Who asked.
        device: Which device had to prove.
        kind: Which proof.
        state: prepared, committed (where a proof of work ends), opened or failed: with the cause behind a colon.
        prepared_unix_ms: When it was prepared.
        work_ms: Time of the work on this side; None before its end.
    """

    challenge_id: str
    validator_key: str
    device: str
    kind: str
    state: str
    prepared_unix_ms: int
    work_ms: int | None


@dataclass(frozen=True, slots=True)
class KeptVerdict:
    """One verdict as it came.

    Attributes:
        validator_key: Who judged.
        epoch: The validator's epoch number.
        statement: The signed statement, canonical JSON.
        received_unix_ms: When it came.
    """

    validator_key: str
    epoch: int
    statement: str
    received_unix_ms: int


@dataclass(frozen=True, slots=True)
class KeptOrder:
    """One order that started the clock.

    Attributes:
        device: Which device had to prove.
        validator_key: Who ordered.
        challenge_id: The validator's name for it.
        ordered_unix_ms: When, by the validator's clock.
        work_ms: How long the work takes by the claim.
        statement: The signed statement, canonical JSON.
    """

    device: str
    validator_key: str
    challenge_id: str
    ordered_unix_ms: int
    work_ms: int
    statement: str


class ValidationTracker(Database):
    """The newest ten thousand challenges of one node, the newest hundred verdicts of each validator, the hour's orders."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA, version=4, upgrades=_UPGRADES)

    def record(self, validation: Validation) -> None:
        """Keep a new challenge and drop the oldest beyond the bound."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO validation VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    validation.challenge_id,
                    validation.validator_key,
                    validation.device,
                    validation.kind,
                    validation.state,
                    validation.prepared_unix_ms,
                    validation.work_ms,
                ),
            )
            connection.execute(
                "DELETE FROM validation WHERE challenge_id IN (SELECT challenge_id FROM validation "
                "ORDER BY prepared_unix_ms DESC LIMIT -1 OFFSET ?)",
                (KEPT,),
            )

    def advance(self, challenge_id: str, state: str, *, work: Work | None = None) -> None:
        """Say how far a challenge came, and what was worked for it, which counts for the device's share of an hour."""
        work_ms = None if work is None else work.work_ms
        with self.transaction() as connection:
            connection.execute(
                "UPDATE validation SET state = ?, work_ms = COALESCE(?, work_ms) WHERE challenge_id = ?",
                (state, work_ms, challenge_id),
            )
            if work is not None:
                connection.execute(
                    "INSERT INTO work VALUES (?, ?, ?, ?)",
                    (work.device, work.began_unix_ms, work.work_ms, work.validator_key),
                )
                connection.execute("DELETE FROM work WHERE began_unix_ms < ?", (work.began_unix_ms - 2 * WINDOW_MS,))

    def work_since(self, device: str, unix_ms: int) -> list[Work]:
        """Return what a device has worked from this instant on; work that began earlier is not looked for."""
        rows = self.query("SELECT * FROM work WHERE device = ? AND began_unix_ms >= ?", (device, unix_ms))
        return [Work(*tuple(row)) for row in rows]

    def keep_order(self, order: KeptOrder, now_unix_ms: int) -> None:
        """Keep an order, and drop what is old or beyond the bound."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO challenge_order VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    order.device,
                    order.validator_key,
                    order.challenge_id,
                    order.ordered_unix_ms,
                    order.work_ms,
                    order.statement,
                    now_unix_ms,
                ),
            )
            connection.execute(
                "DELETE FROM challenge_order WHERE received_unix_ms < ?", (now_unix_ms - ORDERS_KEPT_MS,)
            )
            connection.execute(
                "DELETE FROM challenge_order WHERE device = ? AND validator_key = ? AND challenge_id IN ("
                "SELECT challenge_id FROM challenge_order WHERE device = ? AND validator_key = ? "
                "ORDER BY received_unix_ms DESC, challenge_id LIMIT -1 OFFSET ?)",
                (order.device, order.validator_key, order.device, order.validator_key, ORDERS_KEPT),
            )

    def orders_since(self, device: str, unix_ms: int) -> list[KeptOrder]:
        """Return the orders for a device of this instant on, by the clocks of those who gave them."""
        rows = self.query(
            "SELECT device, validator_key, challenge_id, ordered_unix_ms, work_ms, statement FROM challenge_order "
            "WHERE device = ? AND ordered_unix_ms >= ?",
            (device, unix_ms),
        )
        return [KeptOrder(*tuple(row)) for row in rows]

    def find(self, challenge_id: str) -> Validation | None:
        """Return one challenge, or None when it was never here or is forgotten."""
        rows = self.query("SELECT * FROM validation WHERE challenge_id = ?", (challenge_id,))
        return Validation(*tuple(rows[0])) if rows else None

    def newest(self, count: int) -> list[Validation]:
        """Return the newest challenges, newest first."""
        rows = self.query("SELECT * FROM validation ORDER BY prepared_unix_ms DESC LIMIT ?", (count,))
        return [Validation(*tuple(row)) for row in rows]

    def keep_verdict(self, verdict: KeptVerdict) -> KeptVerdict:
        """Keep a verdict unless one of that validator and epoch is there already; returns the one that is kept."""
        key = (verdict.validator_key, verdict.epoch)
        with self.transaction() as connection:
            found = connection.execute("SELECT * FROM verdict WHERE validator_key = ? AND epoch = ?", key).fetchone()
            if found is not None:
                return KeptVerdict(*tuple(found))
            connection.execute(
                "INSERT INTO verdict VALUES (?, ?, ?, ?)", (*key, verdict.statement, verdict.received_unix_ms)
            )
            connection.execute(
                "DELETE FROM verdict WHERE validator_key = ? AND epoch IN (SELECT epoch FROM verdict "
                "WHERE validator_key = ? ORDER BY epoch DESC LIMIT -1 OFFSET ?)",
                (verdict.validator_key, verdict.validator_key, VERDICTS_KEPT),
            )
        return verdict

    def newest_verdicts(self) -> list[KeptVerdict]:
        """Return the newest verdict of each validator, by validator key."""
        rows = self.query(
            "SELECT * FROM verdict WHERE epoch = (SELECT MAX(epoch) FROM verdict AS other "
            "WHERE other.validator_key = verdict.validator_key) ORDER BY validator_key"
        )
        return [KeptVerdict(*tuple(row)) for row in rows]
