"""Openings go when their time or their room is over; names, verdicts and younger openings stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurons.validator.metrics import FILE_NAME, MetricsHandler, StoredScore
from neurons.validator.retention import Retention
from polarise.evidence import read_bundle, write_bundle
from tests.support.proving_miner import MINER
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
        Retention(self.metrics, self.folder, StoppedClock(), hours=hours, bytes_max=bytes_max).prune()

    def opened(self) -> list[bool]:
        """Return which of them still have their openings."""
        bundles = [read_bundle(self.folder / f"{name}.json") for name in self.names]
        return [any(proof.openings is not None for proof in bundle.proofs) for bundle in bundles]

    def size(self) -> int:
        return max((self.folder / f"{name}.json").stat().st_size for name in self.names)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with MetricsHandler(tmp_path / FILE_NAME) as metrics:
        names = []
        for epoch in range(EPOCHS):
            bundle = bundle_of(begin(metrics, epoch))
            path = write_bundle(tmp_path / "evidence", bundle)
            scored = StoredScore(epoch, MINER.public_key, bundle.score, path.stem, (97 + epoch) * HOUR_MS)
            metrics.record(scored)
            names.append(path.stem)
        yield Kept(metrics, tmp_path / "evidence", names)


def test_openings_past_their_time_go_and_the_name_stays(kept: Kept) -> None:
    kept.prune(hours=2)
    assert kept.opened() == [False, True, True]
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
