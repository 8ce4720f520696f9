"""The round of an epoch: all drawn miners prove at once, are verified afterwards, and may be asked again together, once.

Rules:
- All devices of all drawn miners start in one wave per kind, each with a seed of its own, so that no device can answer
  for two. With ``same_host: in_turn`` miners on one host take turns: for tests and demos on one machine.
- Nothing is verified before the last wave is over, and then in other processes.
- Who earns is verified first, and always; what the others sent, as long as there is time for it (NOT_MEASURED).
- Where more than a fifth of the devices that were measured before are MISSING the validator suspects itself: the whole
  round is run again, once, with new seeds, and the second attempt counts for everybody. Nobody is ever asked again alone,
  and who failed in the first attempt, in whatever way, and declines the second is MISSING.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from challenges.hardware import HardwareTable
from challenges.pow_messages import PowParams
from neurons.base.threads import DaemonThreads
from neurons.validator.chain import Beacon
from neurons.validator.challenges import KINDS, Challenge, ChallengeGenerator, EpochSecret
from neurons.validator.drawing import host_of
from neurons.validator.missing import Tally, counting, tally
from neurons.validator.opening_files import CommitmentFile, ExcuseFile, OpeningFile, Openings
from neurons.validator.proof_trace import ProofTrace
from neurons.validator.scoring.standing_3 import NEUTRAL_REASONS
from neurons.validator.turns import in_turn
from neurons.validator.verification import NO_AVERAGES, Averages, Verdict, VerificationEngine, expected_of
from neurons.validator.wave import DEFECT, Ask, Wave
from polarise.answers import printable
from polarise.clients import MinerClient
from polarise.errors import AddressRefused, ProofRejected, RejectReason, Unavailable
from polarise.evidence import ProofEvidence, RoundEvidence, ScoreRecord, VerdictRecord, openings_digest
from polarise.messages import position_of
from polarise.rate_average import RateSample
from polarise.registry import RegistryEntry

logger = logging.getLogger(__name__)

ADDRESS_SECONDS = 5.0
# Between the two attempts: a link that was down, or a daemon that is being started again, has a chance to be back.
AGAIN_AFTER_SECONDS = 20.0
# So much later than the first, no proof of a miner is checked any more that earns nothing: what a key without weight sends
# can take a second of one core per device to check, and keys cost nothing. Two cores check 600 devices at least.
VERIFY_TURN_SECONDS = 300.0
# How the verdict on a device begins that our own address rule forbids to call.
UNCALLED = "this validator does not call it: "
# What a miner can answer a challenge with, instead of proving.
DECLINES = frozenset({RejectReason.DECLINED, RejectReason.RENTED, RejectReason.OCCUPIED})

NOBODY_SCORED: Mapping[str, ScoreRecord | None] = MappingProxyType({})

ClientFactory = Callable[[RegistryEntry], MinerClient]
SameHost = Literal["together", "in_turn"]
Attempt = Literal[0, 1]


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What a round found.

    Attributes:
        proofs: Miner key -> one proof per device and kind.
        evidence: What everybody's bundle says of the round.
        samples: What was learned of the usual rates, in the order of the proofs.
    """

    proofs: dict[str, tuple[ProofEvidence, ...]]
    evidence: RoundEvidence
    samples: tuple[RateSample, ...] = ()


@dataclass
class _Proof:
    """One proof on its way: a challenge, and what became of it."""

    entry: RegistryEntry
    challenge: Challenge
    trace: ProofTrace
    is_earning: bool = False
    verdict: Verdict | None = None
    ask: Ask | None = None


