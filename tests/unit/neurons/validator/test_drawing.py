"""Who is proven and inspected: at first sight, when drawn, and when it was left out for too long."""

from __future__ import annotations

import pytest

from challenges.draw import is_drawn
from neurons.validator.drawing import OVERDUE_TIMES, draw_for, host_of
from polarise.evidence import DrawEvidence, ScoreRecord
from polarise.registry import RegistryEntry, open_entry
from tests.support.evidence import score
from tests.support.proving_miner import entry_of

EVERY = 12
HOST = "miner.example"


def _entry(endpoint: str = f"https://{HOST}:8091") -> RegistryEntry:
    return open_entry(entry_of(endpoint))


def _previous(**counts: int) -> ScoreRecord:
    return score(900_000).model_copy(update=counts)


def _beacon(*, proven: bool, inspected: bool) -> bytes:
    """Return a beacon that draws the host for this and not for that."""
    for number in range(10_000):
        beacon = number.to_bytes(32, "big")
        if is_drawn(beacon, HOST, EVERY) is proven and is_drawn(beacon, f"{HOST}#inspect", EVERY) is inspected:
            return beacon
    raise AssertionError("no such beacon")


def _draw(beacon: bytes, previous: ScoreRecord | None, entry: RegistryEntry | None = None) -> tuple[bool, bool]:
    found = draw_for(beacon, entry or _entry(), previous, proof_every=EVERY, inspect_every=EVERY)
    return found.is_proven, found.is_inspected


NOBODY = _beacon(proven=False, inspected=False)


def test_miner_is_examined_when_it_is_met_first() -> None:
    assert _draw(NOBODY, None) == (True, True)
    assert _draw(NOBODY, _previous()) == (False, False)


def test_miner_scored_by_rules_without_draws_is_met_anew() -> None:
    assert _draw(NOBODY, _previous(rules_version=1)) == (True, True)


@pytest.mark.parametrize("drawn", [(True, False), (False, True), (True, True)])
def test_proofs_and_inspections_are_drawn_apart(drawn: tuple[bool, bool]) -> None:
    assert _draw(_beacon(proven=drawn[0], inspected=drawn[1]), _previous()) == drawn


@pytest.mark.parametrize(("count", "is_due"), [(OVERDUE_TIMES * EVERY - 2, False), (OVERDUE_TIMES * EVERY - 1, True)])
def test_miner_is_never_left_out_for_longer_than_three_times_the_interval(count: int, is_due: bool) -> None:
    assert _draw(NOBODY, _previous(undrawn_count=count)) == (is_due, False)
    assert _draw(NOBODY, _previous(uninspected_count=count)) == (False, is_due)


def test_interval_of_one_draws_everybody() -> None:
    found = draw_for(NOBODY, _entry(), _previous(), proof_every=1, inspect_every=1)
    assert found == DrawEvidence(proof_every=1, inspect_every=1, is_proven=True, is_inspected=True)


@pytest.mark.parametrize("endpoint", [f"https://{HOST}:1", f"http://{HOST}", "https://MINER.Example:8091"])
def test_miners_of_one_host_are_drawn_together(endpoint: str) -> None:
    entry = _entry(endpoint)
    assert host_of(entry) == HOST
    for beacon in (_beacon(proven=True, inspected=False), NOBODY):
        assert _draw(beacon, _previous(), entry) == _draw(beacon, _previous())


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [("http://[::1]:8091", "::1"), ("http://:8091", "http://:8091"), ("http://[A", "http://[a")],
)
def test_endpoint_without_a_host_stands_for_itself(endpoint: str, host: str) -> None:
    """A broken entry is drawn like any other: it must not end the epoch for everybody."""
    assert host_of(_entry(endpoint)) == host


def test_one_epoch_in_twelve_on_average() -> None:
    """Over 4,800 beacons, within five standard deviations of 400."""
    drawn = sum(_draw(number.to_bytes(32, "big"), _previous())[0] for number in range(4800))
    assert abs(drawn - 400) < 96
