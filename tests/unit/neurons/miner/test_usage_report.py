"""`miner usage`: sums per renter over leases that are over and leases that run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from neurons.cli import main
from neurons.miner.journal import Journal
from neurons.miner.lease import Lease, LeaseState
from neurons.miner.meter import Reading
from neurons.miner.usage_book import UsageBook
from neurons.miner.usage_report import read_usage, render, total
from polarise.errors import ConfigError
from tests.support.identities import identity
from tests.support.leases import lease

NOW_MS = 1_800_000_000_000
FIRST = Reading("boot 1 1", "boot", 1_000, NOW_MS)
HOUR_LATER = Reading(
    "boot 1 1", "boot", 3_601_000, NOW_MS + 3_600_000, 2 * 3_600_000_000_000, 1 << 20, 3 << 20, 1 << 20
)


def granted(journal: Journal, book: UsageBook, number: int, renter_key: str, devices: tuple[str, ...] = ()) -> Lease:
    made = journal.reserve(lambda _leases: replace(lease(number, devices=devices), renter_key=renter_key))
    made = journal.update(
        made,
        also=lambda connection, row: book.begin(connection, row, FIRST),
        state=LeaseState.ACTIVE,
        container_id=f"{number:064x}",
    )
    book.record({made.lease_id: (HOUR_LATER, 0)})
    return made


@pytest.fixture(name="root")
def miners_folder(tmp_path: Path) -> Path:
    with Journal(tmp_path / "journal.sqlite") as journal:
        book = UsageBook(journal, identity("miner"))
        over = granted(journal, book, 1, "aa" * 32, ("GPU-1", "GPU-2"))
        journal.forget(over.lease_id, NOW_MS, also=lambda connection, row: book.close(connection, row, NOW_MS))
        granted(journal, book, 2, "aa" * 32)
        granted(journal, book, 3, "bb" * 32)
    return tmp_path


def test_leases_that_are_over_and_that_run_are_summed_per_renter(root: Path) -> None:
    first, second = read_usage(root)
    assert (first.renter_key, first.leases_count, first.running_count) == ("aa" * 32, 2, 1)
    assert (first.allocated_ms, first.device_ms, first.cpu_ms) == (2 * 3_600_000, 2 * 3_600_000, 4 * 3_600_000)
    assert (first.network_in_bytes, first.network_out_bytes) == (2 << 20, 6 << 20)
    assert (second.renter_key, second.leases_count, second.running_count) == ("bb" * 32, 1, 1)
    assert total([first, second]).allocated_ms == 3 * 3_600_000


def test_lease_that_ended_a_millisecond_too_early_is_left_out(root: Path) -> None:
    assert sum(usage.leases_count for usage in read_usage(root, since_unix_ms=NOW_MS)) == 3
    assert sum(usage.leases_count for usage in read_usage(root, since_unix_ms=NOW_MS + 1)) == 2


def test_text_ends_with_the_sum(root: Path) -> None:
    *_, last = render(read_usage(root)).splitlines()
    assert last.split()[:5] == ["all", "3", "2", "3.00", "2.00"]


def test_command_prints_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["miner", "usage", "--data-dir", str(root), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["running_count"] == 2


def test_folder_without_a_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a miner's data directory"):
        read_usage(tmp_path)
