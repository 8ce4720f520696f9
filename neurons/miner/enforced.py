"""What the kernel really enforces on a running container, read from the host's side after it started.

Rules:
- Both cgroup layouts are read (v1: one tree per controller, v2: one tree); the container's own word is not asked.
- A container whose limits differ from what was asked for is never handed out.
Source: Linux Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst, proc(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path

from neurons.miner.hard_limits import HardLimits, read_limits
from neurons.miner.profile import LOCKED_BYTES_MAX, OPEN_FILES_MAX, QUEUE_BYTES_MAX, SIGNALS_MAX, Privileges
from polarise.receipt import Limits
from utils.host import cpu_numbers

CGROUP_ROOT = Path("/sys/fs/cgroup")
# cgroup v1 writes "no limit" as the largest multiple of the page size.
UNLIMITED = 2**62
CPU_TOLERANCE_MILLI = 10
STANDARD = Privileges()
CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


@dataclass(frozen=True, slots=True)
class Enforced:
    """Limits of one container as the kernel has them; None means none is set.

    Attributes:
        memory_bytes: Hard memory limit.
        swap_bytes: Swap beyond it.
        cpu_milli: CPU quota in thousandths of one CPU.
        pids_count: Processes and threads.
        shm_bytes: Size of /dev/shm.
        capability_mask: All that PID 1 has or could come to have: every set of its capabilities together.
        process: What each of its processes may open, lock and leave behind.
        cpus: CPUs it may run on, by number.
        user_id: Whose process it is, as the container counts.
        has_no_new_privileges: Whether PID 1 and its children can gain none.
        has_seccomp_filter: Whether a system call filter is on.
    """

    memory_bytes: int | None
    swap_bytes: int | None
    cpu_milli: int | None
    pids_count: int | None
    shm_bytes: int | None
    capability_mask: int
    process: HardLimits
    cpus: frozenset[int]
    user_id: int
    has_no_new_privileges: bool
    has_seccomp_filter: bool

    def differences(self, wanted: Limits, allowed: Privileges = STANDARD) -> list[str]:
        """Return one sentence per limit that does not hold; empty when all do.

        Args:
            wanted: The lease's limits.
            allowed: What its first process may have.
        """
        pairs: list[tuple[str, object, object]] = [
            ("memory_bytes", self.memory_bytes, wanted.memory_bytes),
            ("swap_bytes", self.swap_bytes, wanted.swap_bytes),
            ("pids_count", self.pids_count, wanted.pids_count),
            ("shm_bytes", self.shm_bytes, wanted.shm_bytes),
            ("no_new_privileges", self.has_no_new_privileges, True),
            ("seccomp filter", self.has_seccomp_filter, True),
            ("core_bytes", self.process.core_bytes, 0),
            ("user_id", self.user_id, allowed.user_id),
        ]
        if allowed.cpus is not None:
            pairs.append(("cpus", sorted(self.cpus), sorted(allowed.cpus)))
        found = [f"{name} is {got}, asked for {want}" for name, got, want in pairs if got != want]
        if self.cpu_milli is None or abs(self.cpu_milli - wanted.cpu_milli) > CPU_TOLERANCE_MILLI:
            found.append(f"cpu_milli is {self.cpu_milli}, asked for {wanted.cpu_milli}")
        for name, got, most in (
            ("open_files", self.process.open_files, OPEN_FILES_MAX),
            ("locked_bytes", self.process.locked_bytes, LOCKED_BYTES_MAX),
            ("signals_count", self.process.signals_count, SIGNALS_MAX),
            ("queue_bytes", self.process.queue_bytes, QUEUE_BYTES_MAX),
        ):
            if got is None or got > most:
                found.append(f"{name} is {got}, asked for at most {most}")
        if extra := self.capability_mask & ~allowed.capability_mask:
            found.append(f"capabilities beyond the allowed ones: {extra:#x}")
        return found


def read_enforced(pid: int, *, proc: Path = Path("/proc"), cgroup_root: Path = CGROUP_ROOT) -> Enforced:
    """Read what holds for the container whose first process has this host pid.

    Raises:
        OSError: The process is gone, or this user may not look.
    """
    groups = _groups((proc / str(pid) / "cgroup").read_text(encoding="ascii"))
    status = _status((proc / str(pid) / "status").read_text(encoding="utf-8", errors="replace"))
    memory, swap = _memory(groups, cgroup_root, proc)
    return Enforced(
        memory_bytes=memory,
        swap_bytes=swap,
        cpu_milli=_cpu_milli(groups, cgroup_root),
        pids_count=_number(_folder(groups, "pids", cgroup_root) / "pids.max"),
        shm_bytes=_shm_bytes((proc / str(pid) / "mountinfo").read_text(encoding="utf-8", errors="replace")),
        capability_mask=reduce(or_, (int(status[name], 16) for name in CAPABILITY_SETS)),
        process=read_limits(pid, proc=proc),
        cpus=cpu_numbers(status["Cpus_allowed_list"]),
        user_id=_inside(int(status["Uid"].split()[0]), (proc / str(pid) / "uid_map").read_text(encoding="ascii")),
        has_no_new_privileges=status.get("NoNewPrivs") == "1",
        has_seccomp_filter=status.get("Seccomp") == "2",
    )


def _inside(user_id: int, uid_map: str) -> int:
    """Return the number that a user of the host has in a user namespace, see user_namespaces(7).

    Raises:
        ValueError: It has none there.
    """
    for line in uid_map.splitlines():
        inside, outside, count = (int(word) for word in line.split())
        if outside <= user_id < outside + count:
            return user_id - outside + inside
    raise ValueError(f"user {user_id} is not one of the container's")


def _groups(text: str) -> dict[str, str]:
    """Map each v1 controller, and "" for the v2 tree, to its path."""
    groups: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    return groups


def _folder(groups: dict[str, str], controller: str, root: Path) -> Path:
    if controller in groups:
        return root / controller / groups[controller].lstrip("/")
    return root / groups[""].lstrip("/")


def _memory(groups: dict[str, str], root: Path, proc: Path) -> tuple[int | None, int | None]:
    folder = _folder(groups, "memory", root)
    if "memory" not in groups:
        return _number(folder / "memory.max"), _number(folder / "memory.swap.max")
    memory = _number(folder / "memory.limit_in_bytes")
    both = _number(folder / "memory.memsw.limit_in_bytes")
    if both is None or memory is None:
        # Without swap accounting the file is missing; then nothing limits swap unless the host has none.
        return memory, 0 if memory is not None and not _host_has_swap(proc) else None
    return memory, both - memory


def _cpu_milli(groups: dict[str, str], root: Path) -> int | None:
    folder = _folder(groups, "cpu", root)
    if "cpu" not in groups:
        quota_text, _, period_text = (folder / "cpu.max").read_text(encoding="ascii").strip().partition(" ")
        return None if quota_text == "max" else int(quota_text) * 1000 // int(period_text)
    quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
    period = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
    return None if quota <= 0 else quota * 1000 // period


def _number(path: Path) -> int | None:
    if not path.exists():
        return None
    text = path.read_text(encoding="ascii").strip()
    value = UNLIMITED if text == "max" else int(text)
    return None if value >= UNLIMITED else value


def _status(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def _shm_bytes(mountinfo: str) -> int | None:
    for line in mountinfo.splitlines():
        fields, _, options = line.partition(" - ")
        if fields.split()[4] == "/dev/shm":  # noqa: S108  a mount point to look for, nothing is written
            size = re.search(r"\bsize=(\d+)k\b", options)
            return int(size.group(1)) * 1024 if size else None
    return None


def _host_has_swap(proc: Path) -> bool:
    for line in (proc / "meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("SwapTotal:"):
            return int(line.split()[1]) > 0
    return True
