"""The rules of version 3: as version 2, but who declines in a round was not there, and memory counts.

Rules:
- raw = 0.40 compute + 0.25 memory + 0.25 service + 0.10 telemetry. Parts nobody measures yet are left out with reason
  NOT_MEASURED and the others weigh more; all figures are millionths, every division rounds down.
- compute: see `neurons.validator.scoring.compute_3`. memory: see `neurons.validator.scoring.memory_3`; it weighs 0.125
  where no device has more than a processor's proof. service = 1 when the rented container kept every promise and could
  be given back, else 0. telemetry = 1 when every new line of the machine's log verified, else 0.
- A container that was declined is asked for again in the next epoch while none was ever measured; the third decline is 0.
- Points are one thing, weight another: a device counts for what it showed in common windows, and a miner whose validator
  inspects and never saw a container of it for nothing (`neurons.validator.weights`).
- What stands, what is smoothed and what closes the gate is as in version 2, by its own functions.
- Nobody is accepted below 70.
"""

from __future__ import annotations

from collections.abc import Sequence

from neurons.validator.scoring.compute_3 import COMPUTE_KINDS, is_any_measured, score_compute
from neurons.validator.scoring.memory_3 import is_measured, score_memory
from neurons.validator.scoring.standing import GATE_REASONS, distinct

# Rules 2 are frozen, their private helpers with them: what did not change is the same code and no copy of it.
from neurons.validator.scoring.version_2 import (
    ACCEPTABLE_PPM,
    ALPHA_PPM,
    WEIGHTS_PPM,
    _declined,
    _last,
    _smoothed_mean,
    _telemetry,
    _undrawn,
    _unmeasured,
    _weighted_mean,
    _with_average,
    effective_weights,
    points,
)
from neurons.validator.scoring.version_2 import _service as _looked_at
from polarise.errors import RejectReason
from polarise.evidence import (
    DrawEvidence,
    InspectionEvidence,
    PartScore,
    ProofEvidence,
    ScoreRecord,
    TelemetryEvidence,
)

RULES_VERSION = 3


class ScoringSystem:
    """The rules of version 3; holds nothing."""

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
        if draw is not None and draw.has_missed_window:
            previous = without_windows(previous)
        is_common = draw is None or draw.is_common
        is_proven = draw is None or draw.is_proven
        is_left_out = draw is not None and not draw.is_inspected and draw.inspect_every > 0
        parts = (
            _compute(proofs, previous, is_common=is_common) if is_proven else _undrawn("compute", previous),
            _memory(proofs, previous, is_common=is_common) if is_proven else _undrawn("memory", previous),
            _service(inspection, previous, draw),
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
            uninspected_count=0 if not is_left_out else 1 + (previous.uninspected_count if previous else 0),
        )

    def is_score_acceptable(self, score: ScoreRecord | int) -> bool:
        """Whether a score, or its millionths, reaches 70 points."""
        score_ppm = score if isinstance(score, int) else score.score_ppm
        return score_ppm >= ACCEPTABLE_PPM


def without_windows(score: ScoreRecord | None) -> ScoreRecord | None:
    """Return a score without what its devices showed in common windows: its miner was not there in a later one."""
    if score is None:
        return None
    parts = tuple(
        part.model_copy(
            update={"devices": tuple(device.model_copy(update={"window_ppm": None}) for device in part.devices)}
        )
        for part in score.parts
    )
    return score.model_copy(update={"parts": parts})


def _compute(proofs: Sequence[ProofEvidence], previous: ScoreRecord | None, *, is_common: bool) -> PartScore:
    computing = [proof for proof in proofs if proof.kind in COMPUTE_KINDS]
    part = score_compute(computing, _last("compute", previous), is_common=is_common)
    return _with_average(part, previous, is_measured=is_any_measured(computing))


def _memory(proofs: Sequence[ProofEvidence], previous: ScoreRecord | None, *, is_common: bool) -> PartScore:
    of_memory = [proof for proof in proofs if proof.kind == "memory"]
    part = score_memory(of_memory, _last("memory", previous), is_common=is_common)
    return _with_average(part, previous, is_measured=any(map(is_measured, of_memory)))


def _service(
    inspection: InspectionEvidence | None, previous: ScoreRecord | None, draw: DrawEvidence | None
) -> PartScore:
    if draw is None:
        return _looked_at(inspection, previous)
    if draw.inspect_every == 0:
        return _unmeasured("service", "this validator does not inspect", previous)
    if not draw.is_inspected:
        return _undrawn("service", previous)
    if inspection is None:
        return _declined("service", "this validator failed; nothing was inspected", previous)
    return _looked_at(inspection, previous)


__all__ = [
    "ACCEPTABLE_PPM",
    "ALPHA_PPM",
    "RULES_VERSION",
    "WEIGHTS_PPM",
    "ScoringSystem",
    "effective_weights",
    "points",
]
