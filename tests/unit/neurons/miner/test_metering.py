"""Metering never keeps a lease from ending: not by a disk that fails, and not by a process that is somebody else's."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.models.containers import Container

from neurons.base.database import StorageRefused
from neurons.miner.container import ContainerManager
from neurons.miner.counters import CounterReader
from neurons.miner.journal import Journal
from neurons.miner.lease import Lease, LeaseState
from neurons.miner.metering import Metering
from neurons.miner.usage_book import UsageBook
from tests.support.identities import identity
from tests.support.leases import lease
from utils.clock import SystemClock

CLOCK = SystemClock()


class NoEngine(ContainerManager):
    """Nothing may ask the engine on the way to an end."""

    def __init__(self) -> None:
        pass


@pytest.fixture(name="journal")
def open_journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.sqlite") as journal:
        yield journal


@pytest.fixture(name="metering")
def metering_without_an_engine(journal: Journal) -> Metering:
    return Metering(journal, UsageBook(journal, identity("miner")), NoEngine(), CLOCK)


@pytest.fixture(name="process")
def process_of_a_container() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait(10)


def granted(journal: Journal, metering: Metering, pid: int) -> Lease:
    made = journal.reserve(lambda _leases: lease(1))
    return journal.update(made, also=metering.begun(pid), state=LeaseState.ACTIVE, container_id="a" * 64)


def test_first_process_is_killed_by_its_own_number(
    journal: Journal, metering: Metering, process: subprocess.Popen[bytes]
) -> None:
    held = granted(journal, metering, process.pid)
    assert metering.kill(held)
    assert process.wait(10) == -9
    assert not metering.kill(held)


def test_process_that_has_only_the_number_is_left_alone(process: subprocess.Popen[bytes]) -> None:
    reader = CounterReader(CLOCK)
    source = reader.source(process.pid)
    assert source is not None
    name, _, ticks = source.rpartition(" ")
    assert not reader.kill(f"{name} {int(ticks) + 1}")
    assert not reader.kill(f"other-boot {process.pid} {ticks}")
    assert not reader.kill("")
    assert process.poll() is None


class StartedAgain(ContainerManager):
    """Its container runs with another first process than the one that is known."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def find(self, lease: Lease) -> Container:
        return Container(attrs={"Id": lease.container_id, "State": {"Status": "running", "Pid": self._pid}})


def test_process_of_a_restarted_container_is_known_also_while_the_disk_is_full(
    journal: Journal, tmp_path: Path
) -> None:
    """Else nothing could end it without the engine, nothing would watch its memory, and its time would be free."""
    reader = CounterReader(CLOCK, proc=tmp_path / "proc", cgroup_root=tmp_path / "cgroup")
    metering = Metering(journal, UsageBook(journal, identity("miner")), StartedAgain(8), CLOCK, reader)
    begin_process(tmp_path / "proc", 7)
    held = granted(journal, metering, 7)
    shutil.rmtree(tmp_path / "proc")
    begin_process(tmp_path / "proc", 8)
    journal.ballast.is_given_up = True
    metering.read(held)
    assert metering.pid_of(held) is None, "the last room on the disk is not for usage"
    metering.read_restarted(held)
    assert metering.pid_of(held) == 8


def begin_process(proc: Path, pid: int) -> None:
    """Write what the kernel tells of a process in a control group of its own."""
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "stat").write_text(f"{pid} (sshd) S {' '.join(['0'] * 18)} 4242 0\n")
    (proc / str(pid) / "cgroup").write_text("0::/docker/abc\n")


def test_disk_that_fails_keeps_no_lease_from_its_end(
    journal: Journal, metering: Metering, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = granted(journal, metering, process.pid)

    def fail(*_: object) -> None:
        raise StorageRefused("journal.sqlite cannot be written: input or output failed")

    monkeypatch.setattr(journal, "query", fail)
    metering.read_last(held)
    assert not metering.kill(held)
