"""Limits read back from the kernel: both cgroup layouts as real files, each limit off by the least amount."""

from pathlib import Path

import pytest

from neurons.miner.enforced import CAPABILITY_SETS, Enforced, read_enforced
from neurons.miner.hard_limits import HardLimits
from neurons.miner.profile import (
    CAPABILITY_MASK,
    LOCKED_BYTES_MAX,
    OPEN_FILES_MAX,
    QUEUE_BYTES_MAX,
    SIGNALS_MAX,
    Privileges,
)
from polarise.receipt import Limits

PID = 4242
LIMITS = Limits(memory_bytes=256 << 20, swap_bytes=0, cpu_milli=500, pids_count=512, shm_bytes=64 << 20)
STATUS = (
    "Name:\tsshd\nCapInh:\t0000000000000000\n"
    f"CapPrm:\t{CAPABILITY_MASK:016x}\nCapEff:\t{CAPABILITY_MASK:016x}\nCapBnd:\t{CAPABILITY_MASK:016x}\n"
    "CapAmb:\t0000000000000000\nUid:\t0\t0\t0\t0\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\nCpus_allowed_list:\t0-3,6\n"
)
PROCESS = f"""\
Limit                     Soft Limit           Hard Limit           Units
Max core file size        0                    0                    bytes
Max open files            1024                 {OPEN_FILES_MAX}                files
Max locked memory         65536                {LOCKED_BYTES_MAX}              bytes
Max pending signals       {SIGNALS_MAX}                 {SIGNALS_MAX}                 signals
Max msgqueue size         {QUEUE_BYTES_MAX}               {QUEUE_BYTES_MAX}               bytes
"""
MOUNTS = (
    "100 99 0:40 / / rw,relatime - overlay overlay rw\n"
    "101 100 0:41 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=65536k\n"
)
V1_LINES = ("12:pids:/docker/x", "11:memory:/docker/x", "10:cpu,cpuacct:/docker/x", "1:name=systemd:/docker/x")


