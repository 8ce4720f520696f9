"""The compute part of version 2: all claimed devices, each with the newest it was measured to be.

Rules:
- compute = the weighted mean over all claimed devices of each one's weakest min(measured, claimed) / claimed among its
  proofs: who holds one claim does not make good for the other. A device weighs its matmul claim; a missing or rejected
  proof is 0.
- A device of which a proof was declined counts with what it keeps (`neurons.validator.scoring.standing`), unless
  another of its proofs failed. One that was never measured is 0.
- A device that closed the gate and is claimed no longer keeps it closed until another one was really measured: nobody
  takes a caught card off the market, or gives it another name, and is busy from then on.
- An epoch in which the miner was not drawn changes nothing in here.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

from challenges.timing import PPM
from neurons.validator.scoring.standing import (
    GATE_REASONS,
    NEUTRAL_REASONS,
    distinct,
    kept_ppm,
    standing_after,
    worst_of,
)
from polarise.errors import RejectReason
from polarise.evidence import (
    COUNT_MAX,
    TEXT_CHARS_MAX,
    DeviceScore,
    KindRate,
    PartScore,
    ProofEvidence,
    VerdictRecord,
)

COMPUTE_WEIGHT_PPM = 400_000


def score_compute(proofs: Sequence[ProofEvidence], last: PartScore | None) -> PartScore:
    """Score all claimed devices, the busy ones with what they keep: none lives on the proof of another.

    Args:
        proofs: One per device and kind.
        last: The part before; None for a miner never scored.
    """
    before = {device.device: device for device in last.devices} if last else {}
    found = {proof.device: [other for other in proofs if other.device == proof.device] for proof in proofs}
    claimed = tuple(_device(name, of_device, before.get(name)) for name, of_device in found.items())
    devices = claimed if is_any_measured(proofs) else (*claimed, *_withdrawn(before, found))
    weights = [_weight(of_device) for of_device in found.values()]
    value = sum(weight * device_ppm(device) for weight, device in zip(weights, claimed, strict=True))
    value //= max(sum(weights), 1)
    measured = [proof for of_device in found.values() if _is_measured(of_device) for proof in of_device]
    reasons = [*(proof.verdict.reason for proof in proofs), *(device.standing for device in devices)]
    return PartScore(
        name="compute",
        weight_ppm=COMPUTE_WEIGHT_PPM,
        value_ppm=value,
        rates=_rates(proof for proof in measured if _was_answered(proof)),
        reasons=distinct(reasons) if proofs else (RejectReason.NOT_MEASURED,),
        message=_message(proofs),
        last_ppm=value if measured else (last.last_ppm if last else None),
        declines_count=max((device.declines_count for device in claimed), default=0),
        devices=devices,
    )


def is_any_measured(proofs: Sequence[ProofEvidence]) -> bool:
    """Whether one device at least was really measured."""
    names = {proof.device for proof in proofs}
    return any(_is_measured([proof for proof in proofs if proof.device == name]) for name in names)


def device_ppm(device: DeviceScore) -> int:
    """Return what a device is worth now, of its claim; nobody lives on a part that was never shown."""
    return kept_ppm(device.last_ppm, device.declines_count) or 0


def sentence(verdict: VerdictRecord) -> str:
    """Return a verdict as one sentence with its two figures."""
    if verdict.got is None and verdict.expected is None:
        return verdict.message
    return f"{verdict.message} (got {verdict.got}, expected {verdict.expected})"[:TEXT_CHARS_MAX]


def _device(name: str, proofs: Sequence[ProofEvidence], before: DeviceScore | None) -> DeviceScore:
    if not _is_measured(proofs):
        if before is None:
            return DeviceScore(device=name, last_ppm=None, declines_count=1)
        return before.model_copy(update={"declines_count": before.declines_count + 1})
    answered = [proof for proof in proofs if _was_answered(proof)]
    failed = worst_of(proof.verdict.reason for proof in answered if proof.verdict.reason is not None)
    return DeviceScore(
        device=name,
        last_ppm=min(_ratio_ppm(proof) for proof in answered),
        declines_count=0,
        standing=standing_after(before.standing if before else None, failed),
        rates=_rates(answered),
    )


def _withdrawn(before: Mapping[str, DeviceScore], found: Container[str]) -> Iterator[DeviceScore]:
    """Yield what stands against devices that are claimed no longer; it weighs nothing and is worth nothing."""
    for name, device in before.items():
        if name not in found and device.standing in GATE_REASONS:
            yield device


def _message(proofs: Sequence[ProofEvidence]) -> str:
    """Return what went wrong first; that a device was busy only where nothing else did."""
    told = [proof for proof in proofs if proof.verdict.message]
    worst = next((proof for proof in told if _was_answered(proof)), next(iter(told), None))
    if worst is not None:
        return sentence(worst.verdict)
    return "" if proofs else "no device was proven"


def _was_answered(proof: ProofEvidence) -> bool:
    return proof.verdict.reason not in NEUTRAL_REASONS


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


def _rates(proofs: Iterable[ProofEvidence]) -> tuple[KindRate, ...]:
    found = list(proofs)
    kinds = dict.fromkeys(proof.kind for proof in found)
    return tuple(_rate([proof for proof in found if proof.kind == kind]) for kind in kinds)


def _rate(proofs: Sequence[ProofEvidence]) -> KindRate:
    return KindRate(
        kind=proofs[0].kind,
        measured_per_second=min(sum(proof.measured_per_second for proof in proofs), COUNT_MAX),
        claimed_per_second=min(sum(proof.claimed_per_second for proof in proofs), COUNT_MAX),
    )
