"""The time one miner may take in one epoch, so that none holds up the examination of the others.

Rules:
- Who holds its claims has time for all of its proofs and an inspection; whoever dawdles uses up its own time only.
- Every deadline of an examination is cut to what is left.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from neurons.validator.challenges import Challenge
from polarise.errors import ProofRejected, RejectReason

FLOOR_SECONDS = 60.0
GENEROUS = 3.0
HONEST = 1.5


class Budget:
    """Seconds for one miner, counted from here.

    Args:
        seconds: For everything together.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end_ns = time.monotonic_ns() + int(seconds * 1e9)

    def clamp(self, seconds: float) -> float:
        """Return a deadline cut to what is left.

        Raises:
            ProofRejected: MISSING, nothing is left.
        """
        left_seconds = (self._end_ns - time.monotonic_ns()) / 1e9
        if left_seconds <= 0:
            raise ProofRejected(
                RejectReason.MISSING,
                "the time for this miner's examination was used up before",
                expected=f"everything within {self.seconds:.0f} s",
            )
        return min(seconds, left_seconds)


def seconds_for(challenges: Sequence[Challenge], *, target_seconds: int, epoch_seconds: int) -> float:
    """Return how long an examination may take.

    Args:
        challenges: All proofs of the miner.
        target_seconds: What a proof should take; a tiny claim must not buy more than twice that.
        epoch_seconds: A minute and one and a half times the proofs are granted beyond it too, or a host of many
            devices could not be examined at all.
    """
    work_seconds = sum(min(challenge.expected_seconds, 2.0 * target_seconds) for challenge in challenges)
    least_seconds = max(float(epoch_seconds), FLOOR_SECONDS + HONEST * work_seconds)
    return min(least_seconds, FLOOR_SECONDS + GENEROUS * work_seconds)
