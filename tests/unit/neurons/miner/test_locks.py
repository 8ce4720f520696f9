"""One lease, one hand: who waits, who is told to come back, and that nobody waits without end."""

import threading

import pytest

from neurons.miner.lease import LeaseId
from neurons.miner.locks import LeaseBusy, LeaseLocks
from tests.support.miners import wait_until

ONE, OTHER = LeaseId("1" * 32), LeaseId("2" * 32)


def test_held_lease_is_busy_for_others_and_another_is_not() -> None:
    locks = LeaseLocks()
    with locks.holding(ONE):
        with pytest.raises(LeaseBusy), locks.holding(ONE, wait_seconds=0):
            pass
        with locks.holding(OTHER, wait_seconds=0):
            pass
    with locks.holding(ONE, wait_seconds=0):
        pass


def test_waiting_ends() -> None:
    locks = LeaseLocks()
    with locks.holding(ONE), pytest.raises(LeaseBusy), locks.holding(ONE, wait_seconds=0.01):
        pass


def test_one_may_wait_and_gets_it_and_a_third_is_told_at_once() -> None:
    locks = LeaseLocks()
    got = threading.Event()

    def wait() -> None:
        with locks.holding(ONE, wait_seconds=10):
            got.set()

    waiter = threading.Thread(target=wait)
    with locks.holding(ONE):
        waiter.start()
        wait_until(lambda: locks._entries[ONE].users_count == 2, 5, "nobody waits")
        with pytest.raises(LeaseBusy), locks.holding(ONE, wait_seconds=10):
            pass
        assert not got.is_set()
    assert got.wait(5)
    waiter.join(5)


def test_lock_of_a_lease_that_nobody_uses_is_not_kept() -> None:
    locks = LeaseLocks()
    with pytest.raises(KeyError), locks.holding(ONE):
        raise KeyError
    assert locks._entries == {}