class Kernel:
    """The files of /proc and /sys/fs/cgroup for one container, as the kernel writes them."""

    def __init__(self, root: Path, version: int) -> None:
        self.version = version
        self.proc = root / "proc"
        self.cgroups = root / "cgroup"
        self.put(self.proc / str(PID) / "status", STATUS)
        self.put(self.proc / str(PID) / "mountinfo", MOUNTS)
        self.put(self.proc / str(PID) / "limits", PROCESS)
        self.put(self.proc / str(PID) / "uid_map", "         0          0 4294967295\n")
        self.put(self.proc / "meminfo", "MemTotal: 1024 kB\nSwapTotal: 0 kB\n")
        lines = V1_LINES if version == 1 else ("0::/system.slice/docker-x.scope",)
        self.put(self.proc / str(PID) / "cgroup", "\n".join(lines) + "\n")
        for name, value in self.files().items():
            self.put(self.cgroups / name, f"{value}\n")

    def files(self) -> dict[str, str]:
        if self.version == 1:
            return {
                "memory/docker/x/memory.limit_in_bytes": str(256 << 20),
                "memory/docker/x/memory.memsw.limit_in_bytes": str(256 << 20),
                "cpu/docker/x/cpu.cfs_quota_us": "50000",
                "cpu/docker/x/cpu.cfs_period_us": "100000",
                "pids/docker/x/pids.max": "512",
            }
        folder = "system.slice/docker-x.scope"
        return {
            f"{folder}/memory.max": str(256 << 20),
            f"{folder}/memory.swap.max": "0",
            f"{folder}/cpu.max": "50000 100000",
            f"{folder}/pids.max": "512",
        }

    def put(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")

    def change(self, name: str, value: str) -> None:
        """Overwrite the one cgroup file of this name."""
        (path,) = (self.cgroups / file for file in self.files() if file.endswith(f"/{name}"))
        self.put(path, f"{value}\n")

    def remove(self, name: str) -> None:
        (path,) = (self.cgroups / file for file in self.files() if file.endswith(f"/{name}"))
        path.unlink()

    def differences(self, wanted: Limits = LIMITS) -> list[str]:
        return self.read().differences(wanted)

    def read(self) -> Enforced:
        return read_enforced(PID, proc=self.proc, cgroup_root=self.cgroups)


@pytest.fixture(name="kernel", params=[1, 2], ids=["v1", "v2"])
def either_kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Kernel:
    return Kernel(tmp_path, request.param)


def test_limits_as_asked_for_have_no_difference(kernel: Kernel) -> None:
    assert kernel.read() == Enforced(
        256 << 20,
        0,
        500,
        512,
        64 << 20,
        CAPABILITY_MASK,
        HardLimits(OPEN_FILES_MAX, LOCKED_BYTES_MAX, 0, SIGNALS_MAX, QUEUE_BYTES_MAX),
        frozenset({0, 1, 2, 3, 6}),
        0,
        True,
        True,
    )
    assert kernel.differences() == []


@pytest.mark.parametrize(
    ("field", "delta"),
    [
        ("memory_bytes", 4096),
        ("memory_bytes", -4096),
        ("swap_bytes", 4096),
        ("cpu_milli", 11),
        ("cpu_milli", -11),
        ("pids_count", 1),
        ("pids_count", -1),
        ("shm_bytes", 1024),
    ],
)
def test_limit_off_by_the_least_amount_is_found(kernel: Kernel, field: str, delta: int) -> None:
    wanted = LIMITS.model_copy(update={field: getattr(LIMITS, field) + delta})
    (found,) = kernel.differences(wanted)
    assert found.startswith(f"{field} is {getattr(LIMITS, field)}, asked for ")


@pytest.mark.parametrize("delta", [-10, 10])
def test_cpu_quota_may_be_rounded_to_a_hundredth_as_systemd_does(kernel: Kernel, delta: int) -> None:
    assert kernel.differences(LIMITS.model_copy(update={"cpu_milli": 500 + delta})) == []


V1_UNLIMITED = {"memory.limit_in_bytes": str(2**63 - 4096), "cpu.cfs_quota_us": "-1", "pids.max": "max"}
V2_UNLIMITED = {
    "memory.max": "max",
    "memory.swap.max": "max",
    "cpu.max": "max 100000",
    "pids.max": "max",
}


@pytest.mark.parametrize(
    ("version", "name", "value"),
    [*((1, *item) for item in V1_UNLIMITED.items()), *((2, *item) for item in V2_UNLIMITED.items())],
)
def test_missing_limit_is_found(tmp_path: Path, version: int, name: str, value: str) -> None:
    kernel = Kernel(tmp_path, version)
    kernel.change(name, value)
    assert any(" is None, asked for " in found for found in kernel.differences())


@pytest.mark.parametrize(("version", "name"), [(1, "pids.max"), (2, "memory.max"), (2, "memory.swap.max")])
def test_controller_that_is_not_there_limits_nothing(tmp_path: Path, version: int, name: str) -> None:
    kernel = Kernel(tmp_path, version)
    kernel.remove(name)
    assert len(kernel.differences()) == 1


def test_swap_without_accounting_is_zero_only_on_a_host_without_swap(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, 1)
    kernel.remove("memory.memsw.limit_in_bytes")
    assert kernel.differences() == []
    kernel.put(kernel.proc / "meminfo", "MemTotal: 1024 kB\nSwapTotal: 4 kB\n")
    assert kernel.differences() == ["swap_bytes is None, asked for 0"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "no_new_privileges"),
        ("Seccomp:\t2", "Seccomp:\t0", "seccomp filter"),
        ("Seccomp:\t2", "Seccomp:\t1", "seccomp filter"),
    ],
)
def test_missing_guard_is_found(kernel: Kernel, old: str, new: str, said: str) -> None:
    kernel.put(kernel.proc / str(PID) / "status", STATUS.replace(old, new))
    (found,) = kernel.differences()
    assert found.startswith(said)


@pytest.mark.parametrize("bit", [bit for bit in range(41) if not CAPABILITY_MASK >> bit & 1])
def test_one_capability_too_many_is_found(tmp_path: Path, bit: int) -> None:
    kernel = Kernel(tmp_path, 2)
    mask = CAPABILITY_MASK | 1 << bit
    kernel.put(kernel.proc / str(PID) / "status", STATUS.replace(f"{CAPABILITY_MASK:016x}", f"{mask:016x}"))
    assert kernel.differences() == [f"capabilities beyond the allowed ones: {1 << bit:#x}"]


