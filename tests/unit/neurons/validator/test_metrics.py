"""What a validator keeps of its epochs: how each ended, where the windows were, and files of older software."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from neurons.cli import main
from neurons.validator.metrics import FILE_NAME, EpochEnd, MetricsHandler, Status, StoredWeight
from neurons.validator.scoring import RULES_VERSION
from tests.support.scores import begin, bundle_of, keep

# The table as format 3 had it.
EPOCH_3 = """
CREATE TABLE epoch (
    epoch INTEGER PRIMARY KEY,
    opening_key BLOB NOT NULL,
    miner_set_root BLOB NOT NULL,
    challenge_commit BLOB NOT NULL,
    started_unix_ms INTEGER NOT NULL,
    beacon BLOB,
    beacon_height INTEGER,
    finished_unix_ms INTEGER,
    record TEXT
)
"""


def _finish(metrics: MetricsHandler, epoch: int, status: Status, *, has_window: bool, rules_version: int = 3) -> None:
    begin(metrics, epoch)
    metrics.set_beacon(epoch, b"b" * 32, 1, has_window=has_window)
    metrics.finish_epoch(epoch, 1, EpochEnd("d" * 64, status, rules_version))


def test_file_of_format_3_is_brought_to_this_one_with_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with sqlite3.connect(path) as old:
        old.execute(EPOCH_3)
        old.execute("INSERT INTO epoch VALUES (6, x'00', x'01', x'02', 3, x'04', 5, 6, 'abc')")
        old.execute("INSERT INTO epoch VALUES (7, x'00', x'01', x'02', 3, NULL, NULL, NULL, NULL)")
        old.execute("PRAGMA user_version = 3")
    old.close()
    with MetricsHandler(path) as metrics:
        assert metrics.query("PRAGMA user_version")[0][0] == 4
        done, open_ = metrics.epoch(6), metrics.epoch(7)
        assert (done.record, done.status, done.rules_version, done.has_window) == ("abc", None, None, None)
        assert (done.state, open_.state) == ("finished", "waits for its beacon")
        assert (metrics.last_window(), metrics.has_complete(1)) == (None, False)
        _finish(metrics, 8, "complete", has_window=True)
        assert (metrics.last_window(), metrics.has_complete(RULES_VERSION)) == (8, True)


@pytest.mark.parametrize("version", [1, 2])
def test_older_file_is_brought_to_this_one_too(tmp_path: Path, version: int) -> None:
    path = tmp_path / FILE_NAME
    with sqlite3.connect(path) as old:
        old.execute(EPOCH_3)
        old.execute(f"PRAGMA user_version = {version}")
    old.close()
    with MetricsHandler(path) as metrics:
        _finish(metrics, 8, "complete", has_window=False)
        assert metrics.epoch(8).has_window is False
        assert metrics.weights() == {}


def test_only_a_complete_epoch_has_had_its_window(tmp_path: Path) -> None:
    with MetricsHandler(tmp_path / FILE_NAME) as metrics:
        _finish(metrics, 1, "complete", has_window=True, rules_version=2)
        assert not metrics.has_complete(3)
        _finish(metrics, 2, "complete", has_window=True)
        _finish(metrics, 3, "complete", has_window=False)
        _finish(metrics, 4, "broken_off", has_window=True)
        assert (metrics.last_window(), metrics.has_complete(3)) == (2, True)


def test_state_says_how_an_epoch_ended(tmp_path: Path) -> None:
    with MetricsHandler(tmp_path / FILE_NAME) as metrics:
        begin(metrics, 1)
        states = [metrics.epoch(1).state]
        metrics.set_beacon(1, b"b" * 32, 1, has_window=False)
        states.append(metrics.epoch(1).state)
        metrics.finish_epoch(1, 1, None)
        states.append(metrics.epoch(1).state)
        _finish(metrics, 2, "complete", has_window=False)
        _finish(metrics, 3, "broken_off", has_window=False)
        states.extend(metrics.epoch(epoch).state for epoch in (2, 3))
    assert states == ["waits for its beacon", "runs", "no record", "finished", "broken off"]


def test_weights_shown_are_of_the_newest_epoch_that_was_not_broken_off(tmp_path: Path) -> None:
    with MetricsHandler(tmp_path / FILE_NAME) as metrics:
        for epoch, status, weight_ppm in ((1, "complete", 5), (2, "broken_off", 0)):
            _finish(metrics, epoch, status, has_window=False)  # type: ignore[arg-type]  # a Status
            metrics.set_weights(epoch, {"a" * 64: StoredWeight(1, weight_ppm)})
        assert metrics.weights() == {"a" * 64: StoredWeight(1, 5)}
        assert metrics.weights(2) == {"a" * 64: StoredWeight(1, 0)}


def test_command_line_says_that_an_epoch_was_broken_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with MetricsHandler(tmp_path / FILE_NAME) as metrics:
        bundle = bundle_of(begin(metrics, 7))
        keep(metrics, tmp_path / "evidence", bundle)
        metrics.finish_epoch(7, 1, EpochEnd("d" * 64, "broken_off", RULES_VERSION))
    for verb in (["scores"], ["explain", bundle.miner_key]):
        assert main(["validator", *verb, "--data-dir", str(tmp_path)]) == 0
        assert "broken off" in capsys.readouterr().out
