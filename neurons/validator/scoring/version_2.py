"""The rules of version 2: a miner is proven when it is drawn, and what was found then stands until it is measured again.

Rules:
- raw = 0.40 compute + 0.25 memory + 0.25 service + 0.10 telemetry. Parts nobody measures yet are left out with reason
  NOT_MEASURED and the others weigh more; all figures are millionths, every division rounds down.
- compute: see `neurons.validator.scoring.compute_2`. service = 1 when the rented container kept every promise and could
  be given back, else 0. telemetry = 1 when every new line of the miner's own log verified, else 0.
- A miner that is not drawn for a proof keeps its compute part as it is, one that is not drawn for an inspection its
  service part: value, reasons and declines. Only the epochs without a draw are counted.
- What stands (`neurons.validator.scoring.standing`) is shown among the reasons in every epoch, and closes the gate in
  every epoch while it is a reason that does.
- A container that is declined (NO_CAPACITY) keeps its newest measured value for 12 rounds, then half per round. A service
  part that never was measured is left out for 2 rounds and 0 from then on: a miner can be full when it is met first.
- Each part is smoothed by a moving average with alpha 1/2 over the rounds *in which it was measured*; in a round that
  was declined the average may fall and never rises; an epoch without a round leaves it. So each measurement counts
  once, however long its turn took to come, and no bad one is smoothed away by waiting. The smoothed score is the weighted
  mean of the smoothed parts that count. The first measurement of a part is its average; a part that was measured by
  rules without averages of their own begins from the smoothed score before.
- Gate: a rejected proof, a claim not met, another host key, a limit that does not hold or a log with two histories takes
  all points. A broken promise of the container is treated like a rejected proof: both are untruths somebody would pay for.
- Nobody is accepted below 70.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from challenges.timing import PPM
from neurons.validator.scoring.compute_2 import COMPUTE_WEIGHT_PPM, is_any_measured, score_compute, sentence
from neurons.validator.scoring.standing import GATE_REASONS, distinct, kept_ppm, standing_after
from polarise.errors import RejectReason
from polarise.evidence import (
    DrawEvidence,
    InspectionEvidence,
    PartName,
    PartScore,
    ProofEvidence,
    ScoreRecord,
    TelemetryEvidence,
    VerdictRecord,
)

RULES_VERSION = 2
WEIGHTS_PPM: dict[PartName, int] = {
    "compute": COMPUTE_WEIGHT_PPM,
    "memory": 250_000,
    "service": 250_000,
    "telemetry": 100_000,
}
ALPHA_PPM = 500_000
ACCEPTABLE_PPM = 700_000
DECLINES_UNKNOWN = 2


class ScoringSystem:
    """The rules of version 2; holds nothing."""

    def calculate_score(
        self,
        proofs: Sequence[ProofEvidence],
        inspection: InspectionEvidence | None,
        previous: ScoreRecord | None,
        telemetry: TelemetryEvidence | None = None,
        *,
        draw: DrawEvidence | None = None,
    ) -> ScoreRecord:
        """Score one miner in one epoch.

        Args:
            proofs: One per device and kind; not looked at where the miner was not drawn.
            inspection: The rented container, likewise; None when this validator does not inspect.
            previous: The miner's newest score before; None for a miner never scored.
            telemetry: The miner's own log; None when this validator does not read it.
            draw: Whether it was to be proven and inspected; None where everybody is, in every epoch.
        """
        is_proven = draw is None or draw.is_proven
        is_inspected = draw is None or draw.is_inspected
        parts = (
            _compute(proofs, previous) if is_proven else _undrawn("compute", previous),
            _unmeasured("memory", "the memory proof comes with a later version", previous),
            _service(inspection, previous) if is_inspected else _undrawn("service", previous),
            _telemetry(telemetry, previous),
        )
        found = distinct(reason for part in parts for reason in part.reasons)
        gate = 0 if GATE_REASONS.intersection(found) else 1
        smoothed = _smoothed_mean(parts, previous)
        return ScoreRecord(
            rules_version=RULES_VERSION,
            parts=parts,
            raw_ppm=_weighted_mean((part.weight_ppm, part.value_ppm) for part in parts),
            smoothed_ppm=smoothed,
            gate=0 if gate == 0 else 1,
            score_ppm=smoothed * gate,
            reasons=tuple(sorted(found, key=lambda reason: reason is RejectReason.NOT_MEASURED)),
            undrawn_count=0 if is_proven else 1 + (previous.undrawn_count if previous else 0),
            uninspected_count=0 if is_inspected else 1 + (previous.uninspected_count if previous else 0),
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
    part = score_compute(proofs, _last("compute", previous))
    return _with_average(part, previous, is_measured=is_any_measured(proofs))


def _service(inspection: InspectionEvidence | None, previous: ScoreRecord | None) -> PartScore:
    if inspection is None:
        return _unmeasured("service", "this validator does not inspect", previous)
    if inspection.verdict.reason is RejectReason.NOT_MEASURED:
        return _declined("service", inspection.verdict.message, previous)
    kept = int(inspection.verdict.is_passed)
    return _measured("service", inspection.verdict, previous, measured=kept, claimed=1)


def _telemetry(telemetry: TelemetryEvidence | None, previous: ScoreRecord | None) -> PartScore:
    if telemetry is None:
        return _unmeasured("telemetry", "this validator does not read logs", previous)
    if telemetry.verdict.reason is RejectReason.NOT_MEASURED:
        return _unmeasured("telemetry", telemetry.verdict.message, previous)
    return _measured("telemetry", telemetry.verdict, previous, measured=telemetry.size, claimed=None)


def _measured(
    name: PartName, verdict: VerdictRecord, previous: ScoreRecord | None, *, measured: int, claimed: int | None
) -> PartScore:
    """Return a part that either holds or does not."""
    value = PPM if verdict.is_passed else 0
    standing = standing_after(_standing(name, previous), verdict.reason)
    part = PartScore(
        name=name,
        weight_ppm=WEIGHTS_PPM[name],
        value_ppm=value,
        measured=measured,
        claimed=claimed,
        reasons=distinct([verdict.reason, standing]),
        message=sentence(verdict),
        last_ppm=value,
        standing=standing,
    )
    return _with_average(part, previous, is_measured=True)


def _unmeasured(name: PartName, message: str, previous: ScoreRecord | None) -> PartScore:
    """Return a part that this validator does not measure; that is no doing of the miner's, and clears nothing."""
    last = _last(name, previous)
    standing = _standing(name, previous)
    part = PartScore(
        name=name,
        weight_ppm=WEIGHTS_PPM[name],
        value_ppm=None,
        reasons=distinct([RejectReason.NOT_MEASURED, standing]),
        message=message,
        last_ppm=last.last_ppm if last else None,
        declines_count=last.declines_count if last else 0,
        standing=standing,
    )
    return _with_average(part, previous, is_measured=False)


