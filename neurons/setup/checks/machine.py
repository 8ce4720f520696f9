"""The machine itself: its system, clock, disk, memory and file descriptors, and the NVIDIA driver where there is one."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from neurons.setup.check import Check, Role, failure, met, warning
from neurons.setup.image import SOURCE_DATE_EPOCH
from neurons.setup.shell import find_program, run

GIB = 1024**3
DISK_REQUIRED_BYTES = {Role.MINER: 10 * GIB, Role.VALIDATOR: 2 * GIB, Role.RENTER: 1 * GIB}
MEMORY_REQUIRED_BYTES = {Role.MINER: 2 * GIB, Role.VALIDATOR: 1 * GIB, Role.RENTER: GIB // 2}
DESCRIPTORS_REQUIRED = 4096
_TIMEX_BYTES = 512  # struct timex is 208 bytes on 64-bit Linux; the kernel writes no more than that
_STA_UNSYNC = 0x40  # linux/timex.h
_TIME_ERROR = 5


def check_platform(system: str) -> Check:
    """Judge the operating system for a miner; the other roles run anywhere."""
    if system == "Linux":
        return met("system", system, "Linux")
    cause = "the miner runs on Linux: its containers need Linux's cgroups and namespaces"
    fix = "use a Linux machine, or ask for --role validator or --role renter"
    return failure("system", system or "unknown", "Linux", cause, fix)


@dataclass(frozen=True, slots=True)
class Clock:
    """The wall clock, and whether the kernel is told that it follows a time source; None when it cannot say."""

    unix_seconds: float
    is_synchronised: bool | None


def measure_clock() -> Clock:
    """Read the clock and ask the kernel (adjtimex, reading only) whether it is disciplined."""
    if platform.system() != "Linux" or ctypes.sizeof(ctypes.c_long) != 8:
        return Clock(time.time(), None)
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    except (OSError, AttributeError):
        return Clock(time.time(), None)
    if state < 0:
        return Clock(time.time(), None)
    # modes (int, padded to 8), offset, freq, maxerror, esterror (long each), then status (int).
    status = int.from_bytes(timex.raw[40:44], "little")
    return Clock(time.time(), state != _TIME_ERROR and not status & _STA_UNSYNC)


def check_clock(clock: Clock) -> Check:
    """Judge the clock: requests are good for 30 s either way, so a wrong clock is refused everywhere."""
    name, required = "clock", "right to 30 s"
    measured = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(clock.unix_seconds))
    if clock.unix_seconds < SOURCE_DATE_EPOCH:
        cause = "the clock stands before this software was written: every request would be refused as stale"
        return failure(name, measured, required, cause, "set the clock: timedatectl set-ntp true, or date -s")
    if clock.is_synchronised:
        return met(name, f"{measured}, synchronised", required)
    cause = "the kernel does not know of a time source that keeps this clock right"
    return warning(name, measured, required, cause, "timedatectl set-ntp true (package systemd-timesyncd or chrony)")


def measure_disk_free_bytes(folder: Path) -> int:
    """Return what is free where the folder, or its nearest existing parent, lies."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_disk(free_bytes: int, folder: str, role: Role) -> Check:
    """Judge the disk that images and leases, or the evidence, will fill."""
    name, required_bytes = "disk", DISK_REQUIRED_BYTES[role]
    measured, required = f"{free_bytes / GIB:.1f} GiB free at {folder}", f">= {required_bytes // GIB} GiB free"
    if free_bytes < required_bytes:
        fix = "docker system df; docker image prune; or put Docker's data folder on a larger disk"
        return failure(name, measured, required, "images and leases would fill the disk", fix)
    return met(name, measured, required)


def measure_memory_bytes() -> int | None:
    """Return the memory of the machine, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def check_memory(total_bytes: int | None, role: Role) -> Check:
    """Judge the memory of the machine."""
    name, required_bytes = "memory", MEMORY_REQUIRED_BYTES[role]
    required = f">= {required_bytes / GIB:.1f} GiB"
    if total_bytes is None:
        return warning(name, "unknown", required, "this system does not tell", "see to it yourself")
    if total_bytes < required_bytes:
        cause = "a lease of the default size would not fit beside the node"
        return failure(name, f"{total_bytes / GIB:.1f} GiB", required, cause, "use a machine with more memory")
    return met(name, f"{total_bytes / GIB:.1f} GiB", required)


def measure_descriptors() -> int | None:
    """Return the hard limit of open files of this process, which a node started from here inherits."""
    try:
        import resource  # does not exist on Windows
    except ImportError:
        return None
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard == resource.RLIM_INFINITY else int(hard)


def check_descriptors(hard_limit: int | None) -> Check:
    """Judge the limit of open files; `hard_limit` is None when there is none."""
    name, required = "open files", f">= {DESCRIPTORS_REQUIRED}"
    if hard_limit is None or hard_limit >= DESCRIPTORS_REQUIRED:
        return met(name, "no limit" if hard_limit is None else str(hard_limit), required)
    cause = "each connection and each log stream takes one"
    return warning(
        name, str(hard_limit), required, cause, f"ulimit -Hn {DESCRIPTORS_REQUIRED} before starting the node"
    )


@dataclass(frozen=True, slots=True)
class NvidiaFacts:
    """The driver's version and the cards it shows, whether containers can be given them, and whether kernels compile."""

    driver: str = ""
    cards: tuple[str, ...] = ()
    has_toolkit: bool = False
    has_compiler: bool = True


def measure_nvidia(runtimes: tuple[str, ...]) -> NvidiaFacts:
    """Ask nvidia-smi; `runtimes` are those the Docker engine knows."""
    if find_program("nvidia-smi") is None:
        return NvidiaFacts()
    outcome = run(["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"])
    rows = [row.split(", ", 1) for row in outcome.output.splitlines() if ", " in row] if outcome.ok else []
    has_toolkit = "nvidia" in runtimes or find_program("nvidia-ctk") is not None
    has_compiler = any(find_program(name) is not None for name in ("gcc", "clang"))
    return NvidiaFacts(rows[0][0] if rows else "", tuple(row[1] for row in rows), has_toolkit, has_compiler)


def check_nvidia(facts: NvidiaFacts) -> Check:
    """Judge the GPU side; a machine without a card is a CPU miner, and that is no fault."""
    name, required = "NVIDIA", "optional"
    if not facts.cards:
        return met(name, "no card: a CPU miner", required)
    measured = f"driver {facts.driver}, {len(facts.cards)} x {facts.cards[0]}"
    if not facts.has_toolkit:
        cause = "containers cannot be given a card without NVIDIA's container toolkit"
        return warning(name, measured, required, cause, "install nvidia-container-toolkit, restart the Docker engine")
    if not facts.has_compiler:
        cause = "the proof of work on a card needs a C compiler once, for Triton's launcher"
        return warning(name, measured, required, cause, "install gcc, and python3-dev for the Python of .venv")
    return met(name, measured, required)
