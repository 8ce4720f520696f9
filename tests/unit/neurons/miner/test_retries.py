"""Idempotency keys: one renter, one request, one lease; remembered for a day after its end, and no longer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from neurons.miner.journal import SPENT_KEY_MS, SPENT_KEYS_PER_RENTER_MAX, Journal
from neurons.miner.lease import Lease, LeaseState
from neurons.miner.retries import Retries, request_digest
from polarise.errors import ErrorCode, RequestRejected
from polarise.messages import AllocateRequest
from tests.support.clock import ManualClock
from tests.support.leases import lease

WANTED = AllocateRequest(memory="1g")
RENTER = "ab" * 32


@pytest.fixture(name="clock")
def manual_clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(name="journal")
def open_journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.sqlite") as journal:
        yield journal


@pytest.fixture(name="retries")
def retries_over_the_journal(journal: Journal, clock: ManualClock) -> Retries:
    return Retries(journal, clock)


def granted(journal: Journal, number: int = 1, key: str = "once", **changes: object) -> Lease:
    """Put the lease of `WANTED` into the journal."""
    values = {"state": LeaseState.ACTIVE, "container_id": f"{number:064x}", **changes}
    made = lease(number, idempotency_key=key, request_digest=request_digest(WANTED), **values)
    return journal.reserve(lambda _leases: made)


def refusal(retries: Retries, request: AllocateRequest = WANTED) -> tuple[ErrorCode, int, int | None]:
    with pytest.raises(RequestRejected) as caught:
        retries.earlier(request, RENTER, "once")
    assert caught.value.field == "Idempotency-Key"
    return caught.value.code, caught.value.status, caught.value.retry_after_seconds


def test_same_request_finds_its_lease_and_another_renter_does_not(journal: Journal, retries: Retries) -> None:
    made = granted(journal)
    assert retries.earlier(WANTED, RENTER, "once") == made
    assert retries.earlier(WANTED, RENTER, "other") is None
    assert retries.earlier(WANTED, RENTER, None) is None
    assert retries.earlier(WANTED, "cd" * 32, "once") is None


def test_other_request_is_refused_while_the_lease_lives_and_after_it(
    journal: Journal, retries: Retries, clock: ManualClock
) -> None:
    made = granted(journal)
    other = AllocateRequest(memory="1025m")
    assert refusal(retries, other) == (ErrorCode.IDEMPOTENCY_KEY_REUSED, 422, None)
    journal.forget(made.lease_id, clock.wall_unix_ms())
    assert refusal(retries, other) == (ErrorCode.IDEMPOTENCY_KEY_REUSED, 422, None)


def test_request_at_work_is_waited_for_and_one_that_ends_is_not(journal: Journal, retries: Retries) -> None:
    made = granted(journal, state=LeaseState.CREATING, container_id=None)
    assert refusal(retries) == (ErrorCode.CONFLICT, 409, 1)
    journal.update(made, state=LeaseState.DELETING)
    assert refusal(retries) == (ErrorCode.CONFLICT, 409, None)


def test_key_of_an_ended_lease_is_remembered_for_a_day(
    journal: Journal, retries: Retries, clock: ManualClock, tmp_path: Path
) -> None:
    made = granted(journal)
    journal.forget(made.lease_id, clock.wall_unix_ms())
    clock.wall += SPENT_KEY_MS - 1
    with Journal(tmp_path / "journal.sqlite") as restarted:
        assert refusal(Retries(restarted, clock)) == (ErrorCode.CONFLICT, 409, None)
    clock.wall += 1
    assert retries.earlier(WANTED, RENTER, "once") is None


def test_key_of_a_request_that_failed_is_free_at_once(journal: Journal, retries: Retries, clock: ManualClock) -> None:
    made = granted(journal, state=LeaseState.CREATING, container_id=None)
    journal.forget(made.lease_id, clock.wall_unix_ms())
    assert retries.earlier(WANTED, RENTER, "once") is None


def test_remembered_keys_are_bounded_per_renter(journal: Journal, retries: Retries, clock: ManualClock) -> None:
    other = granted(journal, 1, renter_key="cd" * 32)
    journal.forget(other.lease_id, clock.wall_unix_ms())
    with journal.transaction() as connection:
        connection.executemany(
            "INSERT INTO spent_key VALUES (?, ?, ?, ?)",
            [(RENTER, f"key-{n}", "0" * 64, clock.wall + 1 + n) for n in range(SPENT_KEYS_PER_RENTER_MAX)],
        )
    clock.advance(SPENT_KEYS_PER_RENTER_MAX / 1000 + 1)
    journal.forget(granted(journal, 2).lease_id, clock.wall_unix_ms())
    assert refusal(retries)[0] is ErrorCode.CONFLICT
    assert journal.spent_key(RENTER, "key-0", clock.wall_unix_ms()) is None
    assert journal.spent_key(RENTER, "key-1", clock.wall_unix_ms()) is not None
    assert journal.spent_key("cd" * 32, "once", clock.wall_unix_ms()) is not None
