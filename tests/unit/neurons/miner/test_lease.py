"""The end of a lease by two clocks, of which the earlier wins."""

import pytest

from neurons.miner.lease import Expiry
from tests.support.clock import ManualClock


def test_lease_ends_to_the_millisecond() -> None:
    clock = ManualClock()
    expiry = Expiry.after(clock, 10)
    clock.advance(9.999)
    assert expiry.remaining_ms(clock) == 1
    clock.advance(0.001)
    assert expiry.remaining_ms(clock) == 0


@pytest.mark.parametrize("step", [-86400.0, -1.0, 0.0, 3.0])
def test_wall_clock_set_back_gives_no_time_away(step: float) -> None:
    """Set forward, the wall clock ends the lease earlier; set back, the boot clock still counts."""
    clock = ManualClock()
    expiry = Expiry.after(clock, 10)
    clock.step_wall(step)
    clock.advance(4)
    assert expiry.remaining_ms(clock) == 6000 - max(0, round(step * 1000))


def test_after_a_reboot_the_wall_clock_alone_counts() -> None:
    clock = ManualClock()
    expiry = Expiry.after(clock, 10)
    clock.advance(4)
    clock.reboot()
    assert clock.boot_ms() < expiry.boot_ms - 10_000
    assert expiry.remaining_ms(clock) == 6000
    clock.step_wall(6)
    assert expiry.remaining_ms(clock) == 0


def test_end_that_comes_early_moves_the_expiry_to_now_and_never_further_away() -> None:
    clock = ManualClock()
    expiry = Expiry.after(clock, 10)
    clock.advance(9.999)
    assert expiry.now_at_latest(clock) == Expiry.after(clock, 0)
    clock.advance(0.001)
    assert expiry.now_at_latest(clock) is expiry
    clock.advance(5)
    assert expiry.now_at_latest(clock) is expiry
