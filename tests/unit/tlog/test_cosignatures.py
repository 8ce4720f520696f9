"""Kept cosignatures: forward only, bounded, and the newest of each strength always there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from polarise.cosignature import MOST
from polarise.errors import RequestRejected
from tlog.cosignatures import CHECKPOINTS_MAX, WITNESSES_MAX, Cosignature, Cosignatures, replaced

LOG = "system"


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Cosignatures]:
    with Cosignatures(tmp_path / "cosignatures.sqlite") as made:
        yield made


def by(witness: str, size: int, time_unix_s: int = 0) -> Cosignature:
    return Cosignature(size, f"{witness} over {size}\n", time_unix_s or size)


def test_lines_of_one_checkpoint_come_in_the_order_of_the_witnesses(kept: Cosignatures) -> None:
    for witness in "bac":
        kept.keep(LOG, witness, [by(witness, 7)])
    kept.keep("other", "a", [by("a", 7)])
    assert kept.lines(LOG, 7) == ["a over 7\n", "b over 7\n", "c over 7\n"]
    assert kept.lines(LOG, 8) == []


def test_a_witness_never_goes_back(kept: Cosignatures) -> None:
    kept.keep(LOG, "a", [by("a", 7), by("a", 9, 20)])
    for old in (by("a", 8), by("a", 9, 19)):
        with pytest.raises(RequestRejected) as caught:
            kept.keep(LOG, "a", [old])
        assert caught.value.status == 409
    kept.keep(LOG, "a", [by("a", 9, 21)])
    kept.keep(LOG, "b", [by("b", 8)])
    kept.keep("other", "a", [by("a", 1)])
    assert kept.newest(LOG) == {"a": by("a", 9, 21), "b": by("b", 8)}


def test_all_of_one_request_or_nothing(kept: Cosignatures) -> None:
    with pytest.raises(RequestRejected):
        kept.keep(LOG, "a", [by("a", 9), by("a", 8)])
    assert kept.newest(LOG) == {}


def test_the_newest_with_enough_and_the_one_with_most(kept: Cosignatures) -> None:
    for size, witnesses in ((3, "abc"), (5, "ab"), (6, "ac"), (9, "b")):
        for witness in witnesses:
            kept.keep(LOG, witness, [by(witness, size)])
    assert [kept.find(LOG, wanted) for wanted in ("1", "2", "3", "4", MOST)] == [9, 6, 3, None, 3]
    assert [kept.find(LOG, wanted, above=3) for wanted in ("1", "2", "3", MOST)] == [9, 6, None, 6]
    assert kept.find(LOG, MOST, above=9) is None


def test_checkpoints_are_bounded_and_the_strongest_stays(kept: Cosignatures) -> None:
    for witness in "abc":
        kept.keep(LOG, witness, [by(witness, 1)])
    for size in range(2, 200):
        kept.keep(LOG, "a", [by("a", size)])
    sizes = [size for size in range(200) if kept.lines(LOG, size)]
    assert sizes == [1, *range(201 - CHECKPOINTS_MAX, 200)]
    assert kept.find(LOG, "3") == 1


def test_witnesses_are_bounded_and_the_furthest_behind_gives_way(kept: Cosignatures) -> None:
    for number in range(WITNESSES_MAX + 2):
        kept.keep(LOG, f"w{number:02}", [by("w", 100 + number)])
    assert sorted(kept.newest(LOG)) == [f"w{number:02}" for number in range(2, WITNESSES_MAX + 2)]


def test_falling_counts_never_fill_the_room() -> None:
    """With at most 16 witnesses a checkpoint that nothing replaces is one of 16 strengths."""
    falling = [(size, WITNESSES_MAX - size) for size in range(WITNESSES_MAX)]
    even = [(100 + size, 1) for size in range(CHECKPOINTS_MAX)]
    dropped = replaced(falling + even)
    assert len(falling + even) - len(dropped) == CHECKPOINTS_MAX
    assert not {size for size, count in falling if count > 1} & set(dropped)


def test_a_restart_keeps_them(tmp_path: Path) -> None:
    path = tmp_path / "cosignatures.sqlite"
    with Cosignatures(path) as before:
        before.keep(LOG, "a", [by("a", 7)])
    with Cosignatures(path) as after, pytest.raises(RequestRejected):
        after.keep(LOG, "a", [by("a", 6)])
