"""The book of usage: one final statement per granted lease, found by its renter, bounded, and whole after a crash."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurons.miner import usage_book
from neurons.miner.journal import Journal
from neurons.miner.lease import Lease, LeaseState
from neurons.miner.meter import Reading
from neurons.miner.usage_book import KEPT_MS, UsageBook
from polarise.statement import SignedStatement
from polarise.usage import Usage
from tests.support.identities import identity
from tests.support.leases import lease

MINER = identity("miner")
NOW_MS = 1_800_000_000_000
FIRST = Reading("boot 1 1", "boot", 1_000, NOW_MS)
SECOND = Reading("boot 1 1", "boot", 6_000, NOW_MS + 5_000, 3_000_000, 100, 200, 64 << 20)


@pytest.fixture(name="journal")
def open_journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.sqlite") as journal:
        yield journal


@pytest.fixture(name="book")
def book_of_the_miner(journal: Journal) -> UsageBook:
    return UsageBook(journal, MINER)


def granted(journal: Journal, book: UsageBook, number: int = 1, **changes: object) -> Lease:
    made = journal.reserve(lambda _leases: lease(number, devices=(f"GPU-{number}",), **changes))
    return journal.update(
        made,
        also=lambda connection, row: book.begin(connection, row, FIRST),
        state=LeaseState.ACTIVE,
        container_id=f"{number:064x}",
    )


def end(journal: Journal, book: UsageBook, made: Lease, now_unix_ms: int = NOW_MS) -> None:
    journal.forget(made.lease_id, now_unix_ms, also=lambda connection, row: book.close(connection, row, now_unix_ms))


def opened(statement: SignedStatement | None) -> Usage:
    assert statement is not None
    return statement.open("usage", Usage, signer=MINER.public_key)


def test_statement_says_what_was_counted(journal: Journal, book: UsageBook) -> None:
    made = granted(journal, book)
    book.record({made.lease_id: (SECOND, 0)})
    so_far = opened(book.interim(made))
    end(journal, book, made)
    usage = opened(book.final(made.lease_id))
    assert (so_far.is_final, usage.is_final) == (False, True)
    assert so_far.model_copy(update={"is_final": True}) == usage
    assert (usage.allocated_ms, usage.cpu_ms, usage.memory_mib_seconds) == (5_000, 3, 320)
    assert (usage.network_in_bytes, usage.network_out_bytes) == (100, 200)
    assert [(device.uuid, device.allocated_ms) for device in usage.devices] == [("GPU-1", 5_000)]
    assert (usage.began_unix_ms, usage.until_unix_ms) == (NOW_MS, NOW_MS + 5_000)


def test_statement_and_sums_survive_a_restart(journal: Journal, book: UsageBook, tmp_path: Path) -> None:
    made, other = granted(journal, book), granted(journal, book, 2)
    book.record({made.lease_id: (SECOND, 0), other.lease_id: (SECOND, 0)})
    end(journal, book, made)
    with Journal(tmp_path / "journal.sqlite") as reopened:
        restarted = UsageBook(reopened, MINER)
        assert restarted.final(made.lease_id) == book.final(made.lease_id)
        restarted.record({other.lease_id: (SECOND, 0)})
        assert opened(restarted.interim(other)).cpu_ms == 3


def test_lease_is_closed_with_its_statement_or_not_at_all(
    journal: Journal, book: UsageBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = granted(journal, book)

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(usage_book, "_drop_old", full)
    with pytest.raises(sqlite3.OperationalError):
        end(journal, book, made)
    assert (journal.by_id(made.lease_id), book.final(made.lease_id)) == (made, None)
    monkeypatch.undo()
    end(journal, book, made)
    end(journal, book, made)
    assert (journal.by_id(made.lease_id), opened(book.final(made.lease_id)).is_final) == (None, True)


def test_lease_that_nobody_got_has_no_statement(journal: Journal, book: UsageBook) -> None:
    made = journal.reserve(lambda _leases: lease(1))
    end(journal, book, made)
    assert book.final(made.lease_id) is None


def test_reading_of_a_lease_that_is_gone_writes_nothing(journal: Journal, book: UsageBook) -> None:
    made = granted(journal, book)
    end(journal, book, made)
    book.record({made.lease_id: (SECOND, 0)})
    assert book.meter(made.lease_id) is None


def test_lease_of_a_version_that_did_not_count_is_counted_from_now_on(journal: Journal, book: UsageBook) -> None:
    made = journal.reserve(lambda _leases: lease(1, state=LeaseState.ACTIVE, container_id="a" * 64))
    book.record({made.lease_id: (SECOND, 0)})
    usage = opened(book.interim(made))
    assert (usage.began_unix_ms, usage.allocated_ms, usage.cpu_ms) == (made.created_unix_ms, 1, 3)


def test_statement_is_found_by_container_or_a_prefix_that_fits_one_alone(journal: Journal, book: UsageBook) -> None:
    leases = [granted(journal, book, number) for number in (0x10, 0x11, 0x2F)]
    for made in leases:
        end(journal, book, made)
    first = str(leases[0].container_id)
    assert book.final_of_container(first) == (leases[0].renter_key, book.final(leases[0].lease_id))
    assert book.final_of_container(first[:63]) is None
    assert book.final_of_container("%" * 12) is None
    assert book.final_of_container("f" * 12) is None
    assert book.final_of_container(str(leases[2].container_id)[:63]) is not None


def test_statements_are_bounded_per_renter_and_by_age(
    journal: Journal, book: UsageBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_book, "KEPT_PER_RENTER_MAX", 2)
    other = granted(journal, book, 9, renter_key="cd" * 32)
    end(journal, book, other, NOW_MS - 10)
    leases = [granted(journal, book, number) for number in (1, 2, 3)]
    for index, made in enumerate(leases):
        end(journal, book, made, NOW_MS + index)
    assert [book.final(made.lease_id) is not None for made in (*leases, other)] == [False, True, True, True]
    end(journal, book, granted(journal, book, 4), NOW_MS + 1 + KEPT_MS)
    assert [book.final(made.lease_id) is not None for made in (*leases, other)] == [False, False, True, False]
