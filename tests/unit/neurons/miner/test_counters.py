"""Counters from the host's files, of both cgroup layouts; a process id that means somebody else counts nothing."""

from pathlib import Path

import pytest

from neurons.miner.counters import CounterReader, pid_of
from tests.support.clock import ManualClock

NET = "Inter-|   Receive\n face |bytes\n    lo: 9 0 0 0 0 0 0 0 9 0\n  eth0: 100 1 0 0 0 0 0 0 200 2\n"


@pytest.fixture(name="host")
def small_host(tmp_path: Path) -> Path:
    """Process 7 in a container, and the files of both layouts."""
    proc = tmp_path / "proc" / "7"
    (proc / "net").mkdir(parents=True)
    started(tmp_path, 4242)
    (proc / "net" / "dev").write_text(NET)
    (proc / "cgroup").write_text("0::/docker/abc\n")
    unified = tmp_path / "cgroup" / "docker" / "abc"
    unified.mkdir(parents=True)
    (unified / "cpu.stat").write_text("usage_usec 1500\nuser_usec 1\n")
    (unified / "memory.current").write_text("5000\n")
    (unified / "memory.stat").write_text("inactive_file 1000\n")
    for controller, name, value in (
        ("cpuacct", "cpuacct.usage", "2500000"),
        ("memory", "memory.usage_in_bytes", "7000"),
        ("memory", "memory.stat", "total_inactive_file 2000"),
        ("pids", "pids.current", "3"),
    ):
        folder = tmp_path / "cgroup" / controller / "docker" / "abc"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(value + "\n")
    return tmp_path


def started(host: Path, ticks: int) -> None:
    """Let process 7 have begun at this tick; its name tries to look like fields."""
    (host / "proc" / "7" / "stat").write_text(f"7 (a b) 9 9) S {' '.join(['0'] * 18)} {ticks} 0 0\n")


def reader(host: Path) -> CounterReader:
    return CounterReader(ManualClock(), proc=host / "proc", cgroup_root=host / "cgroup")


def test_counters_of_cgroup_v2(host: Path) -> None:
    source = reader(host).source(7)
    assert source == "boot-1 7 4242"
    read = reader(host).read(source)
    assert read is not None
    assert (read.cpu_ns, read.memory_bytes) == (1_500_000, 4_000)
    assert (read.network_in_bytes, read.network_out_bytes) == (100, 200)


def test_counters_of_cgroup_v1(host: Path) -> None:
    lines = [f"{n}:{name}:/docker/abc" for n, name in enumerate(("cpu,cpuacct", "memory", "pids"), 1)]
    (host / "proc" / "7" / "cgroup").write_text("\n".join(lines) + "\n")
    read = reader(host).read("boot-1 7 4242")
    assert read is not None
    assert (read.cpu_ns, read.memory_bytes) == (2_500_000, 5_000)


@pytest.mark.parametrize("source", ["boot-1 7 4243", "boot-2 7 4242", "boot-1 8 4242", "", "7"])
def test_other_process_of_the_same_id_counts_nothing(host: Path, source: str) -> None:
    assert reader(host).read(source) is None


@pytest.mark.parametrize(
    ("source", "is_gone"),
    [("boot-1 7 4242", False), ("boot-1 7 4243", True), ("boot-2 7 4242", True), ("boot-1 8 4242", True), ("", False)],
)
def test_source_is_gone_when_its_process_is_another_or_none(host: Path, source: str, *, is_gone: bool) -> None:
    assert reader(host).is_gone(source) is is_gone


def test_process_in_the_host_s_own_cgroup_counts_nothing(host: Path) -> None:
    (host / "proc" / "7" / "cgroup").write_text("0::/\n")
    assert reader(host).read("boot-1 7 4242") is None


def test_what_cannot_be_read_is_no_figure(host: Path) -> None:
    (host / "proc" / "7" / "net" / "dev").write_text("what is\nthis\nfor a: file\n")
    (host / "cgroup" / "docker" / "abc" / "cpu.stat").unlink()
    read = reader(host).read("boot-1 7 4242")
    assert read is not None
    assert (read.cpu_ns, read.network_in_bytes, read.network_out_bytes) == (None, None, None)
    assert read.memory_bytes == 4_000


def test_pid_of_a_source() -> None:
    assert (pid_of("boot 7 42"), pid_of("")) == (7, None)
