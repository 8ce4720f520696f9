"""Reads what each lease uses every five seconds, when somebody asks, and once more before its container is killed.

Rules:
- Nothing here keeps a lease from ending: what cannot be read or written is logged, and the end goes on.
- The engine is asked only for a container whose known process is gone, and never on the way to an end.
"""

from __future__ import annotations

import logging
import sqlite3
import threading

from neurons.miner.container import ContainerManager
from neurons.miner.counters import CounterReader, pid_of
from neurons.miner.journal import Also, Journal
from neurons.miner.lease import Lease, LeaseState
from neurons.miner.meter import INTERVAL_SECONDS, Reading
from neurons.miner.usage_book import UsageBook
from polarise.errors import Unavailable
from polarise.statement import SignedStatement
from utils.clock import Clock

logger = logging.getLogger(__name__)


class Metering:
    """Counts what the leases of one node use.

    Args:
        journal: The node's leases.
        book: Sums and statements.
        manager: Knows the containers' first processes.
        clock: Wall and boot clock.
        reader: Reads counters.
    """

    name = "metering"

    def __init__(
        self,
        journal: Journal,
        book: UsageBook,
        manager: ContainerManager,
        clock: Clock,
        reader: CounterReader | None = None,
    ) -> None:
        self.book = book
        self._journal = journal
        self._manager = manager
        self._clock = clock
        self._reader = reader or CounterReader(clock)

    def prepare(self) -> None:
        """Nothing to take."""

    def run(self, stop: threading.Event) -> None:
        """Read all leases every five seconds until ``stop`` is set."""
        while not stop.wait(INTERVAL_SECONDS):
            self.read_all()

    def read_all(self) -> None:
        """Add one reading of every active lease whose container runs."""
        active = [lease for lease in self._journal.all() if lease.state is LeaseState.ACTIVE]
        self._record([(lease, reading) for lease in active if (reading := self._read(lease)) is not None])

    def read(self, lease: Lease) -> None:
        """Add one reading of a lease whose container runs."""
        if (reading := self._read(lease)) is not None:
            self._record([(lease, reading)])

    def read_restarted(self, lease: Lease) -> None:
        """Add the first reading of a container that was started again, on a full disk too.

        Only by it are its new first process and the time since known: to what ends it without the engine, and to what
        watches its memory.
        """
        if (reading := self._read(lease)) is not None:
            self._record([(lease, reading)], is_needed=True)

    def begun(self, pid: int) -> Also:
        """Return what begins to count a lease whose container has this first process, when it is handed out."""
        source = self._reader.source(pid) or ""
        # A warm slot has run for a while; what it used before is not the renter's.
        first = self._reader.read(source) or self._reader.unread(source)
        return lambda connection, lease: self.book.begin(connection, lease, first)

    def read_last(self, lease: Lease) -> None:
        """Add the last reading of a lease whose container is about to be killed; whatever fails, the end goes on."""
        if (reading := self._read_known(lease)) is not None:
            self._record([(lease, reading)], is_needed=True)

    def pid_of(self, lease: Lease) -> int | None:
        """Return the first process of a lease's container while it lives; None when it is gone or not known."""
        source = self._known_source(lease)
        pid = None if source is None else pid_of(source)
        return pid if pid is not None and self._reader.source(pid) == source else None

    def kill(self, lease: Lease) -> bool:
        """Kill the first process of a lease's container, without the engine; returns False when it is not known."""
        source = self._known_source(lease)
        return source is not None and self._reader.kill(source)

    def is_gone(self, lease: Lease) -> bool:
        """Whether the first process of a lease's container is known and runs no more."""
        source = self._known_source(lease)
        return source is not None and self._reader.is_gone(source)

    def now(self, lease: Lease) -> SignedStatement | None:
        """Return a signed interim statement that reaches to this moment; None when nothing was counted yet."""
        self.read(lease)
        return self.book.interim(lease)

    def ended(self, now_unix_ms: int) -> Also:
        """Return what makes the final statement of a lease when its row is dropped."""
        return lambda connection, lease: self.book.close(connection, lease, now_unix_ms)

    def _record(self, readings: list[tuple[Lease, Reading]], *, is_needed: bool = False) -> None:
        # On a full disk the last room is for ends, and what they need; the kernel keeps counting.
        if not readings or (self._journal.ballast.is_given_up and not is_needed):
            return
        overdue_ms = {lease.lease_id: max(0, -lease.expiry.remaining_ms(self._clock)) for lease, _ in readings}
        try:
            self.book.record({lease.lease_id: (read, overdue_ms[lease.lease_id]) for lease, read in readings})
        except (sqlite3.Error, Unavailable) as err:
            logger.warning("usage is counted later", extra={"cause": str(err)})

    def _read(self, lease: Lease) -> Reading | None:
        known = self._read_known(lease)
        return known if known is not None else self._read_restarted(lease)

    def _read_known(self, lease: Lease) -> Reading | None:
        source = self._known_source(lease)
        return None if source is None else self._reader.read(source)

    def _known_source(self, lease: Lease) -> str | None:
        try:
            meter = self.book.meter(lease.lease_id)
        except Unavailable as err:
            logger.warning("usage cannot be read", extra={"lease_id": lease.lease_id, "cause": err.message})
            return None
        return None if meter is None else meter.last.source

    def _read_restarted(self, lease: Lease) -> Reading | None:
        try:
            container = self._manager.find(lease)
        except Unavailable as err:
            logger.debug("usage is counted later", extra={"lease_id": lease.lease_id, "cause": err.message})
            return None
        if container is None or container.status != "running":
            return None
        source = self._reader.source(int(container.attrs["State"]["Pid"]))
        return None if source is None else self._reader.read(source)
