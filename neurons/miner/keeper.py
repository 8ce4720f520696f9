"""Ends each lease at its expiry; open connections are cut with it, within a second."""

from __future__ import annotations

import logging
import threading

from neurons.miner.allocate import ResourceAllocator
from neurons.miner.lease import LeaseState
from polarise.errors import Unavailable
from utils.clock import Clock

logger = logging.getLogger(__name__)

# The journal is asked this often; a lease ends at most this long, plus the kill, after its time.
INTERVAL_SECONDS = 0.25


class LeaseKeeper:
    """Watches the expiries of all leases."""

    name = "lease-keeper"

    def __init__(self, allocator: ResourceAllocator, clock: Clock) -> None:
        self._allocator = allocator
        self._clock = clock

    def prepare(self) -> None:
        """Nothing to take."""

    def run(self, stop: threading.Event) -> None:
        """Look at the clock until ``stop`` is set."""
        while not stop.wait(INTERVAL_SECONDS):
            self.end_expired()

    def end_expired(self) -> None:
        """End every lease whose time is over; one whose engine is away is tried again at the next look."""
        for lease in self._allocator.journal.all():
            if lease.state is not LeaseState.ACTIVE or lease.expiry.remaining_ms(self._clock) > 0:
                continue
            try:
                with self._allocator.holding(lease.lease_id):
                    # A renewal may have come between the look and the lock.
                    current = self._allocator.journal.by_id(lease.lease_id)
                    if current is None or current.expiry.remaining_ms(self._clock) > 0:
                        continue
                    logger.info("lease expired", extra={"lease_id": lease.lease_id})
                    self._allocator.terminate(current)
            except Unavailable as err:
                logger.warning("cannot end a lease", extra={"lease_id": lease.lease_id, "cause": err.message})
