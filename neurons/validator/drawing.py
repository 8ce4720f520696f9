"""Which miners an epoch proves and inspects: one rule for the validator and for whoever recomputes it.

Rules:
- Who is met for the first time is proven and inspected at once: until then it has no score. So is who was scored by
  rules that knew no draw: they kept too little to go on from.
- All others are drawn from the epoch's beacon by the host of their endpoint, one epoch in ``every`` on average, proofs
  and inspections apart. Miners on one host are drawn together.
- Nobody is forgotten: after three times ``every`` epochs in a row without it a miner's turn comes, drawn or not.
- Proofs are spared where the miner's own score says so and nowhere else, so that an auditor needs the bundle alone.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from challenges.draw import is_drawn
from polarise.evidence import DrawEvidence, ScoreRecord
from polarise.registry import RegistryEntry

# A stretch of 3 x every epochs without a draw has a probability of e^-3, so one miner in twenty meets this bound.
OVERDUE_TIMES = 3
INSPECT_SUFFIX = "#inspect"
DRAWN_SINCE_RULES = 2


def draw_for(
    beacon: bytes, entry: RegistryEntry, previous: ScoreRecord | None, *, proof_every: int, inspect_every: int
) -> DrawEvidence:
    """Return whether one miner is to be proven and inspected in the epoch of this beacon.

    Args:
        beacon: Public randomness of the epoch, 32 bytes.
        entry: The miner's registry entry; its endpoint names the host.
        previous: Its newest score by this validator; None for a miner never scored.
        proof_every: A host is proven in about one epoch of so many, >= 1.
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


def host_of(entry: RegistryEntry) -> str:
    """Return the host of a miner's endpoint in lower case, or of an endpoint that names none the whole of it."""
    try:
        host = urlsplit(entry.endpoint).hostname
    except ValueError:
        host = None
    return (host or entry.endpoint).lower()


def _is_due(beacon: bytes, name: str, every: int, left_out_count: int | None) -> bool:
    if left_out_count is None or left_out_count + 1 >= OVERDUE_TIMES * every:
        return True
    return is_drawn(beacon, name, every)
