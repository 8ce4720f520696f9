"""The time one inspection may take, so that no miner holds up the examination of the others for long.

Every deadline of an inspection is cut to what is left; whoever dawdles uses up its own time only.
"""

from __future__ import annotations

import time

from polarise.errors import ProofRejected, RejectReason


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
