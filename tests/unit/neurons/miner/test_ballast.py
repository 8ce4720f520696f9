"""Room for ends on a full disk: given up once, for a change of a lease and never for a new one, and taken again."""

from pathlib import Path

import pytest

from neurons.base.database import Database, StorageRefused
from neurons.miner import ballast as module
from neurons.miner.ballast import SIZE_BYTES, Ballast
from neurons.miner.journal import Journal
from neurons.miner.lease import LeaseState
from tests.support.leases import lease


def full(database: Database) -> None:
    """Let SQLite find the disk full from here on."""
    database.query("PRAGMA max_page_count = 1")


def reserve_many(journal: Journal) -> None:
    """Reserve until no page is left; a few fit into those that are there."""
    for number in range(2, 200):
        made = lease(number, image="x" * 4000)
        journal.reserve(lambda _leases, made=made: made)  # type: ignore[misc]  # binds this round's lease


def test_room_is_taken_given_up_once_and_taken_again(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path)
    assert not ballast.give_up()
    ballast.take()
    ballast.take()
    assert (tmp_path / "ballast").stat().st_blocks * 512 >= SIZE_BYTES
    assert not ballast.is_given_up
    assert ballast.give_up()
    assert ballast.is_given_up
    assert not ballast.give_up()
    ballast.take()
    assert not ballast.is_given_up
    assert [path.name for path in tmp_path.iterdir()] == ["ballast"]


def test_disk_with_little_room_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FREE_FACTOR", 1 << 40)
    Ballast(tmp_path).take()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_unavailable_and_a_new_lease_gets_none_of_the_room(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.ballast.take()
        held = journal.reserve(lambda _leases: lease(1))
        full(journal)
        with pytest.raises(StorageRefused, match=r"journal\.sqlite cannot be written: the disk is full"):
            reserve_many(journal)
        assert not journal.ballast.is_given_up
        # Nothing is half done, and what needs no further room goes on.
        assert held in journal.all()
        assert journal.update(held, state=LeaseState.DELETING).state is LeaseState.DELETING


def test_change_that_finds_no_room_gives_the_ballast_up(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.ballast.take()
        held = journal.reserve(lambda _leases: lease(1))
        full(journal)
        with pytest.raises(StorageRefused):
            # SQLite does not look at the disk again here, so that the second try fails as well.
            journal.update(held, image="x" * 200_000)
        assert journal.ballast.is_given_up
        assert journal.by_id(held.lease_id) == held
