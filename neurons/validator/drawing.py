"""Which miners an epoch proves and inspects, by rules 3: one rule for the validator and for whoever recomputes it.

Rules:
- One epoch in ``proof_every`` has a common window, drawn from its beacon: in it every miner of the epoch's set is proven, all
  at the same moment, so that one device answers for one miner however many names it has. A validator's first epoch by
  these rules has one too.
- Validators begin their epochs together and often have one beacon. So each one's windows are drawn by its key: if all had
  the same, every device would prove to one of them, and show the others that one's order, for ever.
- In the other epochs only those are proven that are met for the first time, or were scored by rules that knew no draw, so
  that their operator learns what comes of it; and those whose last proof is three times ``proof_every`` epochs ago.
- Inspections are drawn by the host of the endpoint, one epoch in ``inspect_every`` on average, three times as many at most.
  A miner whose container was never measured is inspected in every epoch until one was.
- Proofs are spared where the miner's own score says so and nowhere else, so that an auditor needs the bundle; that an epoch
  is the first, and that a miner was not there in a common window since its last score, follow from the epochs before.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from challenges.draw import is_drawn
from polarise.evidence import DrawEvidence, ScoreRecord
from polarise.registry import RegistryEntry

# Without a window for three times proof_every epochs, which happens once in e^3 = 20 times, everybody is proven again.
OVERDUE_TIMES = 3
# No host's name: it has a character that none can have. Behind it stands the validator's key.
WINDOW_PREFIX = "#window/"
INSPECT_SUFFIX = "#inspect"
DRAWN_SINCE_RULES = 2


@dataclass(frozen=True, slots=True)
class Intervals:
    """What an epoch's draws rest on beside beacon and miners; the commitment binds the intervals.

    Attributes:
        validator_key: Whose epoch it is.
        proof_every: One epoch of so many has a common window, >= 1.
        inspect_every: A host is inspected in about one epoch of so many; 0 where the validator inspects nobody.
        is_first: Whether it is the validator's first epoch by these rules.
    """

    validator_key: str
    proof_every: int
    inspect_every: int
    is_first: bool = False


def has_window(beacon: bytes, intervals: Intervals) -> bool:
    """Whether the epoch of this beacon has a common window.

    Raises:
        ValueError: The beacon is not of 32 bytes, or the interval is below 1.
    """
    name = WINDOW_PREFIX + intervals.validator_key
    return is_drawn(beacon, name, intervals.proof_every) or intervals.is_first


def draw_for(
    beacon: bytes,
    entry: RegistryEntry,
    previous: ScoreRecord | None,
    intervals: Intervals,
    *,
    has_missed_window: bool = False,
) -> DrawEvidence:
    """Return whether one miner is to be proven and inspected in the epoch of this beacon.

    Args:
        beacon: Public randomness of the epoch, 32 bytes.
        entry: The miner's registry entry; its endpoint names the host.
        previous: Its newest score by this validator; None for a miner never scored.
        intervals: What the draws rest on.
        has_missed_window: Whether there was a common window since that score.

    Raises:
        ValueError: The beacon is not of 32 bytes, or an interval is out of range.
    """
    known = previous if previous is not None and previous.rules_version >= DRAWN_SINCE_RULES else None
    is_common = has_window(beacon, intervals)
    return DrawEvidence(
        proof_every=intervals.proof_every,
        inspect_every=intervals.inspect_every,
        is_proven=is_common or known is None or is_overdue(known.undrawn_count, intervals.proof_every),
        is_inspected=intervals.inspect_every > 0 and _is_inspected(beacon, entry, known, intervals.inspect_every),
        is_first=intervals.is_first,
        is_common=is_common,
        has_missed_window=has_missed_window,
    )


def is_overdue(left_out_count: int, every: int) -> bool:
    """Whether a turn is due that was not drawn in so many epochs."""
    return left_out_count + 1 >= OVERDUE_TIMES * every


def host_of(entry: RegistryEntry) -> str:
    """Return the host of a miner's endpoint in lower case, or of an endpoint that names none the whole of it."""
    try:
        host = urlsplit(entry.endpoint).hostname
    except ValueError:
        host = None
    return (host or entry.endpoint).lower()


def _is_inspected(beacon: bytes, entry: RegistryEntry, known: ScoreRecord | None, every: int) -> bool:
    if known is None or known.part("service").last_ppm is None or is_overdue(known.uninspected_count, every):
        return True
    return is_drawn(beacon, host_of(entry) + INSPECT_SUFFIX, every)
