"""Reads a container's counters from the host's side: cgroup v1 or v2, and the interfaces of its network namespace.

Rules:
- Nothing inside the container is asked, and the engine only for the process id when the known one is gone.
- A process id alone names nothing: with its start time and the boot it does, and both are compared around the reading.
Source: Linux Documentation/admin-guide/cgroup-v1, cgroup-v2.rst, proc_pid_stat(5), proc_pid_net(5).
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from neurons.miner.meter import Reading
from telemetry.usage import CGROUP_ROOT, PROC, ContainerReader, cgroup_folders
from utils.clock import Clock

# Fields of a line of net/dev behind the colon: bytes received, bytes sent.
_RECEIVED, _SENT = 0, 8


class CounterReader:
    """Reads counters of processes on this host.

    Args:
        clock: Stamps the readings.
        proc: The host's /proc.
        cgroup_root: The host's cgroups.
    """

    def __init__(self, clock: Clock, *, proc: Path = PROC, cgroup_root: Path = CGROUP_ROOT) -> None:
        self._clock = clock
        self._proc = proc
        self._root = cgroup_root

    def source(self, pid: int) -> str | None:
        """Return the name under which a running process counts; None when there is no such process."""
        try:
            text = (self._proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        # The command may hold blanks and brackets; the 22nd field of all is the 20th behind the last bracket.
        fields = text.rpartition(")")[2].split()
        return f"{self._clock.boot_id()} {pid} {fields[19]}" if len(fields) > 19 else None

    def unread(self, source: str) -> Reading:
        """Return a reading of this instant without figures."""
        clock = self._clock
        return Reading(source, clock.boot_id(), clock.boot_ms(), clock.wall_unix_ms())

    def read(self, source: str) -> Reading | None:
        """Return the counters of a source; None when its process is gone."""
        pid = pid_of(source)
        if pid is None or self.source(pid) != source:
            return None
        stamp = self.unread(source)
        try:
            reader = ContainerReader(cgroup_folders(pid, proc=self._proc, root=self._root))
        except (OSError, ValueError):
            return None
        received, sent = self._network(pid)
        reading = Reading(
            source,
            stamp.boot_id,
            stamp.boot_ms,
            stamp.wall_unix_ms,
            cpu_ns=reader.cpu_ns(),
            network_in_bytes=received,
            network_out_bytes=sent,
            memory_bytes=reader.memory_used_bytes(),
        )
        # The figures are of that process only if it still lived behind them.
        return reading if self.source(pid) == source else None

    def is_gone(self, source: str) -> bool:
        """Whether a source's process has come to its end; False for what names none."""
        pid = pid_of(source)
        return pid is not None and self.source(pid) != source

    def kill(self, source: str) -> bool:
        """Kill a source's process, and with it everything in its container.

        Returns:
            False when it is gone, or this user may not.
        """
        pid = pid_of(source)
        if pid is None:
            return False
        try:
            # What the descriptor means stays the same, whoever gets the number afterwards.
            handle = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            if self.source(pid) != source:
                return False
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        except OSError:
            return False
        finally:
            os.close(handle)
        return True

    def _network(self, pid: int) -> tuple[int | None, int | None]:
        try:
            lines = (self._proc / str(pid) / "net" / "dev").read_text(encoding="ascii").splitlines()[2:]
            rows = [rest.split() for name, _, rest in (line.partition(":") for line in lines) if name.strip() != "lo"]
            return sum(int(row[_RECEIVED]) for row in rows), sum(int(row[_SENT]) for row in rows)
        except (OSError, ValueError, IndexError):
            return None, None


def pid_of(source: str) -> int | None:
    """Return the process id in a source's name."""
    parts = source.split()
    return int(parts[1]) if len(parts) == 3 else None
