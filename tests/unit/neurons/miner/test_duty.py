"""A device's share of an hour: counted to the millisecond, and given back as the hour slides."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from neurons.miner.duty import WINDOW_MS, Work, cap_ms, wait_ms
from neurons.miner.validations import ORDERS_KEPT, KeptOrder, Validation, ValidationTracker
from polarise.errors import ConfigError

NOW = 1_700_000_000_000


def work(ago_ms: int, work_ms: int) -> Work:
    return Work("cpu", NOW - ago_ms, work_ms)


def test_two_percent_of_an_hour_are_72_seconds() -> None:
    assert cap_ms(2.0) == 72_000
    assert cap_ms(100) == WINDOW_MS
    assert cap_ms(1e-9) == 1


@pytest.mark.parametrize(("spent_ms", "wait"), [(71_999, 0), (72_000, WINDOW_MS - 100_000 + 1)])
def test_device_waits_from_the_millisecond_that_fills_its_share(spent_ms: int, wait: int) -> None:
    assert wait_ms([work(100_000, spent_ms)], 72_000, NOW) == wait


def test_after_the_wait_it_may_begin_and_a_millisecond_before_it_may_not() -> None:
    works = [work(3_000_000, 50_000), work(1_000_000, 50_000), work(100_000, 10_000)]
    wait = wait_ms(works, 72_000, NOW)
    assert wait > 0
    assert wait_ms(works, 72_000, NOW + wait - 1) == 1
    assert wait_ms(works, 72_000, NOW + wait) == 0


def test_only_the_part_within_the_hour_counts() -> None:
    assert wait_ms([work(WINDOW_MS + 10_000, 82_000)], 72_000, NOW) == 1
    assert wait_ms([work(WINDOW_MS + 10_001, 82_000)], 72_000, NOW) == 0
    assert wait_ms([work(WINDOW_MS, 10), work(WINDOW_MS + 50_000, 40_000)], 11, NOW) == 0


def test_whole_hour_never_makes_it_wait() -> None:
    assert wait_ms([work(WINDOW_MS, WINDOW_MS), work(1000, 1000)], WINDOW_MS, NOW) == 0


def test_work_in_the_future_of_a_clock_that_was_set_back_is_left_out() -> None:
    assert wait_ms([work(-1, 72_000)], 72_000, NOW) == 0


def test_work_outlives_its_challenge_and_the_process(tmp_path: Path) -> None:
    """A validator that sends one name twice replaces the note for the operator, and not what was worked."""
    path = tmp_path / "validations.sqlite"
    for began in (NOW, NOW + 1000):
        with ValidationTracker(path) as tracker:
            tracker.record(Validation("1" * 32, "ab" * 32, "cpu", "pow", "prepared", NOW, None))
            tracker.advance("1" * 32, "committed", work=Work("cpu", began, 300))
    with ValidationTracker(path) as tracker:
        assert [found.work_ms for found in tracker.newest(9)] == [300]
        assert tracker.work_since("cpu", NOW) == [Work("cpu", NOW, 300), Work("cpu", NOW + 1000, 300)]
        assert tracker.work_since("cpu", NOW + 1) == [Work("cpu", NOW + 1000, 300)]
        assert tracker.work_since("GPU-1", NOW) == []


def test_file_of_the_version_before_brings_its_work_along(tmp_path: Path) -> None:
    path = tmp_path / "validations.sqlite"
    with ValidationTracker(path) as tracker:
        tracker.record(Validation("1" * 32, "ab" * 32, "cpu", "pow", "committed", NOW, 300))
        tracker.record(Validation("2" * 32, "ab" * 32, "cpu", "pow", "prepared", NOW, None))
    connection = sqlite3.connect(path)
    connection.executescript("DROP TABLE work; PRAGMA user_version = 2")
    connection.close()
    for _ in range(2):
        with ValidationTracker(path) as tracker:
            assert tracker.work_since("cpu", 0) == [Work("cpu", NOW, 300)]


def test_work_of_before_validators_were_noted_stays_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "validations.sqlite"
    with ValidationTracker(path) as tracker:
        tracker.advance("1" * 32, "committed", work=Work("cpu", NOW, 300, "ab" * 32))
    connection = sqlite3.connect(path)
    connection.executescript(
        "ALTER TABLE work DROP COLUMN validator_key; DROP TABLE challenge_order; PRAGMA user_version = 3"
    )
    connection.close()
    with ValidationTracker(path) as tracker:
        assert tracker.work_since("cpu", 0) == [Work("cpu", NOW, 300)]
        assert tracker.orders_since("cpu", 0) == []


def test_orders_are_kept_for_two_hours_and_none_pushes_out_another_validators(tmp_path: Path) -> None:
    def order(number: int, validator: str, received_ms: int) -> None:
        kept = KeptOrder("cpu", validator * 32, f"{number:032x}", NOW, 1000, "{}")
        tracker.keep_order(kept, NOW + received_ms)

    with ValidationTracker(tmp_path / "validations.sqlite") as tracker:
        order(0, "ab", 0)
        for number in range(1, ORDERS_KEPT + 2):
            order(number, "cd", number)
        kept = tracker.orders_since("cpu", NOW)
        assert [found.challenge_id for found in kept if found.validator_key == "ab" * 32] == [f"{0:032x}"]
        assert len(kept) == 1 + ORDERS_KEPT
        assert f"{1:032x}" not in {found.challenge_id for found in kept}
        assert tracker.orders_since("cpu", NOW + 1) == []
        order(999, "ef", 2 * WINDOW_MS)
        assert f"{0:032x}" in {found.challenge_id for found in tracker.orders_since("cpu", NOW)}
        order(999, "ef", 2 * WINDOW_MS + 1)
        assert f"{0:032x}" not in {found.challenge_id for found in tracker.orders_since("cpu", NOW)}


def test_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "validations.sqlite"
    with ValidationTracker(path):
        pass
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 5")
    connection.close()
    with pytest.raises(ConfigError, match="newer version"):
        ValidationTracker(path)
