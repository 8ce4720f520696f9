"""What the host and each container use, read from /proc and from the cgroup files of both layouts.

Rules:
- A figure that cannot be read is None; nothing is guessed and nothing is carried over from an earlier reading.
- Rates are differences of counters over the caller's monotonic clock; the first reading has none.
Source: Linux Documentation/admin-guide/cgroup-v1, cgroup-v2.rst, proc_stat(5), proc_meminfo(5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
PROC = Path("/proc")
# cgroup v1 writes "no limit" as the largest multiple of the page size.
UNLIMITED = 2**62
COUNTER_DIGITS_MAX = 20
_CONTROLLERS = ("memory", "cpuacct", "pids")


@dataclass(frozen=True, slots=True)
class HostUsage:
    """One reading of the host.

    Attributes:
        cpu_usage_ratio: Share of all CPUs' time since the last reading, 0..1.
        memory_used_bytes: Total less available.
        memory_total_bytes: Physical memory.
    """

    cpu_usage_ratio: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """One reading of one container.

    Attributes:
        cpu_usage_ratio: CPU seconds per second since the last reading; 2.0 is two CPUs.
        memory_used_bytes: Without the page cache the kernel can drop at once.
        memory_limit_bytes: None when there is no limit.
        pids_count: Processes and threads.
    """

    cpu_usage_ratio: float | None
    memory_used_bytes: int | None
    memory_limit_bytes: int | None
    pids_count: int | None


class HostReader:
    """Reads the host."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._last: tuple[int, int] | None = None

    def read(self) -> HostUsage:
        """Return the usage now."""
        busy_and_total = self._cpu_ticks()
        ratio = None
        if busy_and_total and self._last and busy_and_total[1] > self._last[1]:
            ratio = (busy_and_total[0] - self._last[0]) / (busy_and_total[1] - self._last[1])
        self._last = busy_and_total
        sizes = self._memory()
        total, available = sizes.get("MemTotal"), sizes.get("MemAvailable")
        used = total - available if total is not None and available is not None else None
        return HostUsage(None if ratio is None else min(max(ratio, 0.0), 1.0), used, total)

    def _cpu_ticks(self) -> tuple[int, int] | None:
        first, _, _ = (_text(self._proc / "stat") or "").partition("\n")
        ticks = [number for field in first.split()[1:9] if (number := _count(field)) is not None]
        return (sum(ticks) - ticks[3] - ticks[4], sum(ticks)) if len(ticks) == 8 else None

    def _memory(self) -> dict[str, int]:
        lines = (_text(self._proc / "meminfo") or "").splitlines()
        sizes = {}
        for line in lines:
            name, _, rest = line.partition(":")
            kib = _count(rest.split()[0]) if rest.split() else None
            if name in {"MemTotal", "MemAvailable"} and kib is not None:
                sizes[name] = kib * 1024
        return sizes


class ContainerReader:
    """Reads one container.

    Args:
        folders: Controller (``memory``, ``cpuacct``, ``pids``) or ``""`` for the v2 tree -> folder.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders
        self._is_unified = "" in folders
        self._last: tuple[int, int] | None = None

    def read(self, monotonic_ns: int) -> ContainerUsage:
        """Return the usage now."""
        used, limit = self._memory()
        return ContainerUsage(self._cpu(monotonic_ns), used, limit, self._number("pids", "pids.current"))

    def cpu_ns(self) -> int | None:
        """Return the CPU time of all its processes since it started."""
        if self._is_unified:
            usage_us = self._field("", "cpu.stat", "usage_usec")
            return None if usage_us is None else usage_us * 1000
        return self._number("cpuacct", "cpuacct.usage")

    def memory_used_bytes(self) -> int | None:
        """Return the memory in use, without the page cache the kernel can drop at once."""
        return self._memory()[0]

    def _cpu(self, monotonic_ns: int) -> float | None:
        usage_ns = self.cpu_ns()
        now = None if usage_ns is None else (monotonic_ns, usage_ns)
        last, self._last = self._last, now
        if now is None or last is None or now[0] <= last[0] or now[1] < last[1]:
            return None
        return (now[1] - last[1]) / (now[0] - last[0])

    def _memory(self) -> tuple[int | None, int | None]:
        if self._is_unified:
            used, cache = self._number("", "memory.current"), self._field("", "memory.stat", "inactive_file")
            limit = self._number("", "memory.max")
        else:
            used = self._number("memory", "memory.usage_in_bytes")
            cache = self._field("memory", "memory.stat", "total_inactive_file")
            limit = self._number("memory", "memory.limit_in_bytes")
        return (None if used is None else max(used - (cache or 0), 0)), limit

    def _number(self, controller: str, name: str) -> int | None:
        text = (_text(self._folder(controller) / name) or "").strip()
        number = _count(text)
        return None if number is None or number >= UNLIMITED else number

    def _field(self, controller: str, name: str, field: str) -> int | None:
        for line in (_text(self._folder(controller) / name) or "").splitlines():
            key, _, value = line.partition(" ")
            if key == field:
                return _count(value)
        return None

    def _folder(self, controller: str) -> Path:
        return self._folders["" if self._is_unified else controller]


def cgroup_folders(pid: int, *, proc: Path = PROC, root: Path = CGROUP_ROOT) -> dict[str, Path]:
    """Return the cgroup folders of a process; they stay the same when its container is started again.

    Raises:
        OSError: The process is gone.
        ValueError: It is in no cgroup of its own, so that its figures would be the whole host's.
    """
    groups: dict[str, str] = {}
    for line in (proc / str(pid) / "cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path.lstrip("/")))
    if all(controller in groups for controller in _CONTROLLERS):
        folders = {controller: root / controller / groups[controller] for controller in _CONTROLLERS}
        paths = [groups[controller] for controller in _CONTROLLERS]
    else:
        folders, paths = {"": root / groups.get("", "")}, [groups.get("", "")]
    if not all(paths):
        raise ValueError(f"process {pid} is in the root cgroup")
    return folders


def _count(text: str) -> int | None:
    """Return a counter of the kernel, at most 64 bits; None for anything else."""
    return int(text) if text.isdigit() and len(text) <= COUNTER_DIGITS_MAX else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
