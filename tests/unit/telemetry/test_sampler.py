"""The sampler on trees of both cgroup layouts, and on this very host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from polarise.ingress import draft_of
from telemetry.exporter import render
from telemetry.sampler import Sampler, WatchedContainer
from telemetry.usage import ContainerReader, HostReader, cgroup_folders
from utils.gpu import GpuReading, GpuSampler

SECOND = 1_000_000_000


class Cards:
    """Two cards whose figures a test sets."""

    def __init__(self) -> None:
        self.busy = [0.2, 0.6]
        self.heat = [50.0, 70.0]

    def read(self) -> tuple[GpuReading, ...]:
        return tuple(
            GpuReading(i, f"GPU-{i}", self.busy[i], 10, 100, self.heat[i], 99.5, 700.0, 5.0, 10**9, (), 0, 0)
            for i in range(2)
        )


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="ascii")
    return folder


def tree_v1(root: Path, cpu_ns: int) -> dict[str, Path]:
    return {
        "memory": write(
            root / "memory/docker/c1",
            memory__usage_in_bytes="1000\n",
            memory__limit_in_bytes="2000\n",
            memory__stat="cache 500\ntotal_inactive_file 400\n",
        ),
        "cpuacct": write(root / "cpuacct/docker/c1", cpuacct__usage=f"{cpu_ns}\n"),
        "pids": write(root / "pids/docker/c1", pids__current="7\n"),
    }


def tree_v2(root: Path, cpu_ns: int) -> dict[str, Path]:
    folder = write(
        root / "system.slice/docker-c1.scope",
        memory__current="1000\n",
        memory__max="2000\n",
        memory__stat="anon 1\ninactive_file 400\n",
        cpu__stat=f"usage_usec {cpu_ns // 1000}\nuser_usec 1\n",
        pids__current="7\n",
    )
    return {"": folder}


@pytest.mark.parametrize("tree", [tree_v1, tree_v2])
def test_both_cgroup_layouts_give_the_same_figures(tmp_path: Path, tree: object) -> None:
    assert callable(tree)
    reader = ContainerReader(tree(tmp_path, 5 * SECOND))
    first = reader.read(10 * SECOND)
    assert (first.cpu_usage_ratio, first.memory_used_bytes, first.memory_limit_bytes, first.pids_count) == (
        None,
        600,
        2000,
        7,
    )
    tree(tmp_path, 8 * SECOND)
    assert reader.read(12 * SECOND).cpu_usage_ratio == 1.5


@pytest.mark.parametrize("tree", [tree_v1, tree_v2])
def test_a_container_that_is_gone_has_no_figures(tmp_path: Path, tree: object) -> None:
    assert callable(tree)
    folders = {name: folder / "gone" for name, folder in tree(tmp_path, 0).items()}
    usage = ContainerReader(folders).read(0)
    assert (usage.memory_used_bytes, usage.cpu_usage_ratio, usage.pids_count) == (None, None, None)


def test_no_limit_is_none(tmp_path: Path) -> None:
    folders = tree_v1(tmp_path, 0)
    write(folders["memory"], memory__limit_in_bytes="9223372036854771712\n")
    assert ContainerReader(folders).read(0).memory_limit_bytes is None
    unified = tree_v2(tmp_path, 0)
    write(unified[""], memory__max="max\n")
    assert ContainerReader(unified).read(0).memory_limit_bytes is None


def test_cgroup_folders_of_both_layouts(tmp_path: Path) -> None:
    proc, root = tmp_path / "proc", tmp_path / "cgroup"
    write(proc / "1", cgroup="12:pids:/docker/c1\n5:cpu,cpuacct:/docker/c1\n3:memory:/docker/c1\n0::/\n")
    assert cgroup_folders(1, proc=proc, root=root)["cpuacct"] == root / "cpuacct/docker/c1"
    write(proc / "2", cgroup="0::/system.slice/docker-c1.scope\n")
    assert cgroup_folders(2, proc=proc, root=root) == {"": root / "system.slice/docker-c1.scope"}
    write(proc / "3", cgroup="0::/\n")
    with pytest.raises(ValueError, match="root cgroup"):
        cgroup_folders(3, proc=proc, root=root)


def test_the_payload_has_the_names_of_the_seed(tmp_path: Path) -> None:
    cards = Cards()
    sampler = Sampler(cards)
    sampler.watch(WatchedContainer("c1", ("GPU-1",)), ContainerReader(tree_v2(tmp_path, 0)))
    sampler.read(1_700_000_000_000, 0)
    cards.busy, cards.heat = [0.4, 0.8], [60.0, 90.0]
    sampler.read(1_700_000_001_000, SECOND)
    host, containers = sampler.tell()
    assert (host["gpuUsage"], host["temperature"], host["readings_count"]) == (50, 90, 2)
    own = containers["c1"]
    assert (own["containerId"], own["gpuUsage"], own["memoryUsage"], own["temperature"]) == ("c1", 70, 30, 90)
    gpus = own["gpus"]
    assert isinstance(gpus, list)
    assert gpus[0]["temperature_celsius"] == {"min": 70, "avg": 80, "max": 90}
    for payload in (host, own):
        assert draft_of({"kind": "telemetry.sample", "payload": payload}).kind == "telemetry.sample"


def test_without_a_card_there_are_no_numbers() -> None:
    class NoCards:
        def read(self) -> tuple[GpuReading, ...]:
            return ()

    sampler = Sampler(NoCards())
    sampler.read(1, 0)
    host, _ = sampler.tell()
    assert (host["gpus"], host["gpuUsage"], host["temperature"]) == ([], None, None)


def test_this_host() -> None:
    """The real /proc of this machine, twice, and its real NVML if it has one."""
    with GpuSampler() as gpus:
        sampler = Sampler(gpus, HostReader())
        sampler.read(1, 0)
        reading = sampler.read(2, SECOND)
        host, _ = sampler.tell()
    total = reading.host.memory_total_bytes
    assert total == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert total is not None
    assert reading.host.memory_used_bytes is not None
    assert 0 < reading.host.memory_used_bytes < total
    assert len(reading.gpus) == len(host["gpus"])  # type: ignore[arg-type]  # a list
    text = render(reading)
    assert f"polarise_host_memory_total_bytes {total}\n" in text
    assert text.count("# TYPE polarise_host_memory_total_bytes gauge") == 1


@pytest.mark.parametrize(
    "text", ["", "cpu 1 2 x 4 5 6 7 8", "cpu " + "9" * 5000 + " 1" * 7, "MemTotal:\nMemAvailable: x"]
)
def test_a_figure_of_the_host_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    for name in ("stat", "meminfo"):
        (tmp_path / name).write_text(text, encoding="ascii")
    reader = HostReader(tmp_path)
    for _ in range(2):
        usage = reader.read()
        assert (usage.cpu_usage_ratio, usage.memory_used_bytes, usage.memory_total_bytes) == (None, None, None)


def test_a_counter_beyond_64_bits_is_none(tmp_path: Path) -> None:
    for name in ("cpu.stat", "memory.current", "memory.stat", "memory.max", "pids.current"):
        (tmp_path / name).write_text("9" * 5000, encoding="ascii")
    (tmp_path / "cpu.stat").write_text("usage_usec " + "9" * 5000, encoding="ascii")
    usage = ContainerReader({"": tmp_path}).read(1)
    assert (usage.cpu_usage_ratio, usage.memory_used_bytes, usage.memory_limit_bytes, usage.pids_count) == (None,) * 4
