"""How long somebody is willing to wait: in total, or for each piece."""

from __future__ import annotations

import time
from typing import Protocol

from polarise.errors import DeadlineExceeded


class Patience(Protocol):
    """What a blocking call asks before it blocks."""

    def left_seconds(self) -> float:
        """Return how long the next blocking call may take, > 0.

        Raises:
            DeadlineExceeded: Nothing is left.
        """


class Deadline:
    """One end for many blocking calls together."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end_ns = time.monotonic_ns() + int(seconds * 1e9)

    def left_seconds(self) -> float:
        """See `Patience`."""
        left_ns = self._end_ns - time.monotonic_ns()
        if left_ns <= 0:
            raise DeadlineExceeded(f"no complete answer within {self._seconds:g} s")
        return left_ns / 1e9


class Idle:
    """The same time for each call, however many there are; in total as long as it takes, or until an end.

    Args:
        seconds: Longest single wait.
        seconds_max: For all of them together; None for no end.
    """

    def __init__(self, seconds: float, seconds_max: float | None = None) -> None:
        self._seconds = seconds
        self._end = None if seconds_max is None else Deadline(seconds_max)

    def left_seconds(self) -> float:
        """See `Patience`."""
        return self._seconds if self._end is None else min(self._seconds, self._end.left_seconds())