@pytest.mark.parametrize("name", CAPABILITY_SETS)
def test_capability_in_any_set_is_found(tmp_path: Path, name: str) -> None:
    """An ambient or inheritable one could be had by the next program."""
    kernel = Kernel(tmp_path, 2)
    lines = [f"{name}:\t{1 << 21:016x}" if line.startswith(name) else line for line in STATUS.splitlines()]
    kernel.put(kernel.proc / str(PID) / "status", "\n".join(lines))
    assert kernel.differences() == [f"capabilities beyond the allowed ones: {1 << 21:#x}"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (f"{OPEN_FILES_MAX} ", f"{OPEN_FILES_MAX + 1} ", "open_files is"),
        (f"{OPEN_FILES_MAX} ", "unlimited ", "open_files is None"),
        (f"{LOCKED_BYTES_MAX} ", f"{LOCKED_BYTES_MAX + 1} ", "locked_bytes is"),
        (f"{SIGNALS_MAX}                 s", f"{SIGNALS_MAX + 1}                 s", "signals_count is"),
        (f"{QUEUE_BYTES_MAX}               b", f"{QUEUE_BYTES_MAX + 1}               b", "queue_bytes is"),
        ("0                    0 ", "0                    1 ", "core_bytes is 1, asked for 0"),
    ],
)
def test_process_limit_off_by_one_is_found(kernel: Kernel, old: str, new: str, said: str) -> None:
    kernel.put(kernel.proc / str(PID) / "limits", PROCESS.replace(old, new))
    (found,) = kernel.differences()
    assert found.startswith(said)


def test_cpu_beyond_the_ones_of_leases_is_found(kernel: Kernel) -> None:
    assert kernel.read().differences(LIMITS, Privileges(cpus=frozenset({0, 1, 2, 3, 6}))) == []
    (found,) = kernel.read().differences(LIMITS, Privileges(cpus=frozenset({1, 2, 3, 6})))
    assert found == "cpus is [0, 1, 2, 3, 6], asked for [1, 2, 3, 6]"


@pytest.mark.parametrize(
    ("user", "uid_map", "said"),
    [
        (20_001, "0 0 4294967295", None),
        (120_001, "0 100000 65536", None),
        (0, "0 0 4294967295", "user_id is 0, asked for 20001"),
        (20_002, "0 0 4294967295", "user_id is 20002, asked for 20001"),
        (20_001, "0 100000 65536", "user 20001 is not one of the container's"),
    ],
)
def test_strict_container_is_its_own_user_with_nothing(
    tmp_path: Path, user: int, uid_map: str, said: str | None
) -> None:
    """As the container counts, also where the engine maps its users to others of the host."""
    kernel = Kernel(tmp_path, 2)
    status = STATUS.replace(f"{CAPABILITY_MASK:016x}", "0" * 16).replace("Uid:\t0\t0", f"Uid:\t{user}\t{user}")
    kernel.put(kernel.proc / str(PID) / "status", status)
    kernel.put(kernel.proc / str(PID) / "uid_map", uid_map)
    try:
        found = kernel.read().differences(LIMITS, Privileges(20_001, 0))
    except ValueError as err:
        found = [str(err)]
    assert found == ([] if said is None else [said])


def test_strict_container_that_kept_one_capability_is_found(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, 2)
    status = STATUS.replace(f"{CAPABILITY_MASK:016x}", f"{1 << 8:016x}").replace("Uid:\t0\t0", "Uid:\t20001\t20001")
    kernel.put(kernel.proc / str(PID) / "status", status)
    found = kernel.read().differences(LIMITS, Privileges(20_001, 0))
    assert found == ["capabilities beyond the allowed ones: 0x100"]


def test_fewer_capabilities_are_fine(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, 2)
    kernel.put(kernel.proc / str(PID) / "status", STATUS.replace(f"{CAPABILITY_MASK:016x}", "0" * 16))
    assert kernel.differences() == []


@pytest.mark.parametrize("mounts", ["", MOUNTS.replace("size=65536k", "inode64")])
def test_dev_shm_of_no_size_is_found(kernel: Kernel, mounts: str) -> None:
    kernel.put(kernel.proc / str(PID) / "mountinfo", mounts)
    (found,) = kernel.differences()
    assert found.startswith("shm_bytes is None")


def test_process_that_is_gone_cannot_be_read(kernel: Kernel) -> None:
    with pytest.raises(OSError, match="No such file"):
        read_enforced(PID + 1, proc=kernel.proc, cgroup_root=kernel.cgroups)
