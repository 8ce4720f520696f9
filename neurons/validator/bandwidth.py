"""What a transfer through a login showed, what is usual here, and when a claim of bandwidth is not met.

Rules:
- The figures are of our own clock; what did not come back whole has not come.
- What we can do ourselves is unknown, and a far miner is slower than a near one. So a claim is broken only by less than a
  tenth of the smallest of three: what it says, what other miners usually reach from here, and 100 Mbit/s.
- Fewer than three other miners are no custom; nobody is judged then. Nobody is judged by its own figure.
"""

from __future__ import annotations

import statistics
import threading
from typing import Annotated

from pydantic import Field

from polarise.decode import WireModel

FLOOR_PERCENT = 10
JUDGED_BITS_PER_SECOND_MAX = 100_000_000
OTHERS_MIN = 3
MINERS_KEPT = 64

Number = Annotated[int, Field(ge=0, lt=2**53)]


class Transfer(WireModel):
    """Bytes through one login, each way.

    Attributes:
        asked_bytes: How many were to go each way.
        sent_bytes: How many the container had when it answered with their hash; all or none.
        send_us: First byte sent to the hash received, microseconds.
        received_bytes: How many of them came back; all or none.
        receive_us: Request to last byte received, microseconds.
    """

    asked_bytes: Number
    sent_bytes: Number = 0
    send_us: Number = 0
    received_bytes: Number = 0
    receive_us: Number = 0

    @property
    def bits_per_second(self) -> int:
        """The slower of the two ways; 0 where one did not come through."""
        return min(_rate(self.sent_bytes, self.send_us), _rate(self.received_bytes, self.receive_us))


class NetworkTrial(Transfer):
    """A transfer, and what it is compared with.

    Attributes:
        usual_bits_per_second: Median of what other miners reached from here; 0 where too few were measured.
    """

    usual_bits_per_second: Number


class UsualRate:
    """What miners reach from this validator, of the newest 64; in memory only."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        self._lock = threading.Lock()

    def judgeable(self, miner_key: str, transfer: Transfer) -> NetworkTrial:
        """Note a miner's transfer, and return it with what is usual for the others."""
        with self._lock:
            self._newest.pop(miner_key, None)
            others = list(self._newest.values())
            self._newest[miner_key] = transfer.bits_per_second
            while len(self._newest) > MINERS_KEPT:
                self._newest.pop(next(iter(self._newest)))
        usual = int(statistics.median(others)) if len(others) >= OTHERS_MIN else 0
        return NetworkTrial(**transfer.model_dump(), usual_bits_per_second=usual)


def check(trial: NetworkTrial, claimed_bits_per_second: int) -> tuple[str, object, object, bool]:
    """Return the name of the check, what was measured, what it had to be, and whether it holds."""
    judged = min(claimed_bits_per_second, trial.usual_bits_per_second, JUDGED_BITS_PER_SECOND_MAX)
    least = judged * FLOOR_PERCENT // 100
    return (
        "network_bits_per_second of the host",
        trial.bits_per_second,
        f">= {least}",
        trial.bits_per_second >= least,
    )


def _rate(size: int, time_us: int) -> int:
    return size * 8 * 1_000_000 // max(time_us, 1)
