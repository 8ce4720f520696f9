"""A score taken apart: per part what was measured, claimed, weighed and lost, why, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from neurons.validator.metrics import StoredScore
from neurons.validator.scoring import ACCEPTABLE_PPM, DECLINES_NEUTRAL, GATE_REASONS, effective_weights, points
from neurons.validator.verification import UNITS
from polarise.errors import RejectReason
from polarise.evidence import KindRate, PartScore, ScoreRecord
from polarise.fixes import FIXES
from polarise.verdict import fixes_of, gate_text, lost_text, message_of, smoothing_text, weight_text

PPM = 1_000_000
_SCALES = ((10**9, "G "), (10**6, "M "))


@dataclass(frozen=True, slots=True)
class Loss:
    """One line of an explanation.

    Attributes:
        part: Which part, or ``gate`` and ``smoothing``.
        measured: Measured figure, as text.
        claimed: What it is compared with, as text.
        rates: Measured and claimed rate of each kind of proof, as text.
        weight_ppm: Share of the whole that this part had.
        lost_ppm: Points lost to it, in millionths of the whole score; below 0 what smoothing gave. All lines together are
            what the score is short of 100 points, but for roundings.
        reasons: Reason codes.
        message: What happened.
        fixes: What to do, in the order of the reasons.
    """

    part: str
    measured: str
    claimed: str
    weight_ppm: int
    lost_ppm: int
    reasons: tuple[RejectReason, ...]
    message: str
    fixes: tuple[str, ...]
    rates: tuple[str, ...] = ()

    def to_wire(self) -> dict[str, object]:
        """Return the line as JSON-ready values."""
        return {
            "part": self.part,
            "measured": self.measured,
            "claimed": self.claimed,
            "rates": list(self.rates),
            "weight_ppm": self.weight_ppm,
            "lost_points": lost_text(self.lost_ppm),
            "reasons": [str(reason) for reason in self.reasons],
            "message": self.message,
            "fixes": list(self.fixes),
        }


def explain(score: ScoreRecord) -> list[Loss]:
    """Return one line per part, then what smoothing and the gate did."""
    weights = effective_weights(score.parts)
    lines = [_part_line(score, part, weights.get(part.name, 0)) for part in score.parts]
    if score.raw_ppm is not None and score.smoothed_ppm != score.raw_ppm:
        lines.append(_smoothing_line(score, score.raw_ppm))
    if score.gate == 0:
        closing = tuple(reason for reason in score.reasons if reason in GATE_REASONS)
        lines.append(
            Loss(
                "gate",
                "closed",
                "open",
                PPM,
                score.smoothed_ppm,
                closing,
                gate_text(score),
                _fixes(closing),
            )
        )
    return lines


def explanation_wire(stored: StoredScore) -> dict[str, object]:
    """Return a whole explanation as JSON-ready values."""
    return {
        "miner_key": stored.miner_key,
        "epoch": stored.epoch,
        "score": points(stored.record.score_ppm),
        "is_acceptable": stored.record.score_ppm >= ACCEPTABLE_PPM,
        "rules_version": stored.record.rules_version,
        "evidence": stored.evidence,
        "parts": [line.to_wire() for line in explain(stored.record)],
        "weight": weight_text(stored.record),
    }


def _part_line(score: ScoreRecord, part: PartScore, weight_ppm: int) -> Loss:
    lost_ppm = 0 if part.value_ppm is None else weight_ppm * (PPM - part.value_ppm) // PPM
    measured = _measured_text(part)
    claimed = "" if part.claimed is None else f"{part.claimed} containers kept every promise"
    if part.rates and part.value_ppm is not None:
        measured, claimed = f"{points(part.value_ppm)} %", "the claims, by the weakest proof"
        if part.declines_count:
            measured += f" (excused devices: kept from before, {part.declines_count} of {DECLINES_NEUTRAL} declines)"
    return Loss(
        part.name,
        measured,
        claimed,
        weight_ppm,
        lost_ppm,
        part.reasons,
        message_of(score, part),
        # A part that nobody measures yet has no fix.
        fixes_of(part) if part.value_ppm is not None or part.declines_count else (),
        tuple(_rate_text(rate) for rate in part.rates),
    )


def _measured_text(part: PartScore) -> str:
    if part.measured is not None:
        return f"{part.measured} lines in the log" if part.name == "telemetry" else str(part.measured)
    if part.declines_count and part.value_ppm is not None and part.last_ppm is not None:
        return f"kept from before, {part.declines_count} of {DECLINES_NEUTRAL} declines"
    return "not measured"


def _rate_text(rate: KindRate) -> str:
    scale, prefix = next((step for step in _SCALES if rate.claimed_per_second >= step[0]), (1, ""))
    measured, claimed = (f"{value / scale:.1f}" for value in (rate.measured_per_second, rate.claimed_per_second))
    return f"{rate.kind}: {measured} of {claimed} {prefix}{UNITS[rate.kind]}"


def _smoothing_line(score: ScoreRecord, raw_ppm: int) -> Loss:
    # Negative when earlier, better measurements still help.
    lost_ppm = raw_ppm - score.smoothed_ppm
    return Loss("smoothing", points(score.smoothed_ppm), points(raw_ppm), 0, lost_ppm, (), smoothing_text(score), ())


def _fixes(reasons: tuple[RejectReason, ...]) -> tuple[str, ...]:
    return tuple(FIXES[reason] for reason in reasons)
