"""Openings go when their time or their room is over; names, verdicts and younger openings stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurons.validator.metrics import FILE_NAME, MetricsHandler, StoredScore
from neurons.validator.retention import Retention
from polarise.evidence import read_bundle, write_bundle
from polarise.openings import GoneReason, OpeningsGone, word_of
from tests.support.proving_miner import MINER, VALIDATOR
from tests.support.scores import begin, bundle_of
from utils.clock import SystemClock

HOUR_MS = 3_600_000
EPOCHS = 3


class StoppedClock(SystemClock):
    """A wall clock that stands."""

    def wall_unix_ms(self) -> int:
        return 100 * HOUR_MS


@dataclasses.dataclass
class Kept:
    """Three bundles with openings, of hours 97, 98 and 99, oldest first."""

    metrics: MetricsHandler
    folder: Path
    names: list[str]

    def prune(self, *, hours: int = 48, bytes_max: int = 1 << 30) -> None:
        Retention(VALIDATOR, self.metrics, self.folder, StoppedClock(), hours=hours, bytes_max=bytes_max).prune()

    def opened(self) -> list[bool]:
        """Return which of them still have their openings."""
        bundles = [read_bundle(self.folder / f"{name}.json") for name in self.names]
        return [any(proof.openings is not None for proof in bundle.proofs) for bundle in bundles]

    def words(self) -> list[OpeningsGone | None]:
        """Return what the bundles say of openings that went early."""
        return [word_of(read_bundle(self.folder / f"{name}.json")) for name in self.names]


@pytest.fixture
def retention_hours() -> int:
    """What the bundles say of themselves."""
    return 1


@pytest.fixture
def kept(tmp_path: Path, retention_hours: int) -> Iterator[Kept]:
    with MetricsHandler(tmp_path / FILE_NAME) as metrics:
        names = []
        for epoch in range(EPOCHS):
            moment = (97 + epoch) * HOUR_MS
            update = {"examined_unix_ms": moment, "retention_hours": retention_hours}
            bundle = bundle_of(begin(metrics, epoch)).model_copy(update=update)
            path = write_bundle(tmp_path / "evidence", bundle)
            scored = StoredScore(epoch, MINER.public_key, bundle.score, path.stem, moment)
            metrics.record(scored)
            names.append(path.stem)
        yield Kept(metrics, tmp_path / "evidence", names)


def test_openings_past_their_time_go_and_the_name_stays(kept: Kept) -> None:
    kept.prune(hours=2)
    assert kept.opened() == [False, True, True]
    assert kept.words() == [None] * EPOCHS
    assert read_bundle(kept.folder / f"{kept.names[0]}.json").digest() == kept.names[0]


def test_openings_of_exactly_the_age_stay(kept: Kept) -> None:
    kept.prune(hours=3)
    assert kept.opened() == [True, True, True]


@pytest.mark.parametrize(("spare_bytes", "left"), [(0, [True, True, True]), (-1, [False, True, True])])
def test_oldest_go_first_when_there_is_no_room_for_all(
    kept: Kept, spare_bytes: int, left: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    room = sum((kept.folder / f"{name}.json").stat().st_size for name in kept.names)
    kept.prune(bytes_max=room + spare_bytes)
    assert kept.opened() == left
    assert ("before their time" in caplog.text) is (spare_bytes < 0)


@pytest.mark.parametrize("retention_hours", [3, 4])
def test_early_loss_for_want_of_room_is_signed(kept: Kept, retention_hours: int) -> None:
    """The clock stands at hour 100: of what is owed for 3 hours the oldest, of hour 97, is over to the millisecond."""
    kept.prune(bytes_max=1)
    words = kept.words()
    assert [word is None for word in words] == [retention_hours == 3, False, False]
    assert words[2] == OpeningsGone(evidence=kept.names[2], thrown_unix_ms=100 * HOUR_MS, reason=GoneReason.ROOM)
    assert kept.opened() == [False] * EPOCHS


@pytest.mark.parametrize(("retention_hours", "left"), [(3, [False, True, True]), (4, [True, True, True])])
def test_what_was_promised_stays_when_the_settings_say_less(kept: Kept, retention_hours: int, left: list[bool]) -> None:
    kept.prune(hours=2)
    assert kept.opened() == left


def test_no_room_at_all_leaves_no_openings(kept: Kept) -> None:
    kept.prune(bytes_max=1)
    assert kept.opened() == [False] * EPOCHS


def test_bundle_that_is_gone_keeps_none_of_the_others_from_being_looked_at(kept: Kept) -> None:
    (kept.folder / f"{kept.names[0]}.json").unlink()
    kept.prune(hours=1)
    del kept.names[0]
    assert kept.opened() == [False, True]


def test_bundle_without_openings_is_never_written_again(kept: Kept) -> None:
    bundle = bundle_of(begin(kept.metrics, 9)).without_openings()
    path = write_bundle(kept.folder, bundle)
    kept.metrics.record(StoredScore(9, MINER.public_key, bundle.score, path.stem, 1), has_openings=False)
    assert path.stem not in kept.metrics.unpruned_before(2**53)
