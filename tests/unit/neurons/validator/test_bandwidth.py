"""When a claim of bandwidth is broken: far below the claim, and far below what others reach from here."""

from __future__ import annotations

import pytest

from neurons.validator.bandwidth import MINERS_KEPT, NetworkTrial, Transfer, UsualRate, check

MEGABIT = 1_000_000


def transfer(megabits: int) -> Transfer:
    """So many megabits each way in a second."""
    size = megabits * MEGABIT // 8
    return Transfer(asked_bytes=size, sent_bytes=size, send_us=1_000_000, received_bytes=size, receive_us=1_000_000)


def trial(megabits: int, usual: int) -> NetworkTrial:
    return NetworkTrial(**transfer(megabits).model_dump(), usual_bits_per_second=usual * MEGABIT)


def test_the_slower_way_counts_and_one_that_failed_is_nothing() -> None:
    fast = transfer(80)
    assert fast.bits_per_second == 80 * MEGABIT
    assert fast.model_copy(update={"receive_us": 2_000_000}).bits_per_second == 40 * MEGABIT
    assert fast.model_copy(update={"sent_bytes": 0}).bits_per_second == 0


@pytest.mark.parametrize(
    ("measured", "usual", "claimed", "holds"),
    [
        (10, 1000, 10_000, True),
        (9, 1000, 10_000, False),
        (5, 50, 10_000, True),
        (4, 50, 10_000, False),
        (2, 1000, 20, True),
        (1, 1000, 20, False),
        (0, 1000, 0, True),
        (0, 0, 10_000, True),
    ],
)
def test_tenth_of_the_smallest_of_claim_custom_and_what_is_judged_at_most(
    measured: int, usual: int, claimed: int, holds: bool
) -> None:
    assert check(trial(measured, usual), claimed * MEGABIT)[3] is holds


def test_nobody_is_judged_by_its_own_figure_or_by_two_others() -> None:
    usual = UsualRate()
    for _ in range(5):
        assert usual.judgeable("slow", transfer(1)).usual_bits_per_second == 0
    assert usual.judgeable("first", transfer(100)).usual_bits_per_second == 0
    assert usual.judgeable("second", transfer(200)).usual_bits_per_second == 0
    assert usual.judgeable("third", transfer(300)).usual_bits_per_second == 100 * MEGABIT
    assert usual.judgeable("slow", transfer(1)).usual_bits_per_second == 200 * MEGABIT


def test_custom_follows_the_newest_miners() -> None:
    usual = UsualRate()
    for number in range(3 * MINERS_KEPT):
        usual.judgeable(f"miner {number}", transfer(100 if number < MINERS_KEPT else 7))
    assert usual.judgeable("next", transfer(1)).usual_bits_per_second == 7 * MEGABIT