def _declined(name: PartName, message: str, previous: ScoreRecord | None) -> PartScore:
    """Return a part that the miner did not let us measure."""
    last = _last(name, previous)
    declines_count = (last.declines_count if last else 0) + 1
    newest = last.last_ppm if last else None
    kept = kept_ppm(newest, declines_count)
    standing = _standing(name, previous)
    part = PartScore(
        name=name,
        weight_ppm=WEIGHTS_PPM[name],
        value_ppm=0 if kept is None and declines_count > DECLINES_UNKNOWN else kept,
        reasons=distinct([RejectReason.NOT_MEASURED, standing]),
        message=message,
        last_ppm=newest,
        declines_count=declines_count,
        standing=standing,
    )
    return _with_average(part, previous, is_measured=False)


def _undrawn(name: PartName, previous: ScoreRecord | None) -> PartScore:
    """Return a part as it was, for a miner whose turn did not come."""
    last = _last(name, previous)
    if last is None:
        return _unmeasured(name, "not drawn yet", previous)
    return last.model_copy(update={"smoothed_ppm": _average_before(name, previous)})


def _with_average(part: PartScore, previous: ScoreRecord | None, *, is_measured: bool) -> PartScore:
    """Return the part with its moving average carried on."""
    before = _average_before(part.name, previous)
    if part.value_ppm is None or (before is None and not is_measured):
        return part.model_copy(update={"smoothed_ppm": before})
    if before is None:
        return part.model_copy(update={"smoothed_ppm": part.value_ppm})
    moved = (ALPHA_PPM * part.value_ppm + (PPM - ALPHA_PPM) * before) // PPM
    return part.model_copy(update={"smoothed_ppm": moved if is_measured else min(moved, before)})


def _average_before(name: PartName, previous: ScoreRecord | None) -> int | None:
    last = _last(name, previous)
    if previous is None or last is None or last.smoothed_ppm is not None:
        return last.smoothed_ppm if last else None
    return previous.smoothed_ppm if previous.rules_version < RULES_VERSION and last.last_ppm is not None else None


def _smoothed_mean(parts: Iterable[PartScore], previous: ScoreRecord | None) -> int:
    # A part that counts and was never measured is nobody's average: it counts as it is.
    counted = [part for part in parts if part.value_ppm is not None]
    mean = _weighted_mean(
        (part.weight_ppm, part.value_ppm if part.smoothed_ppm is None else part.smoothed_ppm) for part in counted
    )
    if mean is None:
        return previous.smoothed_ppm if previous else 0
    return mean


def _weighted_mean(weighed: Iterable[tuple[int, int | None]]) -> int | None:
    counted = [(weight, value) for weight, value in weighed if value is not None]
    if not counted:
        return None
    return sum(weight * value for weight, value in counted) // sum(weight for weight, _ in counted)


def _last(name: PartName, previous: ScoreRecord | None) -> PartScore | None:
    return None if previous is None else previous.part(name)


def _standing(name: PartName, previous: ScoreRecord | None) -> RejectReason | None:
    last = _last(name, previous)
    return last.standing if last else None
