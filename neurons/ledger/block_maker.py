"""The ledger's heartbeat: a block every block_seconds, and one more when the node stops."""

from __future__ import annotations

import logging
import threading

from ledger.embedded import EmbeddedLedger
from polarise.errors import Unavailable
from utils.clock import Clock

logger = logging.getLogger(__name__)

LATE_BLOCKS = 3


class BlockMaker:
    """Makes blocks as long as the node runs."""

    name = "blocks"

    def __init__(self, ledger: EmbeddedLedger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._seconds = ledger.genesis.block_seconds
        self._last_ns = clock.monotonic_ns()

    def prepare(self) -> None:
        """See `neurons.base.service.Service`; the first block after a start is made at once, beacons wait for it."""
        self._make()

    def run(self, stop: threading.Event) -> None:
        """See `neurons.base.service.Service`."""
        while not stop.wait(self._seconds):
            self._make()
        if self._ledger.log.size > self._ledger.last_block.block.size:
            self._make()

    def check(self) -> None:
        """Raise when blocks have stopped coming."""
        age_seconds = (self._clock.monotonic_ns() - self._last_ns) / 1e9
        if age_seconds > LATE_BLOCKS * self._seconds + 1:
            raise Unavailable(f"the last block is {age_seconds:.0f} s old", retry_after_seconds=self._seconds)

    def _make(self) -> None:
        made = self._ledger.make_block()
        self._last_ns = self._clock.monotonic_ns()
        logger.debug("block made", extra={"height": made.block.height, "size": made.block.size})
