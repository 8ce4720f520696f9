"""A device's share of an hour: counted to the millisecond, and given back as the hour slides."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from neurons.miner.duty import WINDOW_MS, Work, cap_ms, wait_ms
from neurons.miner.validations import Validation, ValidationTracker
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


def test_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "validations.sqlite"
    with ValidationTracker(path):
        pass
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 4")
    connection.close()
    with pytest.raises(ConfigError, match="newer version"):
        ValidationTracker(path)
