"""One miner in one epoch beside its proofs: inspect one container, read its log, score, and keep the evidence of all of it.

Rules:
- A miner that was not drawn is not inspected; its log is read in every epoch.
- Between its steps it asks whether to stop; a miner whose examination was broken off is not scored.
- One budget holds over the inspection; when it is used up, what is left of it failed.
- A miner that our own address rule keeps us from calling is not called here either. Whose turn it is has declined then:
  where its name leads is the miner's choice, at every moment anew.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from neurons.validator.budget import Budget
from neurons.validator.chain import Beacon
from neurons.validator.challenges import ChallengeGenerator, EpochSecret
from neurons.validator.inspection import Inspector
from neurons.validator.metrics import MetricsHandler, StoredScore
from neurons.validator.opening_files import OpeningFolder
from neurons.validator.scoring import ScoringSystem, points
from neurons.validator.telemetry import TelemetryReader
from neurons.validator.wave import DEFECT
from polarise.clients import MinerClient
from polarise.errors import AddressRefused, RejectReason, Unavailable
from polarise.evidence import (
    DrawEvidence,
    EvidenceBundle,
    InspectionEvidence,
    ProofEvidence,
    RoundEvidence,
    ScoreRecord,
    TelemetryEvidence,
    VerdictRecord,
    write_bundle,
)
from polarise.openings import GoneReason, thrown_away
from polarise.registry import RegistryEntry
from polarise.signing import Identity
from polarise.statement import SignedStatement
from utils.clock import Clock

logger = logging.getLogger(__name__)

ADDRESS_SECONDS = 5.0
INSPECTION_SECONDS = 90.0

ClientFactory = Callable[[RegistryEntry], MinerClient]
_NOTHING_SENT: dict[str, object] = {
    "rtt_min_ns": None,
    "first_byte_after_ns": None,
    "last_byte_after_ns": None,
    "commitment": None,
    "positions": (),
    "openings": None,
    "openings_digest": None,
    "measured_per_second": 0,
    "ordered_unix_ms": None,
    "excuse": None,
    "average": None,
    "flag": None,
}


@dataclass(frozen=True, slots=True)
class Examined:
    """One miner of an epoch, as far as the draw and the round have come.

    Attributes:
        statement: Its signed registry entry.
        entry: The same, opened.
        draw: Whether it is proven and inspected.
        previous: Its score before.
        proofs: What the round found; none where it was not drawn.
        round: The round; None where it was not drawn.
    """

    statement: SignedStatement
    entry: RegistryEntry
    draw: DrawEvidence
    previous: ScoreRecord | None
    proofs: tuple[ProofEvidence, ...] = ()
    round: RoundEvidence | None = None


class Examiner:
    """Examines miners; several at a time.

    Args:
        identity: The validator's.
        generator: Made the challenges.
        inspector: Rents containers; None to leave that out.
        telemetry: Reads the miners' logs; None to leave that out.
        scoring: The rules.
        metrics: Where scores are kept.
        evidence: Folder of the bundles.
        clients: Registry entry -> client.
        clock: Wall clock.
        retention_hours: For how long the openings are shown; every bundle says so.
        openings: Where openings wait for their bundle; they are in the proofs if left out.
    """

    def __init__(
        self,
        identity: Identity,
        generator: ChallengeGenerator,
        inspector: Inspector | None,
        telemetry: TelemetryReader | None,
        scoring: ScoringSystem,
        metrics: MetricsHandler,
        evidence: Path,
        clients: ClientFactory,
        clock: Clock,
        *,
        retention_hours: int,
        openings: OpeningFolder | None = None,
    ) -> None:
        self._identity = identity
        self._openings = openings
        self._retention_hours = retention_hours
        self._generator = generator
        self._inspector = inspector
        self._telemetry = telemetry
        self._scoring = scoring
        self._metrics = metrics
        self._evidence = evidence
        self._clients = clients
        self._clock = clock

    def examine(
        self, secret: EpochSecret, beacon: Beacon, miner: Examined, stop: threading.Event, *, is_called: bool = True
    ) -> None:
        """Examine, score and keep one miner; returns without a score when ``stop`` is set on the way.

        Args:
            secret: The epoch's key.
            beacon: The epoch's randomness.
            miner: As drawn and proven.
            stop: Whether to give up.
            is_called: Whether there is time to inspect it and to read its log; if not, neither was measured.
        """
        if stop.is_set():
            return
        if not is_called:
            logger.info("miner not examined: its turn did not come", extra={"miner_key": miner.entry.node_key})
            self._keep(secret, beacon, miner, None, None)
            return
        if self._is_refused(miner.entry):
            declined = self._inspector.refused() if self._inspector and miner.draw.is_inspected else None
            self._keep(secret, beacon, miner, declined, None)
            return
        inspection = self._inspect(miner.entry) if miner.draw.is_inspected else None
        if stop.is_set():
            return
        telemetry = self._telemetry.read(miner.entry) if self._telemetry else None
        self._keep(secret, beacon, miner, inspection, telemetry)

    def record_defect(self, secret: EpochSecret, beacon: Beacon, miner: Examined) -> None:
        """Leave a score of an examination that a defect of ours ended, unless it came that far."""
        newest = self._metrics.newest(miner.statement.signer)
        if newest is not None and newest.epoch == secret.epoch:
            return
        try:
            self._keep(secret, beacon, miner, None, None)
        except Exception:  # the supervisor's last try: a miner without a score would make the whole record wrong
            logger.exception("evidence not kept", extra={"miner_key": miner.statement.signer})
            self._keep(secret, beacon, replace(miner, proofs=tuple(map(_bare, miner.proofs))), None, None)

    def _is_refused(self, entry: RegistryEntry) -> bool:
        """Whether our own rule forbids to call a miner; the round has said so in the log."""
        if self._inspector is None and self._telemetry is None:
            return False  # nobody is going to be called
        try:
            self._clients(entry).addresses(ADDRESS_SECONDS)
        except AddressRefused:
            return True
        except Unavailable:
            return False
        return False

    def _inspect(self, entry: RegistryEntry) -> InspectionEvidence | None:
        if self._inspector is None:
            return None
        try:
            client = self._clients(entry)
        except Unavailable as err:
            return self._inspector.unreachable(err)
        return self._inspector.inspect(client, Budget(INSPECTION_SECONDS), entry.hardware)

    def _keep(
        self,
        secret: EpochSecret,
        beacon: Beacon,
        miner: Examined,
        inspection: InspectionEvidence | None,
        telemetry: TelemetryEvidence | None,
    ) -> None:
        score = self._scoring.calculate_score(miner.proofs, inspection, miner.previous, telemetry, draw=miner.draw)
        now_unix_ms = self._clock.wall_unix_ms()
        bundle = EvidenceBundle(
            epoch=secret.epoch,
            examined_unix_ms=now_unix_ms,
            validator_key=self._identity.public_key,
            miner_key=miner.statement.signer,
            registry=miner.statement,
            target_seconds=self._generator.target_seconds,
            opening_key=secret.opening_key.hex(),
            miner_set_root=secret.miner_set_root.hex(),
            challenge_commit=secret.commit.hex(),
            beacon_block=beacon.note,
            proofs=miner.proofs,
            inspection=inspection,
            telemetry=telemetry,
            previous=miner.previous,
            score=score,
            draw=miner.draw,
            round=miner.round,
            retention_hours=self._retention_hours,
        )
        bundle = self._with_openings(bundle)
        path = self._write(bundle)
        self._record(bundle, path.stem)
        self._drop_openings(bundle)
        logger.info(
            "miner scored",
            extra={
                "miner_key": miner.statement.signer,
                "score": points(score.score_ppm),
                "is_acceptable": self._scoring.is_score_acceptable(score),
                "is_proven": miner.draw.is_proven,
                "reasons": [str(reason) for reason in score.reasons],
                "evidence": path.stem,
            },
        )

    def _record(self, bundle: EvidenceBundle, name: str) -> None:
        now_unix_ms = bundle.examined_unix_ms
        checkpoint = bundle.telemetry.checkpoint_hash() if bundle.telemetry else None
        self._metrics.record(
            StoredScore(bundle.epoch, bundle.miner_key, bundle.score, name, now_unix_ms, telemetry=checkpoint),
            has_openings=any(proof.openings is not None for proof in bundle.proofs),
        )
        has_proven = any(proof.commitment for proof in bundle.proofs)
        if has_proven or (bundle.inspection is not None and bundle.inspection.receipt):
            self._metrics.mark_seen(bundle.miner_key, now_unix_ms)

    def _with_openings(self, bundle: EvidenceBundle) -> EvidenceBundle:
        """Bring in the openings and excuses that lie in files; those of one miner are in memory at a time."""
        if self._openings is None:
            return bundle
        proofs = tuple(_whole(proof, self._openings) for proof in bundle.proofs)
        return bundle.model_copy(update={"proofs": proofs})

    def _drop_openings(self, bundle: EvidenceBundle) -> None:
        if self._openings is not None:
            for proof in bundle.proofs:
                self._openings.drop(proof.challenge_id)

    def _write(self, bundle: EvidenceBundle) -> Path:
        try:
            return write_bundle(self._evidence, bundle)
        except ValueError as err:
            # The name stays the same, and a score without its openings is more than no score.
            logger.warning("openings not kept", extra={"miner_key": bundle.miner_key, "cause": str(err)})
            bare = thrown_away(self._identity, bundle, GoneReason.SIZE, bundle.examined_unix_ms)
            return write_bundle(self._evidence, bare)


def _whole(proof: ProofEvidence, folder: OpeningFolder) -> ProofEvidence:
    """Return a proof with what lies in files of it."""
    found: dict[str, object] = {}
    if proof.openings is None and proof.openings_digest is not None:
        found["openings"] = folder.read(proof.challenge_id, proof.openings_digest)
    # Both stamps are kept where a commitment came that can be kept, and nowhere else.
    if proof.commitment is None and proof.last_byte_after_ns is not None:
        found["commitment"] = folder.read_commitment(proof.challenge_id)
    # The stamp of an order is kept where an excuse stands beside it, and nowhere else.
    if proof.excuse is None and proof.ordered_unix_ms is not None:
        found["excuse"] = folder.read_excuse(proof.challenge_id)
    return proof.model_copy(update=found)


def _bare(proof: ProofEvidence) -> ProofEvidence:
    """Return a proof without anything its miner sent: not measured, or as missing as it was."""
    is_missing = proof.verdict.reason is RejectReason.MISSING
    defect = VerdictRecord(reason=RejectReason.NOT_MEASURED, message=DEFECT)
    return proof.model_copy(update={**_NOTHING_SENT, "verdict": proof.verdict if is_missing else defect})
