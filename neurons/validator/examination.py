"""One miner in one epoch: prove each device in each kind, inspect one container, score, and keep the evidence of all of it.

Rules:
- Between its steps it asks whether to stop; a miner whose examination was broken off is not scored.
- One budget holds over all of it; when it is used up, what is left is MISSING.
- A miner that our own address rule keeps us from calling is NOT_MEASURED: that is our setting and not its fault.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from challenges.pow_messages import PowParams
from neurons.validator.budget import Budget, seconds_for
from neurons.validator.chain import Beacon
from neurons.validator.challenges import Challenge, ChallengeGenerator, EpochSecret
from neurons.validator.inspection import Inspector
from neurons.validator.metrics import MetricsHandler, StoredScore
from neurons.validator.proof_round import ProofRound, ProofTrace
from neurons.validator.scoring import ScoringSystem, points
from neurons.validator.telemetry import TelemetryReader
from neurons.validator.verification import Verdict, VerificationEngine
from polarise.answers import printable
from polarise.clients import MinerClient
from polarise.errors import AddressRefused, ProofRejected, RejectReason, Unavailable
from polarise.evidence import (
    EvidenceBundle,
    InspectionEvidence,
    ProofEvidence,
    TelemetryEvidence,
    VerdictRecord,
    openings_digest,
    write_bundle,
)
from polarise.messages import Position
from polarise.registry import RegistryEntry
from polarise.statement import SignedStatement
from utils.clock import Clock

logger = logging.getLogger(__name__)

DEFECT = "this validator failed; nothing was measured"

ClientFactory = Callable[[RegistryEntry], MinerClient]


class Examiner:
    """Examines miners one after another.

    Args:
        validator_key: Our public key.
        generator: Makes challenges.
        rounds: Leads them over the network.
        engine: Judges them.
        inspector: Rents containers; None to leave that out.
        telemetry: Reads the miners' logs; None to leave that out.
        scoring: The rules.
        metrics: Where scores are kept.
        evidence: Folder of the bundles.
        clients: Registry entry -> client.
        clock: Wall clock.
        epoch_seconds: Length of an epoch; bounds what one miner may take of it.
    """

    def __init__(
        self,
        validator_key: str,
        generator: ChallengeGenerator,
        rounds: ProofRound,
        engine: VerificationEngine,
        inspector: Inspector | None,
        telemetry: TelemetryReader | None,
        scoring: ScoringSystem,
        metrics: MetricsHandler,
        evidence: Path,
        clients: ClientFactory,
        clock: Clock,
        *,
        epoch_seconds: int,
    ) -> None:
        self._validator_key = validator_key
        self._generator = generator
        self._rounds = rounds
        self._engine = engine
        self._inspector = inspector
        self._telemetry = telemetry
        self._scoring = scoring
        self._metrics = metrics
        self._evidence = evidence
        self._clients = clients
        self._clock = clock
        self._epoch_seconds = epoch_seconds

    def examine(
        self,
        secret: EpochSecret,
        beacon: Beacon,
        statement: SignedStatement,
        entry: RegistryEntry,
        stop: threading.Event,
    ) -> None:
        """Examine, score and keep one miner; returns without a score when ``stop`` is set on the way."""
        if (refusal := self._own_refusal(entry)) is not None:
            logger.warning(
                "miner not examined: its endpoint is refused by this validator's own rule; "
                "validator.allow_private_endpoints=true allows it",
                extra={"miner_key": statement.signer, "endpoint": entry.endpoint, "cause": refusal},
            )
            self._keep_unmeasured(secret, beacon, statement, entry, f"this validator does not call it: {refusal}"[:400])
            return
        challenges = self._challenges(secret, beacon, statement, entry)
        budget = Budget(
            seconds_for(challenges, target_seconds=self._generator.target_seconds, epoch_seconds=self._epoch_seconds)
        )
        proofs = []
        for challenge in challenges:
            if stop.is_set():
                return
            proofs.append(self._prove(entry, challenge, budget))
        if stop.is_set():
            return
        inspection = self._inspect(entry, budget)
        telemetry = self._telemetry.read(entry) if self._telemetry else None
        self._keep(secret, beacon, statement, tuple(proofs), inspection, telemetry)

    def record_defect(
        self, secret: EpochSecret, beacon: Beacon, statement: SignedStatement, entry: RegistryEntry
    ) -> None:
        """Leave a score of an examination that a defect of ours ended, unless it came that far."""
        newest = self._metrics.newest(statement.signer)
        if newest is None or newest.epoch != secret.epoch:
            self._keep_unmeasured(secret, beacon, statement, entry, DEFECT)

    def _keep_unmeasured(
        self, secret: EpochSecret, beacon: Beacon, statement: SignedStatement, entry: RegistryEntry, message: str
    ) -> None:
        verdict = Verdict(RejectReason.NOT_MEASURED, message)
        proofs = tuple(
            _proof_evidence(challenge, ProofTrace(), verdict)
            for challenge in self._challenges(secret, beacon, statement, entry)
        )
        self._keep(secret, beacon, statement, proofs, None, None)

    def _challenges(
        self, secret: EpochSecret, beacon: Beacon, statement: SignedStatement, entry: RegistryEntry
    ) -> list[Challenge]:
        return [
            challenge
            for index, device in enumerate(entry.hardware.devices)
            for challenge in self._generator.challenges(secret, beacon.value, statement.signer, device, index)
        ]

    def _own_refusal(self, entry: RegistryEntry) -> str | None:
        """Return why our own rule forbids to call a miner; None where it may be called, whether it answers or not."""
        try:
            self._clients(entry).check_address()
        except AddressRefused as err:
            return printable(err.message, 300)
        except Unavailable:
            return None
        return None

    def _prove(self, entry: RegistryEntry, challenge: Challenge, budget: Budget) -> ProofEvidence:
        trace = ProofTrace()
        try:
            self._generator.check_work(challenge)
            self._rounds.run(self._client(entry), challenge, trace, budget)
            verdict = self._engine.verify_resources(challenge, trace)
        except ProofRejected as err:
            verdict = Verdict.of(err)
        _log_verdict(challenge, verdict)
        return _proof_evidence(challenge, trace, verdict)

    def _client(self, entry: RegistryEntry) -> MinerClient:
        try:
            return self._clients(entry)
        except Unavailable as err:
            raise ProofRejected(RejectReason.MISSING, f"the endpoint cannot be called: {printable(err)}"[:400]) from err

    def _inspect(self, entry: RegistryEntry, budget: Budget) -> InspectionEvidence | None:
        if self._inspector is None:
            return None
        try:
            client = self._clients(entry)
        except Unavailable as err:
            return self._inspector.unreachable(err)
        return self._inspector.inspect(client, budget)

    def _keep(
        self,
        secret: EpochSecret,
        beacon: Beacon,
        statement: SignedStatement,
        proofs: tuple[ProofEvidence, ...],
        inspection: InspectionEvidence | None,
        telemetry: TelemetryEvidence | None,
    ) -> None:
        newest = self._metrics.newest(statement.signer)
        previous = newest.record if newest else None
        score = self._scoring.calculate_score(proofs, inspection, previous, telemetry)
        now_unix_ms = self._clock.wall_unix_ms()
        bundle = EvidenceBundle(
            epoch=secret.epoch,
            examined_unix_ms=now_unix_ms,
            validator_key=self._validator_key,
            miner_key=statement.signer,
            registry=statement,
            target_seconds=self._generator.target_seconds,
            opening_key=secret.opening_key.hex(),
            miner_set_root=secret.miner_set_root.hex(),
            challenge_commit=secret.commit.hex(),
            beacon_block=beacon.note,
            proofs=proofs,
            inspection=inspection,
            telemetry=telemetry,
            previous=previous,
            score=score,
        )
        path = self._write(bundle)
        checkpoint = telemetry.checkpoint_hash() if telemetry else None
        self._metrics.record(
            StoredScore(secret.epoch, statement.signer, score, path.stem, now_unix_ms, telemetry=checkpoint)
        )
        if any(proof.commitment for proof in proofs) or (inspection is not None and inspection.receipt):
            self._metrics.mark_seen(statement.signer, now_unix_ms)
        logger.info(
            "miner scored",
            extra={
                "miner_key": statement.signer,
                "score": points(score.score_ppm),
                "is_acceptable": self._scoring.is_score_acceptable(score),
                "reasons": [str(reason) for reason in score.reasons],
                "evidence": path.stem,
            },
        )

    def _write(self, bundle: EvidenceBundle) -> Path:
        try:
            return write_bundle(self._evidence, bundle)
        except ValueError as err:
            # The name stays the same, and a score without its openings is more than no score.
            logger.warning("openings not kept", extra={"miner_key": bundle.miner_key, "cause": str(err)})
            return write_bundle(self._evidence, bundle.without_openings())


def _proof_evidence(challenge: Challenge, trace: ProofTrace, verdict: Verdict) -> ProofEvidence:
    sized = challenge.prepare_request()
    return ProofEvidence(
        kind=sized.kind,
        sizes=sized.sizes,
        challenge_id=challenge.challenge_id,
        device=challenge.device.uuid,
        device_index=challenge.device_index,
        claimed_per_second=challenge.claimed_per_second,
        nonce=challenge.nonce.hex(),
        beacon=challenge.beacon.hex(),
        seed=challenge.seed.hex(),
        rtt_min_ns=trace.rtt_min_ns,
        first_byte_after_ns=trace.first_byte_after_ns,
        last_byte_after_ns=trace.last_byte_after_ns,
        commitment=trace.commitment,
        positions=tuple(Position(round_index=r, tile_row=i, tile_column=j) for r, i, j in trace.positions),
        openings=trace.openings,
        openings_digest=None if trace.openings is None else openings_digest(trace.openings),
        measured_per_second=verdict.measured_per_second,
        verdict=VerdictRecord(
            reason=verdict.reason, message=verdict.message, got=verdict.got, expected=verdict.expected
        ),
    )


def _log_verdict(challenge: Challenge, verdict: Verdict) -> None:
    fields: dict[str, object] = {
        "challenge_id": challenge.challenge_id,
        "miner_key": challenge.miner_key,
        "device": challenge.device.uuid,
        "kind": challenge.kind.value,
    }
    if verdict.verified:
        logger.info(
            "proof verified",
            extra={
                **fields,
                "verify_ms": verdict.verify_ms,
                # How much was recomputed.
                **_checked_count(challenge),
                "measured_per_second": verdict.measured_per_second,
                "claimed_per_second": challenge.claimed_per_second,
            },
        )
        return
    detail = verdict.message
    if verdict.got is not None or verdict.expected is not None:
        detail = f"{detail} (got {verdict.got}, expected {verdict.expected})"
    logger.warning("proof rejected", extra={**fields, "reason": str(verdict.reason), "detail": detail})


def _checked_count(challenge: Challenge) -> dict[str, int]:
    params = challenge.params
    return {"shares": params.shares} if isinstance(params, PowParams) else {"openings": params.openings}
