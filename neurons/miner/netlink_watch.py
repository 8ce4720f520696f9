"""Ends a lease whose programs take memory of the host that nothing else counts: netlink sockets, multicast groups.

Rules:
- No control group counts what lies in these sockets, and none limits their number: 50 of them took 398 MiB in 0.7 s out
  of a container of 64 MiB. So each lease's are summed up twice a second, and one that is over its limit is ended.
- The limit is that of its TCP and UDP sockets, `socket_memory`. A program that asks for its addresses reads the answer.
- A list that is longer than any honest one counts as over the limit: reading it may not cost more than it saves.
- A kill is all that the look waits for, never the engine: what is left of one lease is removed while the others are
  looked at, or a tenant with several would fill the rest meanwhile.
- Multicast groups are counted by no control group either: 20,000 of them took 8 MiB in 0.3 s, and each socket may join
  twenty of IPv4 and 2,340 of IPv6, also where IPv6 is off. No honest program joins thousands.
- Only the lease's own sockets count: those of its network namespace, which no other has and it cannot leave.
Source: proc_pid_net(5); net/netlink/af_netlink.c prints the columns, net/ipv4/igmp.c and net/ipv6/mcast.c the groups.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from pathlib import Path

from neurons.base.threads import DaemonThreads
from neurons.miner.journal import Journal
from neurons.miner.lease import Lease, LeaseState
from neurons.miner.running import RunningLeases
from neurons.miner.socket_memory import socket_bytes
from polarise.errors import Unavailable
from telemetry.usage import PROC

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.5
# Some 11,000 sockets, at 95 characters each.
TEXT_BYTES_MAX = 1 << 20
_RECEIVED, _SENT = 4, 5
# Some 7,000 groups of IPv4 or 3,700 of IPv6, which hold 3 MiB at most.
GROUPS = ("igmp", "igmp6")
GROUPS_BYTES_MAX = 1 << 18
# Of those that remove what is left of ended leases.
THREADS_COUNT = 4
STOP_SECONDS = 5.0


class NetlinkWatch:
    """Looks at the netlink sockets of all leases; a service.

    Args:
        leases: Whose containers are looked at.
        proc: The host's /proc.
    """

    name = "netlink-watch"

    def __init__(self, leases: RunningLeases, *, proc: Path = PROC) -> None:
        self._leases = leases
        self._journal: Journal = leases.journal
        self._proc = proc
        self._threads = DaemonThreads(self.name, THREADS_COUNT)

    def prepare(self) -> None:
        """Nothing to take."""

    def run(self, stop: threading.Event) -> None:
        """Look twice a second until ``stop`` is set."""
        while not stop.wait(INTERVAL_SECONDS):
            self.look()
        if not self._threads.join(STOP_SECONDS):
            logger.warning("leases are still ending; the next start finishes them")

    def look(self) -> None:
        """Look once, and end every lease that is over its limit."""
        for lease in self._journal.all():
            if lease.state is LeaseState.ACTIVE and (cause := self._excess(lease)) is not None:
                self._end(lease, cause)

    def _excess(self, lease: Lease) -> str | None:
        """Return in words what a lease has too much, None when it has not."""
        pid = self._leases.metering.pid_of(lease)
        if pid is None:
            return None
        sockets = self._read(pid, "netlink", TEXT_BYTES_MAX)
        groups = [self._read(pid, name, GROUPS_BYTES_MAX) for name in GROUPS]
        # The number may have gone to another process meanwhile.
        if self._leases.metering.pid_of(lease) != pid:
            return None
        return excess(sockets, lease.limits.memory_bytes) or next(filter(None, map(groups_excess, groups)), None)

    def _read(self, pid: int, name: str, bytes_max: int) -> bytes:
        try:
            with (self._proc / str(pid) / "net" / name).open("rb") as handle:
                return handle.read(bytes_max)
        except OSError:
            # The process is gone, or this kernel has no IPv6.
            return b""

    def _end(self, lease: Lease, cause: str) -> None:
        logger.warning("lease takes the host's memory and is ended", extra={"lease_id": lease.lease_id, "cause": cause})
        try:
            ending = self._leases.cut(lease, lost="host_memory_taken")
        except Unavailable as err:
            logger.warning("cannot end a lease yet", extra={"lease_id": lease.lease_id, "cause": err.message})
            return
        if ending is not None:
            self._threads.submit(self._remove, ending).add_done_callback(self._log_defect)

    def _remove(self, lease: Lease) -> None:
        try:
            self._leases.end(lease)
        except Unavailable as err:
            logger.warning("cannot end a lease yet", extra={"lease_id": lease.lease_id, "cause": err.message})

    def _log_defect(self, job: Future[None]) -> None:
        # Nobody else looks at these jobs; the row is DELETING, so that `reconcile` finishes what one left.
        if (error := job.exception()) is not None:
            logger.error("ending a lease failed", exc_info=error)


def excess(text: bytes, memory_bytes: int) -> str | None:
    """Return in words what is too much in a text of /proc/net/netlink for a lease of so much memory; None for nothing."""
    most, held = socket_bytes(memory_bytes), held_bytes(text)
    if len(text) >= TEXT_BYTES_MAX:
        count = text.count(b"\n")
        return f"more than {count} netlink sockets are open"
    return f"{held} bytes lie in netlink sockets, {most} may" if held > most else None


def groups_excess(text: bytes) -> str | None:
    """Return in words what is too much in a text of /proc/net/igmp or igmp6; None for nothing."""
    lines = text.count(b"\n")
    return f"more than {lines} lines of multicast groups are joined" if len(text) >= GROUPS_BYTES_MAX else None


def held_bytes(text: bytes) -> int:
    """Return what the sockets of /proc/net/netlink hold together; a line that was cut off counts for nothing."""
    rows = [line.split() for line in text.splitlines()[1:]]
    return sum(int(row[_RECEIVED]) + int(row[_SENT]) for row in rows if len(row) > _SENT)
