"""What this validator found, kept in SQLite: epochs with their opening keys, scores and weights, the miners.

Rules:
- An opening key is kept before anything is sent; scores and their records are kept for ever.
- Epoch numbers only grow, whatever the wall clock does, across restarts too.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neurons.base.database import Database
from neurons.validator.challenges import EpochSecret
from neurons.validator.places import Standing
from polarise.decode import decode_model
from polarise.evidence import ScoreRecord
from polarise.hardware import HardwareClaim
from polarise.rate_average import RateAverage
from polarise.registry import RegistryEntry

FILE_NAME = "scores.sqlite"
Status = Literal["complete", "broken_off"]
_SCHEMA = """
CREATE TABLE IF NOT EXISTS epoch (
    epoch INTEGER PRIMARY KEY,
    opening_key BLOB NOT NULL,
    miner_set_root BLOB NOT NULL,
    challenge_commit BLOB NOT NULL,
    started_unix_ms INTEGER NOT NULL,
    beacon BLOB,
    beacon_height INTEGER,
    finished_unix_ms INTEGER,
    record TEXT,
    status TEXT,
    rules_version INTEGER,
    has_window INTEGER
);
CREATE TABLE IF NOT EXISTS score (
    epoch INTEGER NOT NULL REFERENCES epoch (epoch),
    miner_key TEXT NOT NULL,
    score_ppm INTEGER NOT NULL,
    record TEXT NOT NULL,
    evidence TEXT NOT NULL,
    scored_unix_ms INTEGER NOT NULL,
    telemetry TEXT,
    is_pruned INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (miner_key, epoch)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS score_age ON score (is_pruned, scored_unix_ms);
CREATE INDEX IF NOT EXISTS score_evidence ON score (evidence);
CREATE INDEX IF NOT EXISTS score_epoch ON score (epoch, miner_key);
CREATE TABLE IF NOT EXISTS miner (
    miner_key TEXT PRIMARY KEY,
    endpoint TEXT NOT NULL,
    devices TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    seen_unix_ms INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claim (
    miner_key TEXT PRIMARY KEY,
    hardware TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS weight (
    epoch INTEGER NOT NULL REFERENCES epoch (epoch),
    miner_key TEXT NOT NULL,
    worth_ppb INTEGER NOT NULL,
    weight_ppm INTEGER NOT NULL,
    PRIMARY KEY (epoch, miner_key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rate_averages (
    epoch INTEGER PRIMARY KEY,
    averages TEXT NOT NULL
)
"""


# Until format 4 nothing but tables came, which the schema makes where they are missing.
_UPGRADES = {
    2: _SCHEMA,
    3: _SCHEMA,
    4: "ALTER TABLE epoch ADD COLUMN status TEXT; ALTER TABLE epoch ADD COLUMN rules_version INTEGER; "
    "ALTER TABLE epoch ADD COLUMN has_window INTEGER",
}


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One row of the epochs.

    Attributes:
        epoch: Its number.
        opening_key: 32 bytes; secret until the epoch is finished.
        miner_set_root: 32 bytes.
        challenge_commit: 32 bytes.
        started_unix_ms: When it began.
        beacon: 32 bytes; None before the commitment was final.
        beacon_height: Height of the block.
        finished_unix_ms: When it was recorded; None before.
        record: Digest of its signed record; None before.
        status: How it ended; None before, without a record, and for epochs that older software recorded.
        rules_version: The rules of its record, as far.
        has_window: Whether everybody was to be proven in it; None before the beacon, and for older epochs.
    """

    epoch: int
    opening_key: bytes
    miner_set_root: bytes
    challenge_commit: bytes
    started_unix_ms: int
    beacon: bytes | None
    beacon_height: int | None
    finished_unix_ms: int | None
    record: str | None
    status: Status | None
    rules_version: int | None
    has_window: bool | None

    @property
    def state(self) -> str:
        """How far it has come, or how it ended, in words for people."""
        if self.finished_unix_ms is None:
            return "waits for its beacon" if self.beacon is None else "runs"
        if self.record is None:
            return "no record"
        return "broken off" if self.status == "broken_off" else "finished"


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """How an epoch was recorded.

    Attributes:
        record: Digest of its signed record.
        status: What the record says.
        rules_version: Its rules.
    """

    record: str
    status: Status
    rules_version: int


@dataclass(frozen=True, slots=True)
class StoredScore:
    """One row of the scores.

    Attributes:
        epoch: Epoch number.
        miner_key: Who was scored.
        record: The score with its parts and reasons.
        evidence: Name of the evidence bundle.
        scored_unix_ms: When.
        telemetry: Hash of the newest checkpoint of the miner's log; None when none was read.
    """

    epoch: int
    miner_key: str
    record: ScoreRecord
    evidence: str
    scored_unix_ms: int
    telemetry: str | None = None


@dataclass(frozen=True, slots=True)
class KnownMiner:
    """One miner that stood in the registry at some epoch.

    Attributes:
        miner_key: Its node key.
        endpoint: As registered then.
        devices: Names of its devices, as it claims them.
        epoch: The newest epoch at which it was registered.
        seen_unix_ms: When it last answered an examination; None if it never did.
    """

    miner_key: str
    endpoint: str
    devices: tuple[str, ...]
    epoch: int
    seen_unix_ms: int | None


@dataclass(frozen=True, slots=True)
class KeptEvidence:
    """Where a bundle belongs.

    Attributes:
        epoch: Its epoch.
        is_pruned: Whether its openings were thrown away.
        is_finished: Whether the epoch is over, so that the bundle may leave this node.
    """

    epoch: int
    is_pruned: bool
    is_finished: bool


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """What one miner counted for in an epoch.

    Attributes:
        worth_ppb: Its devices, in billionths of the reference card.
        weight_ppm: Its share of the market.
    """

    worth_ppb: int
    weight_ppm: int


class MetricsHandler(Database):
    """Epochs, scores and miners of one validator."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA, version=4, upgrades=_UPGRADES)

    def next_epoch(self, wanted: int) -> int:
        """Return the number of the epoch that starts now: the wanted one, or one above the newest."""
        newest = self.query("SELECT MAX(epoch) FROM epoch")[0][0]
        return wanted if newest is None else max(wanted, int(newest) + 1)

    def begin_epoch(self, secret: EpochSecret, started_unix_ms: int) -> None:
        """Keep the epoch's secret, durably."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO epoch VALUES (?, ?, ?, ?, ?, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
                (secret.epoch, secret.opening_key, secret.miner_set_root, secret.commit, started_unix_ms),
            )

    def set_beacon(self, epoch: int, beacon: bytes, height: int, *, has_window: bool) -> None:
        """Note the randomness of an epoch and what it draws, durably, before anything is asked with it."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE epoch SET beacon = ?, beacon_height = ?, has_window = ? WHERE epoch = ?",
                (beacon, height, has_window, epoch),
            )

    def finish_epoch(self, epoch: int, finished_unix_ms: int, end: EpochEnd | None) -> None:
        """Note that an epoch is over, and its record if there is one; its opening key may be shown from now on."""
        record, status, rules_version = (end.record, end.status, end.rules_version) if end else (None, None, None)
        with self.transaction() as connection:
            connection.execute(
                "UPDATE epoch SET finished_unix_ms = ?, record = ?, status = ?, rules_version = ? WHERE epoch = ?",
                (finished_unix_ms, record, status, rules_version, epoch),
            )

    def has_complete(self, rules_version: int) -> bool:
        """Whether an epoch by these rules or later ones was completed."""
        return bool(
            self.query("SELECT 1 FROM epoch WHERE status = 'complete' AND rules_version >= ? LIMIT 1", (rules_version,))
        )

    def standing(self, rules_version: int) -> dict[str, Standing]:
        """Return what the miners had in the newest complete epoch by these rules or later ones."""
        rows = self.query(
            "SELECT miner_key, IFNULL(weight_ppm, 0), score_ppm FROM score LEFT JOIN weight USING (epoch, miner_key) "
            "WHERE epoch = (SELECT MAX(epoch) FROM epoch WHERE status = 'complete' AND rules_version >= ?)",
            (rules_version,),
        )
        return {str(row[0]): Standing(int(row[1]), int(row[2])) for row in rows}

    def last_window(self) -> int | None:
        """Return the newest complete epoch in which everybody was proven."""
        rows = self.query("SELECT MAX(epoch) FROM epoch WHERE status = 'complete' AND has_window = 1")
        return None if rows[0][0] is None else int(rows[0][0])

    def epoch(self, epoch: int) -> EpochRow:
        """Return one epoch.

        Raises:
            KeyError: There is none of that number.
        """
        rows = self.query("SELECT * FROM epoch WHERE epoch = ?", (epoch,))
        if not rows:
            raise KeyError(epoch)
        return _epoch_row(rows[0])

    def epochs(self, count: int, before: int = 2**53) -> list[EpochRow]:
        """Return the newest epochs below ``before``, newest first."""
        rows = self.query("SELECT * FROM epoch WHERE epoch < ? ORDER BY epoch DESC LIMIT ?", (before, count))
        return [_epoch_row(row) for row in rows]

    def unfinished(self) -> list[EpochRow]:
        """Return the epochs that were begun and not recorded, oldest first."""
        rows = self.query("SELECT * FROM epoch WHERE finished_unix_ms IS NULL ORDER BY epoch")
        return [_epoch_row(row) for row in rows]

    def last_record(self) -> str | None:
        """Return the digest of the newest signed record."""
        rows = self.query("SELECT record FROM epoch WHERE record IS NOT NULL ORDER BY epoch DESC LIMIT 1")
        return str(rows[0]["record"]) if rows else None

    def scores_of(self, epoch: int) -> list[StoredScore]:
        """Return the scores of one epoch, by miner key."""
        return self._scores("epoch = ? ORDER BY miner_key", (epoch,))

    def record(self, score: StoredScore, *, has_openings: bool = True) -> None:
        """Keep one score, and whether its bundle holds openings that have to go some day."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO score VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    score.epoch,
                    score.miner_key,
                    score.record.score_ppm,
                    score.record.model_dump_json(),
                    score.evidence,
                    score.scored_unix_ms,
                    score.telemetry,
                    not has_openings,
                ),
            )

    def newest(self, miner_key: str) -> StoredScore | None:
        """Return a miner's newest score."""
        return next(iter(self._scores("miner_key = ? ORDER BY epoch DESC LIMIT 1", (miner_key,))), None)

    def newest_of_all(self) -> list[StoredScore]:
        """Return every miner's newest score, best first."""
        found = self._scores("epoch = (SELECT MAX(epoch) FROM score AS other WHERE other.miner_key = score.miner_key)")
        return sorted(found, key=lambda score: (-score.record.score_ppm, score.miner_key))

    def scores_page(self, epoch: int | None, after: str, count: int) -> list[StoredScore]:
        """Return scores of one epoch, or with None the newest of each miner, by miner key from behind ``after``."""
        if epoch is not None:
            return self._scores("epoch = ? AND miner_key > ? ORDER BY miner_key LIMIT ?", (epoch, after, count))
        # One step through the index per miner; without it every score ever given would be read.
        newest = """(miner_key, epoch) IN (
            WITH RECURSIVE key (miner_key, place) AS (
                SELECT (SELECT MIN(miner_key) FROM score WHERE miner_key > ?), 1
                UNION ALL
                SELECT (SELECT MIN(miner_key) FROM score WHERE miner_key > key.miner_key), place + 1
                FROM key WHERE key.miner_key IS NOT NULL AND place < ?
            )
            SELECT miner_key, (SELECT MAX(epoch) FROM score AS other WHERE other.miner_key = key.miner_key)
            FROM key WHERE miner_key IS NOT NULL
        ) ORDER BY miner_key"""
        return self._scores(newest, (after, count))

    def evidence(self, name: str) -> KeptEvidence | None:
        """Return where a bundle belongs; None when no score rests on one of that name."""
        rows = self.query(
            "SELECT score.epoch, is_pruned, finished_unix_ms IS NOT NULL FROM score JOIN epoch USING (epoch) "
            "WHERE evidence = ?",
            (name,),
        )
        return KeptEvidence(int(rows[0][0]), bool(rows[0][1]), bool(rows[0][2])) if rows else None

    def set_registered(self, epoch: int, entries: Iterable[RegistryEntry]) -> None:
        """Note who stood in the registry when an epoch began, and what hardware it claimed."""
        entries = list(entries)
        with self.transaction() as connection:
            connection.executemany(
                "INSERT INTO claim VALUES (?, ?) ON CONFLICT (miner_key) DO UPDATE SET hardware = excluded.hardware",
                [(entry.node_key, entry.hardware.model_dump_json()) for entry in entries],
            )
            connection.executemany(
                "INSERT INTO miner VALUES (?, ?, ?, ?, NULL) ON CONFLICT (miner_key) DO UPDATE SET "
                "endpoint = excluded.endpoint, devices = excluded.devices, epoch = excluded.epoch",
                [
                    (entry.node_key, entry.endpoint, json.dumps([d.name for d in entry.hardware.devices]), epoch)
                    for entry in entries
                ],
            )

    def hardware_of(self, miner_key: str) -> HardwareClaim | None:
        """Return what a miner claimed at the newest epoch at which it was registered."""
        rows = self.query("SELECT hardware FROM claim WHERE miner_key = ?", (miner_key,))
        return decode_model(HardwareClaim, str(rows[0]["hardware"]).encode()) if rows else None

    def set_weights(self, epoch: int, weights: Mapping[str, StoredWeight]) -> None:
        """Keep what each miner counts for in an epoch that ends."""
        with self.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO weight VALUES (?, ?, ?, ?)",
                [(epoch, key, weight.worth_ppb, weight.weight_ppm) for key, weight in weights.items()],
            )

    def weights(self, epoch: int | None = None) -> dict[str, StoredWeight]:
        """Return what each miner counted for in an epoch, or with None in the newest that has weights and was not broken off."""
        newest = "SELECT MAX(epoch) FROM weight JOIN epoch USING (epoch) WHERE status IS NOT 'broken_off'"
        rows = self.query(
            f"SELECT miner_key, worth_ppb, weight_ppm FROM weight WHERE epoch = IFNULL(?, ({newest}))",  # noqa: S608  ours
            (epoch,),
        )
        return {str(row["miner_key"]): StoredWeight(int(row["worth_ppb"]), int(row["weight_ppm"])) for row in rows}

    def mark_seen(self, miner_key: str, unix_ms: int) -> None:
        """Note that a miner answered an examination."""
        with self.transaction() as connection:
            connection.execute("UPDATE miner SET seen_unix_ms = ? WHERE miner_key = ?", (unix_ms, miner_key))

    def miners_page(self, after: str, count: int) -> list[KnownMiner]:
        """Return the miners this validator knows, by miner key from behind ``after``."""
        rows = self.query("SELECT * FROM miner WHERE miner_key > ? ORDER BY miner_key LIMIT ?", (after, count))
        return [
            KnownMiner(row["miner_key"], row["endpoint"], tuple(json.loads(row["devices"])), row["epoch"], row[4])
            for row in rows
        ]

    def averages(self) -> tuple[RateAverage, ...]:
        """Return the usual rates as the newest complete epoch left them."""
        rows = self.query("SELECT averages FROM rate_averages ORDER BY epoch DESC LIMIT 1")
        return tuple(RateAverage.model_validate_json(text) for text in json.loads(rows[0][0])) if rows else ()

    def keep_averages(self, epoch: int, averages: Iterable[RateAverage]) -> None:
        """Keep what the usual rates are after an epoch; the state before stays until the next one."""
        text = json.dumps([average.model_dump_json() for average in averages])
        with self.transaction() as connection:
            connection.execute("DELETE FROM rate_averages WHERE epoch < (SELECT MAX(epoch) FROM rate_averages)")
            connection.execute("INSERT INTO rate_averages VALUES (?, ?)", (epoch, text))

    def drop_averages(self, epoch: int) -> None:
        """Forget what an epoch taught that did not come to its end."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM rate_averages WHERE epoch = ?", (epoch,))

    def unpruned_before(self, unix_ms: int) -> list[str]:
        """Return the names of bundles older than that whose openings were not thrown away yet, oldest first."""
        rows = self.query(
            "SELECT evidence FROM score WHERE is_pruned = 0 AND scored_unix_ms < ? ORDER BY scored_unix_ms", (unix_ms,)
        )
        return [str(row["evidence"]) for row in rows]

    def mark_pruned(self, evidence: str) -> None:
        """Note that a bundle's openings are gone."""
        with self.transaction() as connection:
            connection.execute("UPDATE score SET is_pruned = 1 WHERE evidence = ?", (evidence,))

    def _scores(self, condition: str, parameters: tuple[object, ...] = ()) -> list[StoredScore]:
        rows = self.query(
            f"SELECT epoch, miner_key, record, evidence, scored_unix_ms, telemetry FROM score WHERE {condition}",  # noqa: S608  ours
            parameters,
        )
        return [
            StoredScore(
                int(row["epoch"]),
                str(row["miner_key"]),
                decode_model(ScoreRecord, str(row["record"]).encode()),
                str(row["evidence"]),
                int(row["scored_unix_ms"]),
                row["telemetry"],
            )
            for row in rows
        ]


def _epoch_row(row: sqlite3.Row) -> EpochRow:
    values = dict(row)
    return EpochRow(**{**values, "has_window": None if row["has_window"] is None else bool(row["has_window"])})
