"""What this validator found, kept in SQLite: epochs with their opening keys, and a score per epoch and miner.

Rules:
- An opening key is kept before anything is sent; scores and their records are kept for ever.
- Epoch numbers only grow, whatever the wall clock does, across restarts too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neurons.base.database import Database
from neurons.validator.challenges import EpochSecret
from polarise.decode import decode_model
from polarise.evidence import ScoreRecord

FILE_NAME = "scores.sqlite"
_SCHEMA = """
CREATE TABLE epoch (
    epoch INTEGER PRIMARY KEY,
    opening_key BLOB NOT NULL,
    miner_set_root BLOB NOT NULL,
    challenge_commit BLOB NOT NULL,
    started_unix_ms INTEGER NOT NULL,
    finished_unix_ms INTEGER
);
CREATE TABLE score (
    epoch INTEGER NOT NULL REFERENCES epoch (epoch),
    miner_key TEXT NOT NULL,
    score_ppm INTEGER NOT NULL,
    record TEXT NOT NULL,
    evidence TEXT NOT NULL,
    scored_unix_ms INTEGER NOT NULL,
    is_pruned INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (miner_key, epoch)
) WITHOUT ROWID;
CREATE INDEX score_age ON score (is_pruned, scored_unix_ms)
"""


@dataclass(frozen=True, slots=True)
class StoredScore:
    """One row of the scores.

    Attributes:
        epoch: Epoch number.
        miner_key: Who was scored.
        record: The score with its parts and reasons.
        evidence: Name of the evidence bundle.
        scored_unix_ms: When.
    """

    epoch: int
    miner_key: str
    record: ScoreRecord
    evidence: str
    scored_unix_ms: int


class MetricsHandler(Database):
    """Epochs and scores of one validator."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA, version=1)

    def next_epoch(self, wanted: int) -> int:
        """Return the number of the epoch that starts now: the wanted one, or one above the newest."""
        newest = self.query("SELECT MAX(epoch) FROM epoch")[0][0]
        return wanted if newest is None else max(wanted, int(newest) + 1)

    def begin_epoch(self, secret: EpochSecret, started_unix_ms: int) -> None:
        """Keep the epoch's secret, durably."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO epoch VALUES (?, ?, ?, ?, ?, NULL)",
                (secret.epoch, secret.opening_key, secret.miner_set_root, secret.commit, started_unix_ms),
            )

    def finish_epoch(self, epoch: int, finished_unix_ms: int) -> None:
        """Note that every miner of the epoch was examined; its opening key may be shown from now on."""
        with self.transaction() as connection:
            connection.execute("UPDATE epoch SET finished_unix_ms = ? WHERE epoch = ?", (finished_unix_ms, epoch))

    def record(self, score: StoredScore) -> None:
        """Keep one score."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO score VALUES (?, ?, ?, ?, ?, ?, 0)",
                (
                    score.epoch,
                    score.miner_key,
                    score.record.score_ppm,
                    score.record.model_dump_json(),
                    score.evidence,
                    score.scored_unix_ms,
                ),
            )

    def newest(self, miner_key: str) -> StoredScore | None:
        """Return a miner's newest score."""
        return next(iter(self._scores("miner_key = ? ORDER BY epoch DESC LIMIT 1", (miner_key,))), None)

    def newest_of_all(self) -> list[StoredScore]:
        """Return every miner's newest score, best first."""
        found = self._scores("epoch = (SELECT MAX(epoch) FROM score AS other WHERE other.miner_key = score.miner_key)")
        return sorted(found, key=lambda score: (-score.record.score_ppm, score.miner_key))

    def unpruned_before(self, unix_ms: int) -> list[str]:
        """Return the names of bundles older than that whose openings were not thrown away yet."""
        rows = self.query("SELECT evidence FROM score WHERE is_pruned = 0 AND scored_unix_ms < ?", (unix_ms,))
        return [str(row["evidence"]) for row in rows]

    def mark_pruned(self, evidence: str) -> None:
        """Note that a bundle's openings are gone."""
        with self.transaction() as connection:
            connection.execute("UPDATE score SET is_pruned = 1 WHERE evidence = ?", (evidence,))

    def _scores(self, condition: str, parameters: tuple[object, ...] = ()) -> list[StoredScore]:
        rows = self.query(
            f"SELECT epoch, miner_key, record, evidence, scored_unix_ms FROM score WHERE {condition}",  # noqa: S608  ours
            parameters,
        )
        return [
            StoredScore(
                int(row["epoch"]),
                str(row["miner_key"]),
                decode_model(ScoreRecord, str(row["record"]).encode()),
                str(row["evidence"]),
                int(row["scored_unix_ms"]),
            )
            for row in rows
        ]
