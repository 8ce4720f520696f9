"""What this machine is: processor, memory, disk; read from the operating system, never guessed."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path

_CPU_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)


def cpu_model() -> str:
    """Return the processor's name, as /proc/cpuinfo gives it on Linux."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_identity() -> str:
    """Return what tells compiled code for this processor from code for another: its name and its instruction sets."""
    path = Path("/proc/cpuinfo")
    first = path.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0] if path.exists() else ""
    named = ("vendor_id", "model name", "flags", "CPU implementer", "CPU part", "Features")
    lines = [line for line in first.splitlines() if line.startswith(named)]
    return "\n".join([platform.machine(), *lines])


def cpu_count() -> int:
    """Return the number of CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def cpus_online() -> frozenset[int]:
    """Return the numbers of the CPUs that the kernel uses; where it does not say, as many as Python counts."""
    path = Path("/sys/devices/system/cpu/online")
    return cpu_numbers(path.read_text(encoding="ascii")) if path.exists() else frozenset(range(os.cpu_count() or 1))


def cpu_numbers(text: str) -> frozenset[int]:
    """Return the CPUs of a list as the kernel and `taskset` write it: ``0-3,8``.

    Raises:
        ValueError: It is no such list.
    """
    found: set[int] = set()
    for part in text.strip().split(","):
        match = _CPU_RANGE.fullmatch(part)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise ValueError(f"{text[:64]!r} is not a list of CPUs; write it as 0-3,8")
        found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)


def memory_bytes() -> int:
    """Return the physical memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def disk_free_bytes(folder: Path) -> int:
    """Return what is free on the disk of a folder."""
    return shutil.disk_usage(folder).free
