"""The compute part of version 3: as in version 2, but a device that declines in a round is worth nothing until it is proven.

Rules:
- compute = the weighted mean over all claimed devices of each one's weakest min(measured, claimed) / claimed among its
  proofs of computing: who holds one claim does not make good for the other. A device weighs its matmul claim; a
  missing, declined or rejected proof is 0. Proofs of memory have a part of their own.
- A device of which a proof was excused (`neurons.validator.scoring.standing_3`) counts with what it keeps, unless another
  of its proofs failed. One that was never measured is 0.
- A device that closed the gate and is claimed no longer keeps it closed until another one was really measured.
- An epoch in which the miner was not drawn changes nothing in here.
- For weights a device counts for what it showed in the newest common window, in which one device answers for one miner
  (``window_ppm``). An excuse there halves that, each time: a second key of the same person signs any lease, so that all
  the names of one device come to at most 1 + 1/2 + 1/4 + ... = 2 of it. Another validator's order is spared the first time
  in a row; with such an order for every name in every window they come to 3. A proof outside of a window can lower it only.
"""

from __future__ import annotations

from collections.abc import Sequence

# Rules 2 are frozen, their private helpers with them: what did not change is the same code and no copy of it.
from neurons.validator.scoring.compute_2 import (
    COMPUTE_WEIGHT_PPM,
    _rates,
    _ratio_ppm,
    _weight,
    _withdrawn,
    device_ppm,
    sentence,
)
from neurons.validator.scoring.standing import distinct, standing_after, worst_of
from neurons.validator.scoring.standing_3 import NEUTRAL_REASONS
from polarise.errors import RejectReason
from polarise.evidence import DeviceScore, PartScore, ProofEvidence

COMPUTE_KINDS = frozenset[str]({"pow", "matmul"})


def score_compute(proofs: Sequence[ProofEvidence], last: PartScore | None, *, is_common: bool) -> PartScore:
    """Score all claimed devices, the excused ones with what they keep: none lives on the proof of another.

    Args:
        proofs: One per device and kind of computing.
        last: The part before; None for a miner never scored.
        is_common: Whether every miner of the epoch was asked, all in one window.
    """
    before = {device.device: device for device in last.devices} if last else {}
    found = _by_device(proofs)
    claimed = tuple(
        _device(name, of_device, before.get(name), is_common=is_common) for name, of_device in found.items()
    )
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


def worth_ppm(device: DeviceScore) -> int:
    """Return what a device counts for in weights, of its claim: what it is worth now, as far as a common window showed it."""
    return min(device_ppm(device), device.window_ppm or 0)


def is_any_measured(proofs: Sequence[ProofEvidence]) -> bool:
    """Whether one device at least was really measured."""
    return any(_is_measured(of_device) for of_device in _by_device(proofs).values())


def _by_device(proofs: Sequence[ProofEvidence]) -> dict[str, list[ProofEvidence]]:
    found: dict[str, list[ProofEvidence]] = {}
    for proof in proofs:
        found.setdefault(proof.device, []).append(proof)
    return found


def _device(name: str, proofs: Sequence[ProofEvidence], before: DeviceScore | None, *, is_common: bool) -> DeviceScore:
    shown = before.window_ppm if before else None
    if not _is_measured(proofs):
        if before is None:
            return DeviceScore(device=name, last_ppm=None, declines_count=1)
        window_ppm = _excused_ppm(proofs, before) if is_common else shown
        return before.model_copy(update={"declines_count": before.declines_count + 1, "window_ppm": window_ppm})
    answered = [proof for proof in proofs if _was_answered(proof)]
    failed = worst_of(proof.verdict.reason for proof in answered if proof.verdict.reason is not None)
    measured_ppm = min(_ratio_ppm(proof) for proof in answered)
    return DeviceScore(
        device=name,
        last_ppm=measured_ppm,
        declines_count=0,
        standing=standing_after(before.standing if before else None, failed),
        rates=_rates(answered),
        window_ppm=measured_ppm if is_common else _alone_ppm(measured_ppm, shown),
    )


def _excused_ppm(proofs: Sequence[ProofEvidence], before: DeviceScore) -> int | None:
    """Return what a window leaves of a device that was not measured in it; another validator's order saves it all, once."""
    excuses = {proof.verdict.reason for proof in proofs} - {None}
    is_spared = excuses == {RejectReason.OCCUPIED} and before.declines_count == 0
    return before.window_ppm if before.window_ppm is None or is_spared else before.window_ppm // 2


def _alone_ppm(measured_ppm: int, shown: int | None) -> int | None:
    """Return what a proof outside of a window leaves: whoever proves alone may be another one's device as well."""
    return None if shown is None else min(measured_ppm, shown)


def _message(proofs: Sequence[ProofEvidence]) -> str:
    """Return what went wrong first; that a device was excused only where nothing else did."""
    told = [proof for proof in proofs if proof.verdict.message]
    worst = next((proof for proof in told if _was_answered(proof)), next(iter(told), None))
    if worst is not None:
        return sentence(worst.verdict)
    return "" if proofs else "no device was proven"


def _was_answered(proof: ProofEvidence) -> bool:
    """Whether a proof counts: it was made, or its device has no excuse for making none."""
    return proof.verdict.reason not in NEUTRAL_REASONS


def _is_measured(proofs: Sequence[ProofEvidence]) -> bool:
    """Whether a device counts: all of its proofs were answered, or one that was came to nothing good."""
    answered = [proof for proof in proofs if _was_answered(proof)]
    return len(answered) == len(proofs) or any(not proof.verdict.is_passed for proof in answered)