class ProofRounds:
    """Runs rounds; holds nothing between them.

    Args:
        generator: Makes challenges.
        wave: Leads them over the network.
        engine: Judges them.
        clients: Registry entry -> client.
        same_host: Whether miners on one host prove together or in turn.
        again_after_seconds: Pause before a second attempt.
    """

    def __init__(
        self,
        generator: ChallengeGenerator,
        wave: Wave,
        engine: VerificationEngine,
        clients: ClientFactory,
        *,
        same_host: SameHost,
        again_after_seconds: float = AGAIN_AFTER_SECONDS,
    ) -> None:
        self._generator = generator
        self._wave = wave
        self._engine = engine
        self._clients = clients
        self._same_host = same_host
        self._again_after_seconds = again_after_seconds

    def run(
        self,
        secret: EpochSecret,
        beacon: Beacon,
        entries: Sequence[RegistryEntry],
        stop: threading.Event,
        averages: Averages = NO_AVERAGES,
        *,
        previous: Mapping[str, ScoreRecord | None] = NOBODY_SCORED,
        earning: Collection[str] = (),
    ) -> RoundOutcome | None:
        """Prove every device of these miners.

        Args:
            secret: The epoch's key.
            beacon: The epoch's randomness.
            entries: The miners that were drawn, in order of their keys.
            stop: Whether to break off, looked at before each wave.
            averages: Usual rates before this epoch.
            previous: Miner key -> its score before; only devices that were measured before make the round suspect.
            earning: Keys of the miners with weight in the newest complete epoch; they are served first.

        Returns:
            What was found, or None when ``stop`` was set first.
        """
        first = self._attempt(secret, beacon, entries, 0, stop, averages, earning)
        if first is None:
            return None
        found = _evidence(first)
        counted = tally(counting(proofs, previous.get(miner)) for miner, proofs in found.items())
        if not counted.is_suspect:
            return _outcome(first, found, 0, counted)
        logger.warning(
            "too many devices are missing: the round is run again, once",
            extra={
                "epoch": secret.epoch,
                "devices_count": counted.devices_count,
                "missing_count": counted.missing_count,
            },
        )
        if stop.wait(self._again_after_seconds):
            return None
        second = self._attempt(secret, beacon, entries, 1, stop, averages, earning)
        if second is None:
            return None
        _keep_failed(first, second)
        return _outcome(second, _evidence(second), 1, counted)

    def _attempt(
        self,
        secret: EpochSecret,
        beacon: Beacon,
        entries: Sequence[RegistryEntry],
        attempt: Attempt,
        stop: threading.Event,
        averages: Averages,
        earning: Collection[str],
    ) -> list[_Proof] | None:
        self._wave.begin_round()
        proofs = [
            _Proof(entry, challenge, ProofTrace(), entry.node_key in earning)
            for entry in entries
            for index, device in enumerate(entry.hardware.devices)
            for challenge in self._generator.challenges(
                secret, beacon.value, entry.node_key, device, index, attempt=attempt
            )
        ]
        self._reach(entries, proofs)
        for asks in self._waves([proof.ask for proof in proofs if proof.ask is not None]):
            if stop.is_set():
                return None
            self._wave.run(asks)
        if stop.is_set():
            return None
        self._verify(proofs, averages)
        return proofs

    def _reach(self, entries: Sequence[RegistryEntry], proofs: Sequence[_Proof]) -> None:
        """Find out whom we can and may call, all at once: a name lookup can take its time."""
        with DaemonThreads("reach", min(max(len(entries), 1), 64)) as pool:
            reached = {entry.node_key: pool.submit(self._client_or_verdict, entry) for entry in entries}
        for proof in proofs:
            found = reached[proof.entry.node_key].result()
            if isinstance(found, Verdict):
                proof.verdict = found
                continue
            try:
                self._generator.check_work(proof.challenge)
            except ProofRejected as err:
                proof.verdict = Verdict.of(err)
                continue
            proof.ask = Ask(proof.entry, found, proof.challenge, proof.trace, is_earning=proof.is_earning)

    def _client_or_verdict(self, entry: RegistryEntry) -> MinerClient | Verdict:
        try:
            client = self._clients(entry)
            client.addresses(ADDRESS_SECONDS)
        except AddressRefused as err:
            logger.warning(
                "miner not examined: its endpoint is refused by this validator's own rule; "
                "validator.allow_private_endpoints=true allows it",
                extra={"miner_key": entry.node_key, "endpoint": entry.endpoint, "cause": printable(err.message, 300)},
            )
            refusal = f"{UNCALLED}{printable(err.message, 300)}"
            return Verdict(RejectReason.NOT_MEASURED, refusal[:400])
        except Unavailable as err:
            return Verdict(RejectReason.MISSING, f"the endpoint cannot be called: {printable(err)}"[:400])
        except Exception:  # a supervisor of one miner: one that finds a bug must not end the round for all others
            logger.exception("examination failed", extra={"miner_key": entry.node_key})
            return Verdict(RejectReason.NOT_MEASURED, DEFECT)
        return client

    def _waves(self, asks: Sequence[Ask]) -> Iterable[list[Ask]]:
        """Return who starts together: one wave per kind, and per turn where miners of one host take turns."""
        turns = _turns(asks) if self._same_host == "in_turn" else {}
        of_wave: dict[tuple[int, int], list[Ask]] = {}
        for ask in asks:
            place = (turns.get(ask.entry.node_key, 0), KINDS.index(ask.challenge.kind))
            of_wave.setdefault(place, []).append(ask)
        return [of_wave[place] for place in sorted(of_wave)]

    def _verify(self, proofs: Sequence[_Proof], averages: Averages) -> None:
        turns = in_turn(proofs, is_earning=_is_earning, ordinal=_ordinal)
        began_ns = time.monotonic_ns()
        with DaemonThreads("verify", self._engine.workers) as pool:
            verdicts = [(proof, pool.submit(self._verdict, proof, averages, began_ns)) for proof in turns]
        for proof, verdict in verdicts:
            proof.verdict = verdict.result()
            _log_verdict(proof.challenge, proof.verdict)

    def _verdict(self, proof: _Proof, averages: Averages, began_ns: int) -> Verdict:
        if proof.verdict is not None:
            return proof.verdict
        if proof.ask is None:
            raise ValueError("a proof without a verdict was asked for")
        if proof.ask.rejected is not None:
            return Verdict.of(proof.ask.rejected)
        if not proof.is_earning and time.monotonic_ns() - began_ns > VERIFY_TURN_SECONDS * 1e9:
            return Verdict(RejectReason.NOT_MEASURED, f"{DEFECT}: its turn to be checked did not come in time")
        try:
            return self._engine.verify_resources(
                proof.challenge, proof.trace, owner_key=proof.entry.owner_key, averages=averages
            )
        except ProofRejected as err:
            return Verdict.of(err)
        except Exception:  # the same supervisor
            logger.exception("verification failed", extra=proof.ask.fields)
            return Verdict(RejectReason.NOT_MEASURED, DEFECT)


