"""How much of the last hour a device has spent on proofs, and when it may begin the next one.

Rules:
- What counts is the time from a challenge's start to its commitment, or to its failure, and that of filling memory before,
  over all validators together.
- The hour slides: work leaves it millisecond by millisecond. What a clock that was set back puts into the future is left
  out.
- A proof that has begun is finished: one may carry a device beyond its share.
- Beyond its share a device declines whom it can show the orders of others that filled it. To whom it cannot, it proves
  until that validator alone has had a whole share: a plain decline is worth nothing there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

WINDOW_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Work:
    """One stretch of work of one device.

    Attributes:
        device: UUID of the device.
        began_unix_ms: When it began, by the wall clock.
        work_ms: How long it took, by the monotonic clock.
        validator_key: For whom; empty where an older version worked.
    """

    device: str
    began_unix_ms: int
    work_ms: int
    validator_key: str = ""


def cap_ms(percent: float) -> int:
    """Return how much of an hour so many percent are, at least a millisecond."""
    return max(1, round(WINDOW_MS * percent / 100))


def wait_ms(works: Iterable[Work], cap_ms: int, now_unix_ms: int) -> int:
    """Return how long a device has to wait until it has spent less than its share of the last hour.

    Args:
        works: Its work; what is older than an hour may be among it.
        cap_ms: Its share, 1 to an hour; a whole hour never makes it wait.
        now_unix_ms: Wall clock.

    Returns:
        Milliseconds; 0 when it may begin now.
    """
    hour_began = now_unix_ms - WINDOW_MS
    stretches = sorted(
        (max(work.began_unix_ms, hour_began), work.began_unix_ms + work.work_ms)
        for work in works
        if work.began_unix_ms <= now_unix_ms and work.began_unix_ms + work.work_ms > hour_began
    )
    excess_ms = sum(end - began for began, end in stretches) - cap_ms
    if excess_ms < 0 or cap_ms >= WINDOW_MS:
        return 0
    for began, end in stretches:
        if end - began > excess_ms:
            return began + excess_ms + 1 - hour_began
        excess_ms -= end - began
    raise AssertionError("a share of at least a millisecond leaves the last stretch some of it")
