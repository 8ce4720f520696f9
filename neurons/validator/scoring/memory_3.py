"""The memory part of version 3: how fast each claimed device reads its memory, and whether it must have had it all.

Rules:
- A device of a name that the table knows is worth half for its rate, min(measured, claimed) / claimed, and half for its
  capacity, which counts where the rate reaches 0.6 of what cards of that name do. Below that a card can make anew what
  it does not have, whatever it claims: CAPACITY_NOT_SHOWN.
- Of a processor, and of a card nobody knows, no rate is promised by a name. Its proof shows a rate and no memory; it is worth
  its rate, and where no device shows more, the part *weighs* half. So an honest processor has all points, and a proof
  that says little never decides much.
- A device weighs its claim, one whose proof says little half of it. A missing, declined or rejected proof is 0; excuses,
  standing reasons and withdrawn devices are as in `neurons.validator.scoring.compute_3`.
- For weights a device's memory counts for what it showed in the newest common window, as its computing does: one that
  computes in each window and has a lease for each proof of memory would keep what a larger card once showed for it.
- Who claims no bandwidth is not asked: the part is left out. What stands against a device stays all the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from challenges.bands import LOW_PPM
from challenges.memory_fit import CPU_SCORE_CAP_PPM
from challenges.timing import PPM
from neurons.validator.scoring.compute_2 import _rates, _ratio_ppm, _withdrawn, device_ppm, sentence
from neurons.validator.scoring.compute_3 import _alone_ppm, _excused_ppm
from neurons.validator.scoring.standing import distinct, standing_after
from neurons.validator.scoring.standing_3 import NEUTRAL_REASONS
from polarise.errors import RejectReason
from polarise.evidence import DeviceScore, PartScore, ProofEvidence

MEMORY_WEIGHT_PPM = 250_000
WEAK_WEIGHT_PPM = MEMORY_WEIGHT_PPM * CPU_SCORE_CAP_PPM // PPM
WEAK = "a processor, or a card nobody knows, shows a rate and no memory: the part weighs half"


def score_memory(proofs: Sequence[ProofEvidence], last: PartScore | None, *, is_common: bool) -> PartScore:
    """Score the memory of all devices that claim a bandwidth.

    Args:
        proofs: One of memory per device.
        last: The part before; None for a miner never scored.
        is_common: Whether every miner of the epoch was asked, all in one window.
    """
    before = {device.device: device for device in last.devices} if last else {}
    claimed = tuple(_device(proof, before.get(proof.device), is_common=is_common) for proof in proofs)
    measured = [proof for proof in proofs if is_measured(proof)]
    names = {proof.device for proof in proofs}
    devices = claimed if measured else (*claimed, *_withdrawn(before, names))
    weights = [_weight(proof) for proof in proofs]
    value = sum(weight * device_ppm(device) for weight, device in zip(weights, claimed, strict=True))
    value //= max(sum(weights), 1)
    reasons = [proof.verdict.reason or _capacity_reason(proof) for proof in proofs]
    is_weak = not any(proof.expected_per_second for proof in proofs)
    return PartScore(
        name="memory",
        weight_ppm=WEAK_WEIGHT_PPM if proofs and is_weak else MEMORY_WEIGHT_PPM,
        value_ppm=value if proofs else None,
        rates=_rates(measured),
        reasons=distinct([*(reasons or [RejectReason.NOT_MEASURED]), *(device.standing for device in devices)]),
        message=_message(proofs, is_weak=is_weak),
        last_ppm=value if measured else (last.last_ppm if last else None),
        declines_count=max((device.declines_count for device in claimed), default=0),
        devices=devices,
    )


def is_measured(proof: ProofEvidence) -> bool:
    """Whether a proof counts: it was made, or its device has no excuse for making none."""
    return proof.verdict.reason not in NEUTRAL_REASONS


def _device(proof: ProofEvidence, before: DeviceScore | None, *, is_common: bool) -> DeviceScore:
    shown = before.window_ppm if before else None
    if not is_measured(proof):
        if before is None:
            return DeviceScore(device=proof.device, last_ppm=None, declines_count=1)
        window_ppm = _excused_ppm([proof], before) if is_common else shown
        return before.model_copy(update={"declines_count": before.declines_count + 1, "window_ppm": window_ppm})
    measured_ppm = _worth_ppm(proof)
    return DeviceScore(
        device=proof.device,
        last_ppm=measured_ppm,
        declines_count=0,
        standing=standing_after(before.standing if before else None, proof.verdict.reason),
        rates=_rates([proof]),
        window_ppm=measured_ppm if is_common else _alone_ppm(measured_ppm, shown),
    )


def _worth_ppm(proof: ProofEvidence) -> int:
    rate_ppm = _ratio_ppm(proof)
    if not proof.expected_per_second or not rate_ppm:
        return rate_ppm
    return (rate_ppm + (PPM if _shows_capacity(proof, proof.expected_per_second) else 0)) // 2


def _capacity_reason(proof: ProofEvidence) -> RejectReason | None:
    if not proof.expected_per_second or _shows_capacity(proof, proof.expected_per_second):
        return None
    return RejectReason.CAPACITY_NOT_SHOWN


def _shows_capacity(proof: ProofEvidence, expected: int) -> bool:
    """Whether the rate is one that a card of this name has only if nothing is made anew; cross-multiplied."""
    return proof.measured_per_second * PPM >= expected * LOW_PPM


def _weight(proof: ProofEvidence) -> int:
    """Return twice the claim of a card that the table knows, or the claim: two ints instead of a half."""
    return proof.claimed_per_second * (1 if proof.expected_per_second is None else PPM // CPU_SCORE_CAP_PPM)


def _message(proofs: Sequence[ProofEvidence], *, is_weak: bool) -> str:
    """Return what went wrong first; that a device was excused only where nothing else did."""
    if not proofs:
        return "no device claims a bandwidth"
    told = [proof for proof in proofs if proof.verdict.message]
    worst = next((proof for proof in told if is_measured(proof)), next(iter(told), None))
    if worst is not None:
        return sentence(worst.verdict)
    if any(_capacity_reason(proof) for proof in proofs):
        return "the rate is below 0.6 of what a card of this name reads: it can do without the memory it claims"
    return WEAK if is_weak else ""