def proof_evidence(challenge: Challenge, trace: ProofTrace, verdict: Verdict) -> ProofEvidence:
    """Return what is kept of one proof."""
    sized = challenge.prepare_request()
    expectation = expected_of(challenge, HardwareTable.load())
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
        # What lies in a file comes into the bundle when that is written.
        commitment=None if isinstance(trace.commitment, CommitmentFile) else trace.commitment,
        positions=tuple(position_of(numbers) for numbers in trace.positions),
        # Likewise.
        openings=None if isinstance(trace.openings, OpeningFile) else trace.openings,
        openings_digest=_digest_of(trace.openings),
        measured_per_second=verdict.measured_per_second,
        verdict=VerdictRecord(
            reason=verdict.reason, message=verdict.message, got=verdict.got, expected=verdict.expected
        ),
        attempt=1 if challenge.attempt else 0,
        started_after_ns=trace.started_after_ns,
        ordered_unix_ms=trace.ordered_unix_ms if trace.excuse is not None else None,
        # Likewise.
        excuse=None if isinstance(trace.excuse, ExcuseFile) else trace.excuse,
        average=trace.average,
        flag=None if verdict.flag is None else verdict.flag.value,
        expected_per_second=None if expectation.model is None else expectation.rate,
    )


def _digest_of(openings: Openings | OpeningFile | None) -> str | None:
    if openings is None:
        return None
    return openings.digest if isinstance(openings, OpeningFile) else openings_digest(openings)


def _is_earning(proof: _Proof) -> bool:
    return proof.is_earning


def _ordinal(proof: _Proof) -> int:
    return proof.challenge.device_index


def _turns(asks: Sequence[Ask]) -> dict[str, int]:
    of_host: dict[str, list[str]] = {}
    for ask in asks:
        miners = of_host.setdefault(host_of(ask.entry), [])
        if ask.entry.node_key not in miners:
            miners.append(ask.entry.node_key)
    return {miner: turn for miners in of_host.values() for turn, miner in enumerate(miners)}


def _keep_failed(first: Sequence[_Proof], second: Sequence[_Proof]) -> None:
    """Let no decline undo a silence or a rejection: a device that lost could be busy when it is asked again."""
    for before, after in zip(first, second, strict=True):
        if before.verdict is None or after.verdict is None or not _is_declined(after.verdict):
            continue
        reason = before.verdict.reason
        if reason not in {None, after.verdict.reason} and reason not in NEUTRAL_REASONS:
            # The first answer is not kept: what is left of it is that it was none.
            message = f"{reason}, and declined when asked again: {after.verdict.message}"
            after.verdict = Verdict(RejectReason.MISSING, message[:400])


def _is_declined(verdict: Verdict) -> bool:
    return verdict.reason in DECLINES or verdict.message.startswith(UNCALLED)


def _evidence(proofs: Sequence[_Proof]) -> dict[str, tuple[ProofEvidence, ...]]:
    of_miner: dict[str, list[ProofEvidence]] = {}
    for proof in proofs:
        if proof.verdict is None:
            raise ValueError("a round that is over has a verdict on every proof")
        of_miner.setdefault(proof.entry.node_key, []).append(_evidence_of(proof, proof.verdict))
    return {miner: tuple(found) for miner, found in of_miner.items()}


def _evidence_of(proof: _Proof, verdict: Verdict) -> ProofEvidence:
    try:
        return proof_evidence(proof.challenge, proof.trace, verdict)
    except Exception:  # the same supervisor: what cannot be written down must not end the round for all others
        logger.exception("proof not kept", extra={"miner_key": proof.entry.node_key})
        proof.verdict = Verdict(RejectReason.NOT_MEASURED, DEFECT)
        return proof_evidence(proof.challenge, ProofTrace(), proof.verdict)


def _outcome(
    proofs: Sequence[_Proof], found: dict[str, tuple[ProofEvidence, ...]], attempt: Attempt, counted: Tally
) -> RoundOutcome:
    evidence = RoundEvidence(attempt=attempt, devices_count=counted.devices_count, missing_count=counted.missing_count)
    verdicts = (proof.verdict for proof in proofs)
    samples = tuple(verdict.sample for verdict in verdicts if verdict is not None and verdict.sample is not None)
    return RoundOutcome(found, evidence, samples)


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
