"""Ends an epoch: the scores and the signed record go to the ledger, and the opening key may be shown from then on.

Rules:
- Everything is read from the store, so that an epoch broken off by a crash is recorded as what it was at the next start.
- Scores go first: the record, once it stands, speaks of something everybody can read. Every miner that was scored is on a
  page, however many they are.
- Worth and weights follow from the scores and from the hardware that was registered when the epoch began. An epoch that was
  broken off gives nobody a weight: who was scored in it, and who was not, is an accident or a choice.
- An epoch that older software began is recorded by the rules it was scored by.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import polarise
from neurons.validator.chain import Chain
from neurons.validator.metrics import EpochEnd, EpochRow, MetricsHandler, StoredScore, StoredWeight
from neurons.validator.prices import PriceList
from neurons.validator.scoring import RULES_VERSION
from neurons.validator.weights import WEIGHED_WHOLE_SINCE_RULES, MinerWorth, weights_ppm, worth_ppb
from polarise.epoch_record import (
    LINES_MAX,
    STATEMENT_KIND,
    EpochRecord,
    EpochScores,
    ScoreLine,
    ScoreSheet,
    WeighedLine,
    evidence_root,
    pages_of,
)
from polarise.signing import Identity
from polarise.statement import sign_statement
from utils.clock import Clock

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecordFacts:
    """What every record of this validator says alike.

    Attributes:
        config_hash: SHA-256 of the settings that decide an examination.
        uri: Returns where evidence can be fetched; known when the port is.
    """

    config_hash: str
    uri: Callable[[], str]


class EpochRecorder:
    """Writes sheets and records.

    Args:
        identity: Signs the records.
        chain: Takes them to the ledger.
        metrics: What was found.
        facts: What all records say alike.
        clock: Wall clock.
    """

    def __init__(
        self, identity: Identity, chain: Chain, metrics: MetricsHandler, facts: RecordFacts, clock: Clock
    ) -> None:
        self._identity = identity
        self._chain = chain
        self._metrics = metrics
        self._facts = facts
        self._clock = clock
        self._prices = PriceList.load()

    def record_broken_off(self) -> None:
        """Record every epoch that an earlier run of this daemon did not finish."""
        for row in self._metrics.unfinished():
            logger.warning("epoch was broken off", extra={"epoch": row.epoch})
            self._metrics.drop_averages(row.epoch)
            if self._chain.has_commitment(row.epoch):
                self.record(row.epoch, is_complete=False)
            else:
                self.abandon(row.epoch)

    def abandon(self, epoch: int) -> None:
        """End an epoch whose commitment never came to the ledger: it takes no record of it, and none may build on one."""
        self._metrics.finish_epoch(epoch, self._clock.wall_unix_ms(), None)

    def record(self, epoch: int, *, is_complete: bool) -> str:
        """Queue scores and record of an epoch, end it in the store, and return the outbox key of the record."""
        row = self._metrics.epoch(epoch)
        scores = self._post_scores(epoch, is_complete=is_complete)
        record = self._record(row, scores, is_complete=is_complete)
        statement = sign_statement(self._identity, STATEMENT_KIND, record)
        key = self._chain.post_record(epoch, statement)
        end = EpochEnd(statement.digest(), record.status, record.rules_version)
        self._metrics.finish_epoch(epoch, record.finished_unix_ms, end)
        return key

    def _post_scores(self, epoch: int, *, is_complete: bool) -> EpochScores:
        found = self._metrics.scores_of(epoch)
        rules_version = found[0].record.rules_version if found else RULES_VERSION
        if rules_version == 1:
            return self._post_sheet(epoch, found[:LINES_MAX])
        weights = self._weights(found)
        if not is_complete and rules_version >= WEIGHED_WHOLE_SINCE_RULES:
            weights = {key: replace(weight, weight_ppm=0) for key, weight in weights.items()}
        self._metrics.set_weights(epoch, weights)
        pages = pages_of(rules_version, (_weighed_line(score, weights[score.miner_key]) for score in found))
        self._chain.post_scores(epoch, pages)
        return EpochScores.of_pages(pages)

    def _post_sheet(self, epoch: int, found: list[StoredScore]) -> EpochScores:
        sheet = ScoreSheet(rules_version=1, lines=tuple(_line(score) for score in found))
        self._chain.post_sheet(epoch, sheet)
        return EpochScores(sheet.rules_version, sheet.lines)

    def _weights(self, found: list[StoredScore]) -> dict[str, StoredWeight]:
        miners = [MinerWorth(score.miner_key, score.record.score_ppm, self._worth_ppb(score)) for score in found]
        weights = weights_ppm(miners)
        return {miner.miner_key: StoredWeight(miner.worth_ppb, weights[miner.miner_key]) for miner in miners}

    def _worth_ppb(self, score: StoredScore) -> int:
        hardware = self._metrics.hardware_of(score.miner_key)
        return 0 if hardware is None else worth_ppb(self._prices, hardware, score.record)

    def _record(self, row: EpochRow, scores: EpochScores, *, is_complete: bool) -> EpochRecord:
        return EpochRecord(
            net=self._chain.net,
            epoch=row.epoch,
            validator_key=self._identity.public_key,
            status="complete" if is_complete else "broken_off",
            prev=self._metrics.last_record(),
            started_unix_ms=row.started_unix_ms,
            finished_unix_ms=max(self._clock.wall_unix_ms(), row.started_unix_ms),
            miners_count=len(scores.lines),
            challenge_commit=row.challenge_commit.hex(),
            beacon=row.beacon.hex() if row.beacon else None,
            beacon_height=row.beacon_height,
            opening_key=row.opening_key.hex(),
            scores_root=scores.root(),
            challenge_root=evidence_root([line.evidence for line in scores.lines]),
            telemetry_root=evidence_root([line.telemetry for line in scores.lines if line.telemetry]),
            rules_version=scores.rules_version,
            software=polarise.__version__,
            config_hash=self._facts.config_hash,
            uri=self._facts.uri(),
        )


def _weighed_line(score: StoredScore, weight: StoredWeight) -> WeighedLine:
    return WeighedLine(
        **dict(_line(score)),  # the fields of a line, each checked again
        worth_ppb=weight.worth_ppb,
        weight_ppm=weight.weight_ppm,
    )


def _line(score: StoredScore) -> ScoreLine:
    return ScoreLine(
        miner_key=score.miner_key,
        score_ppm=score.record.score_ppm,
        raw_ppm=score.record.raw_ppm,
        reasons=score.record.reasons,
        evidence=score.evidence,
        telemetry=score.telemetry,
    )
