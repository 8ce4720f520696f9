"""Which reason stands after a measurement, and what is left of a value that was not measured again; rules of version 2.

Rules:
- A reason stands until the same thing is measured again. Who was caught gets nothing back by not being drawn, by declining
  or by being rented.
- A pass clears it. A reason that closes the gate is replaced by another such reason and by nothing less: silence in the next
  round does not make good for an untruth in this one.
- A round in which a device declined (busy, duty cap) or was rented costs nothing twelve times in a row; then its value
  halves per round until it is measured. Rounds in which it was not drawn do not count.
"""

from __future__ import annotations

from collections.abc import Iterable

from polarise.errors import RejectReason

DECLINES_NEUTRAL = 12

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
        RejectReason.BLOCK_MISMATCH,
        RejectReason.TOO_FAST,
        RejectReason.OPENING_LATE,
        RejectReason.CLAIM_NOT_MET,
        RejectReason.HOST_KEY_MISMATCH,
        RejectReason.LIMIT_NOT_HELD,
        RejectReason.LOG_FORK,
    }
)
# Reasons that say "not now": nothing was measured, and nothing is blamed.
NEUTRAL_REASONS = frozenset({RejectReason.NOT_MEASURED, RejectReason.RENTED})


def standing_after(before: RejectReason | None, found: RejectReason | None) -> RejectReason | None:
    """Return the reason that stands after a measurement.

    Args:
        before: What stood until then.
        found: What the measurement found; None where it passed.
    """
    if found is None or found in GATE_REASONS or before not in GATE_REASONS:
        return found
    return before


def worst_of(reasons: Iterable[RejectReason]) -> RejectReason | None:
    """Return the first reason that closes the gate, or the first of all."""
    found = list(reasons)
    return next((reason for reason in found if reason in GATE_REASONS), next(iter(found), None))


def kept_ppm(last_ppm: int | None, declines_count: int) -> int | None:
    """Return what is left of the newest measured value after so many declines; None if there is none."""
    return None if last_ppm is None else last_ppm >> max(declines_count - DECLINES_NEUTRAL, 0)


def distinct(reasons: Iterable[RejectReason | None]) -> tuple[RejectReason, ...]:
    """Return each reason once, in the order they were found."""
    return tuple(dict.fromkeys(reason for reason in reasons if reason is not None))
