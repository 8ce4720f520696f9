"""Metering never keeps a lease from ending: not by a disk that fails, and not by a process that is somebody else's."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def test_disk_that_fails_keeps_no_lease_from_its_end(
    journal: Journal, metering: Metering, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = granted(journal, metering, process.pid)

    def fail(*_: object) -> None:
        raise StorageRefused("journal.sqlite cannot be written: input or output failed")

    monkeypatch.setattr(journal, "query", fail)
    metering.read_last(held)
    assert not metering.kill(held)
