"""The first rules of a score; they stay as they are, so that what was scored by them can be recomputed for ever.

Rules:
- raw = 0.40 compute + 0.25 memory + 0.25 service + 0.10 telemetry. Parts nobody measures yet are left out with reason
  NOT_MEASURED and the others weigh more; all figures are millionths, every division rounds down.
- compute = the weighted mean over all claimed devices of each one's weakest min(measured, claimed) / claimed among its proofs: who
  holds one claim does not make good for the other. A device weighs its matmul claim; a missing or rejected proof is 0.
  A device of which a proof was declined counts with what it keeps, unless another of its proofs failed. service = 1 when the rented container kept every promise and could be given back, else 0.
- A device or container that declines (429, NO_CAPACITY) keeps its newest measured value for 12 rounds; then it halves
  per round. Without that, a miner that always declines would live on the parts it does allow. A device that was never
  measured is 0, a service part that never was is left out for 2 rounds and 0 from then on: a miner can be full when a
  validator meets it.
- Smoothed by a moving average with alpha 1/2 over the raw values: one missing proof takes even a perfect miner below
  70 in its own epoch (38.46 and 100 give 69.23), one good epoch brings it back.
- telemetry = 1 when every new line of the miner's own log verified, else 0.
- Gate: a rejected proof, a claim not met, another host key, a limit that does not hold or a log with two histories takes
  all points of the epoch.
  A broken promise of the container is treated like a rejected proof: both are untruths somebody would pay for.
- Nobody is accepted below 70.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from challenges.timing import PPM
from polarise.errors import RejectReason
from polarise.evidence import (
    COUNT_MAX,
    TEXT_CHARS_MAX,
    DeviceScore,
    InspectionEvidence,
    KindRate,
    PartName,
    PartScore,
    ProofEvidence,
    ScoreRecord,
    TelemetryEvidence,
    VerdictRecord,
)

RULES_VERSION = 1
WEIGHTS_PPM: dict[PartName, int] = {"compute": 400_000, "memory": 250_000, "service": 250_000, "telemetry": 100_000}
ALPHA_PPM = 500_000
ACCEPTABLE_PPM = 700_000
DECLINES_NEUTRAL = 12
DECLINES_UNKNOWN = 2

# Reasons that say "untrue", not "away": they close the gate.
GATE_REASONS = frozenset(
    {
        RejectReason.MALFORMED,
        RejectReason.BAD_SIGNATURE,
        RejectReason.SEED_MISMATCH,
        RejectReason.WRONG_COUNT,
        RejectReason.BAD_MERKLE_PATH,
        RejectReason.TILE_MISMATCH,
        RejectReason.SHARE_INVALID,
        RejectReason.TOO_FAST,
        RejectReason.OPENING_LATE,
        RejectReason.CLAIM_NOT_MET,
        RejectReason.HOST_KEY_MISMATCH,
        RejectReason.LIMIT_NOT_HELD,
        RejectReason.LOG_FORK,
    }
)


class ScoringSystem:
    """The rules of version 1; holds nothing."""

    def calculate_score(
        self,
        proofs: Sequence[ProofEvidence],
        inspection: InspectionEvidence | None,
        previous: ScoreRecord | None,
        telemetry: TelemetryEvidence | None = None,
    ) -> ScoreRecord:
        """Score one miner in one epoch.

        Args:
            proofs: One per device and kind.
            inspection: The rented container; None when this validator does not inspect.
            previous: The miner's newest score before; None for a miner never scored.
            telemetry: The miner's own log; None when this validator does not read it.
        """
        parts = (
            _compute(proofs, previous),
            _unmeasured("memory", "the memory proof comes with a later version", previous),
            _service(inspection, previous),
            _telemetry(telemetry, previous),
        )
        raw = _weighted_mean(parts)
        smoothed = _smooth(raw, None if previous is None else previous.smoothed_ppm)
        found = dict.fromkeys(reason for part in parts for reason in part.reasons)
        reasons = tuple(sorted(found, key=lambda reason: reason is RejectReason.NOT_MEASURED))
        gate = 0 if GATE_REASONS.intersection(reasons) else 1
        return ScoreRecord(
            rules_version=RULES_VERSION,
            parts=parts,
            raw_ppm=raw,
            smoothed_ppm=smoothed,
            gate=0 if gate == 0 else 1,
            score_ppm=smoothed * gate,
            reasons=reasons,
        )

    def is_score_acceptable(self, score: ScoreRecord | int) -> bool:
        """Whether a score, or its millionths, reaches 70 points."""
        score_ppm = score if isinstance(score, int) else score.score_ppm
        return score_ppm >= ACCEPTABLE_PPM


def points(score_ppm: int) -> str:
    """Return millionths as points with two decimals, rounded down, so that 69.999 never reads 70.00."""
    return f"{score_ppm // 10_000}.{score_ppm % 10_000 // 100:02d}"


def effective_weights(parts: Iterable[PartScore]) -> dict[PartName, int]:
    """Return each counted part's share of the whole in millionths."""
    counted = [part for part in parts if part.value_ppm is not None]
    total = sum(part.weight_ppm for part in counted)
    return {part.name: part.weight_ppm * PPM // total for part in counted}


def _compute(proofs: Sequence[ProofEvidence], previous: ScoreRecord | None) -> PartScore:
    """Score all claimed devices, the busy ones with what they keep: none lives on the proof of another."""
    last = _last("compute", previous)
    before = {device.device: device for device in last.devices} if last else {}
    found = {proof.device: [other for other in proofs if other.device == proof.device] for proof in proofs}
    devices = tuple(_device(name, of_device, before.get(name)) for name, of_device in found.items())
    weights = [_weight(of_device) for of_device in found.values()]
    # Nobody lives on a part that was never shown.
    values = [_kept_ppm(device.last_ppm, device.declines_count) or 0 for device in devices]
    value = sum(weight * value for weight, value in zip(weights, values, strict=True)) // max(sum(weights), 1)
    measured = [of_device for of_device in found.values() if _is_measured(of_device)]
    return PartScore(
        name="compute",
        weight_ppm=WEIGHTS_PPM["compute"],
        value_ppm=value,
        rates=_rates([proof for of_device in measured for proof in of_device if _was_answered(proof)]),
        reasons=_reasons(proof.verdict.reason for proof in proofs) or (() if proofs else (RejectReason.NOT_MEASURED,)),
        message=_compute_message(proofs),
        last_ppm=value if measured else (last.last_ppm if last else None),
        declines_count=max((device.declines_count for device in devices), default=0),
        devices=devices,
    )


def _device(name: str, proofs: Sequence[ProofEvidence], before: DeviceScore | None) -> DeviceScore:
    if _is_measured(proofs):
        weakest = min(_ratio_ppm(proof) for proof in proofs if _was_answered(proof))
        return DeviceScore(device=name, last_ppm=weakest, declines_count=0)
    if before is None:
        return DeviceScore(device=name, last_ppm=None, declines_count=1)
    return before.model_copy(update={"declines_count": before.declines_count + 1})


def _compute_message(proofs: Sequence[ProofEvidence]) -> str:
    """Return what went wrong first; that a device was busy only where nothing else did."""
    told = [proof for proof in proofs if proof.verdict.message]
    worst = next((proof for proof in told if _was_answered(proof)), next(iter(told), None))
    if worst is not None:
        return _sentence(worst.verdict)
    return "" if proofs else "no device was proven"


def _was_answered(proof: ProofEvidence) -> bool:
    return proof.verdict.reason is not RejectReason.NOT_MEASURED


def _is_measured(proofs: Sequence[ProofEvidence]) -> bool:
    """Whether a device counts: all of its proofs were answered, or one that was came to nothing good."""
    answered = [proof for proof in proofs if _was_answered(proof)]
    return len(answered) == len(proofs) or any(not proof.verdict.is_passed for proof in answered)


def _ratio_ppm(proof: ProofEvidence) -> int:
    if proof.verdict.reason in {None, RejectReason.CLAIM_NOT_MET}:
        return min(proof.measured_per_second, proof.claimed_per_second) * PPM // proof.claimed_per_second
    return 0


def _weight(proofs: Sequence[ProofEvidence]) -> int:
    """Return the device's matmul claim; a device without that proof is no examination's, and weighs next to nothing."""
    return next((proof.claimed_per_second for proof in proofs if proof.kind == "matmul"), 1)


def _rates(proofs: Sequence[ProofEvidence]) -> tuple[KindRate, ...]:
    kinds = dict.fromkeys(proof.kind for proof in proofs)
    return tuple(_rate([proof for proof in proofs if proof.kind == kind]) for kind in kinds)


def _rate(proofs: Sequence[ProofEvidence]) -> KindRate:
    return KindRate(
        kind=proofs[0].kind,
        measured_per_second=min(sum(proof.measured_per_second for proof in proofs), COUNT_MAX),
        claimed_per_second=min(sum(proof.claimed_per_second for proof in proofs), COUNT_MAX),
    )


def _service(inspection: InspectionEvidence | None, previous: ScoreRecord | None) -> PartScore:
    if inspection is None:
        return _unmeasured("service", "this validator does not inspect", previous)
    verdict = inspection.verdict
    if verdict.reason is RejectReason.NOT_MEASURED:
        return _declined("service", verdict.message, _last("service", previous))
    value = PPM if verdict.is_passed else 0
    return PartScore(
        name="service",
        weight_ppm=WEIGHTS_PPM["service"],
        value_ppm=value,
        measured=int(verdict.is_passed),
        claimed=1,
        reasons=_reasons([verdict.reason]),
        message=_sentence(verdict),
        last_ppm=value,
    )


def _telemetry(telemetry: TelemetryEvidence | None, previous: ScoreRecord | None) -> PartScore:
    if telemetry is None:
        return _unmeasured("telemetry", "this validator does not read logs", previous)
    if telemetry.verdict.reason is RejectReason.NOT_MEASURED:
        return _unmeasured("telemetry", telemetry.verdict.message, previous)
    value = PPM if telemetry.verdict.is_passed else 0
    return PartScore(
        name="telemetry",
        weight_ppm=WEIGHTS_PPM["telemetry"],
        value_ppm=value,
        measured=telemetry.size,
        reasons=_reasons([telemetry.verdict.reason]),
        message=_sentence(telemetry.verdict),
        last_ppm=value,
    )


def _unmeasured(name: PartName, message: str, previous: ScoreRecord | None) -> PartScore:
    """Return a part that this validator does not measure; that is no doing of the miner's."""
    last = _last(name, previous)
    return PartScore(
        name=name,
        weight_ppm=WEIGHTS_PPM[name],
        value_ppm=None,
        reasons=(RejectReason.NOT_MEASURED,),
        message=message,
        last_ppm=last.last_ppm if last else None,
        declines_count=last.declines_count if last else 0,
    )


def _declined(name: PartName, message: str, last: PartScore | None) -> PartScore:
    """Return a part that the miner did not let us measure."""
    declines_count = (last.declines_count if last else 0) + 1
    newest = last.last_ppm if last else None
    kept = _kept_ppm(newest, declines_count)
    return PartScore(
        name=name,
        weight_ppm=WEIGHTS_PPM[name],
        value_ppm=0 if kept is None and declines_count > DECLINES_UNKNOWN else kept,
        reasons=(RejectReason.NOT_MEASURED,),
        message=message,
        last_ppm=newest,
        declines_count=declines_count,
    )


def _kept_ppm(last_ppm: int | None, declines_count: int) -> int | None:
    """Return what is left of the newest measured value after so many declines; None if there is none."""
    return None if last_ppm is None else last_ppm >> max(declines_count - DECLINES_NEUTRAL, 0)


def _last(name: PartName, previous: ScoreRecord | None) -> PartScore | None:
    return None if previous is None else previous.part(name)


def _reasons(reasons: Iterable[RejectReason | None]) -> tuple[RejectReason, ...]:
    return tuple(dict.fromkeys(reason for reason in reasons if reason is not None))


def _sentence(verdict: VerdictRecord) -> str:
    if verdict.got is None and verdict.expected is None:
        return verdict.message
    return f"{verdict.message} (got {verdict.got}, expected {verdict.expected})"[:TEXT_CHARS_MAX]


def _weighted_mean(parts: Iterable[PartScore]) -> int | None:
    counted = [(part.weight_ppm, part.value_ppm) for part in parts if part.value_ppm is not None]
    if not counted:
        return None
    return sum(weight * value for weight, value in counted) // sum(weight for weight, _ in counted)


def _smooth(raw: int | None, previous: int | None) -> int:
    if raw is None:
        return previous or 0
    if previous is None:
        return raw
    return (ALPHA_PPM * raw + (PPM - ALPHA_PPM) * previous) // PPM
