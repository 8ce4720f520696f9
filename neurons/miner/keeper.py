"""Ends each lease at its expiry; open connections are cut with it, within a second.

Rules:
- All containers that are due are killed before anything is cleaned up, several at a time.
- Nothing here waits for a lease that somebody holds: the kill needs no lock, and the clean-up comes back later.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future

from neurons.base.threads import DaemonThreads
from neurons.miner.lease import Lease, LeaseId, LeaseState
from neurons.miner.running import RunningLeases
from polarise.errors import Unavailable
from utils.clock import Clock

logger = logging.getLogger(__name__)

# The journal is asked this often; a lease ends at most this long, plus the kill, after its time.
INTERVAL_SECONDS = 0.25
# Enough that a handful of calls the engine is slow at does not hold up the rest.
THREADS_COUNT = 8
STOP_SECONDS = 5.0


class LeaseKeeper:
    """Watches the expiries of all leases.

    Args:
        leases: The granted leases.
        clock: For the time between two tries.
    """

    name = "lease-keeper"

    def __init__(self, leases: RunningLeases, clock: Clock) -> None:
        self._leases = leases
        self._clock = clock
        # What was claimed and is not gone yet, and when to try again; None while a thread is at it.
        self._ending: dict[LeaseId, tuple[Lease, int | None]] = {}

    def prepare(self) -> None:
        """Nothing to take."""

    def run(self, stop: threading.Event) -> None:
        """Look at the clock until ``stop`` is set."""
        threads = DaemonThreads(self.name, THREADS_COUNT)
        # A run before this one may have failed with jobs at work.
        self._ending = {lease_id: (lease, 0) for lease_id, (lease, _) in self._ending.items()}
        while not stop.wait(INTERVAL_SECONDS):
            self.end_expired(threads)
        if not threads.join(STOP_SECONDS):
            logger.warning("leases are still ending; the next start finishes them")

    def end_expired(self, threads: DaemonThreads) -> None:
        """Begin to end every lease whose time is over, and go on with those whose end was put off."""
        for lease in self._leases.journal.all():
            if lease.state is not LeaseState.ACTIVE or lease.expiry.remaining_ms(self._clock) > 0:
                continue
            if lease.lease_id in self._ending:
                continue
            try:
                # A renewal may have come between the look and this.
                claimed = self._leases.claim_expired(lease.lease_id)
            except Unavailable as err:
                # It cannot be written down, and is over all the same; nothing renews what has expired.
                logger.warning("an end is not written yet", extra={"lease_id": lease.lease_id, "cause": err.message})
                claimed = lease
            if claimed is not None:
                self._ending[lease.lease_id] = (claimed, 0)
        now_ns = self._clock.monotonic_ns()
        for lease_id, (lease, due_ns) in list(self._ending.items()):
            if due_ns is not None and due_ns <= now_ns:
                self._ending[lease_id] = (lease, None)
                threads.submit(self._kill, lease, threads).add_done_callback(self._log_defect)

    def _kill(self, lease: Lease, threads: DaemonThreads) -> None:
        try:
            self._leases.kill(lease)
        except Unavailable as err:
            self._put_off(lease, err)
        else:
            # At the end of the queue, behind the kills of the other leases.
            threads.submit(self._clean_up, lease).add_done_callback(self._log_defect)

    def _clean_up(self, lease: Lease) -> None:
        try:
            self._leases.clean_up(lease)
        except Unavailable as err:
            self._put_off(lease, err)
        else:
            del self._ending[lease.lease_id]

    def _log_defect(self, job: Future[None]) -> None:
        # Nobody else looks at these jobs; the row is DELETING, so that `reconcile` finishes what one left.
        if (error := job.exception()) is not None:
            logger.error("ending a lease failed", exc_info=error)

    def _put_off(self, lease: Lease, err: Unavailable) -> None:
        logger.warning("cannot end a lease yet", extra={"lease_id": lease.lease_id, "cause": err.message})
        self._ending[lease.lease_id] = (lease, self._clock.monotonic_ns() + err.retry_after_seconds * 1_000_000_000)
