"""Which miners an epoch proved and inspected by rules 2; they stay as they are, so that old bundles can be recomputed for ever.

Rules:
- Who is met for the first time is proven and inspected at once; so is who was scored by rules that knew no draw.
- All others are drawn from the epoch's beacon by the host of their endpoint, one epoch in ``every`` on average, proofs and
  inspections apart, and after three times ``every`` epochs in a row without it.
"""

from __future__ import annotations

from challenges.draw import is_drawn
from neurons.validator.drawing import DRAWN_SINCE_RULES, INSPECT_SUFFIX, host_of, is_overdue
from polarise.evidence import DrawEvidence, ScoreRecord
from polarise.registry import RegistryEntry


def draw_by_host(
    beacon: bytes, entry: RegistryEntry, previous: ScoreRecord | None, *, proof_every: int, inspect_every: int
) -> DrawEvidence:
    """Return whether one miner was to be proven and inspected in the epoch of this beacon.

    Args:
        beacon: Public randomness of the epoch, 32 bytes.
        entry: The miner's registry entry; its endpoint names the host.
        previous: Its newest score by this validator; None for a miner never scored.
        proof_every: A host was proven in about one epoch of so many, >= 1.
        inspect_every: Likewise for inspections.

    Raises:
        ValueError: The beacon is not of 32 bytes, or an interval is below 1.
    """
    host = host_of(entry)
    known = previous if previous is not None and previous.rules_version >= DRAWN_SINCE_RULES else None
    undrawn_count = None if known is None else known.undrawn_count
    uninspected_count = None if known is None else known.uninspected_count
    return DrawEvidence(
        proof_every=proof_every,
        inspect_every=inspect_every,
        is_proven=_is_due(beacon, host, proof_every, undrawn_count),
        is_inspected=_is_due(beacon, host + INSPECT_SUFFIX, inspect_every, uninspected_count),
    )


def _is_due(beacon: bytes, name: str, every: int, left_out_count: int | None) -> bool:
    if left_out_count is None or is_overdue(left_out_count, every):
        return True
    return is_drawn(beacon, name, every)
