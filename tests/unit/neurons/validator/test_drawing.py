"""Whose turn it is: everybody in a common window, and beside it who is met first or was left out for too long."""

from __future__ import annotations

import pytest

from challenges.draw import is_drawn
from neurons.validator.drawing import OVERDUE_TIMES, Intervals, draw_for, has_window, host_of
from neurons.validator.drawing_2 import draw_by_host
from polarise.evidence import DrawEvidence, ScoreRecord
from polarise.registry import RegistryEntry, open_entry
from tests.support.evidence import score
from tests.support.proving_miner import OTHER_VALIDATOR, VALIDATOR, entry_of

EVERY = 12
HOST = "miner.example"
KEY = VALIDATOR.public_key
USUAL = Intervals(KEY, EVERY, EVERY)


def _entry(endpoint: str = f"https://{HOST}:8091") -> RegistryEntry:
    return open_entry(entry_of(endpoint))


def _previous(*, is_measured: bool = True, **counts: int) -> ScoreRecord:
    """A score before; whether a container was ever measured."""
    found = score(900_000)
    parts = tuple(
        part.model_copy(update={"last_ppm": 1_000_000 if is_measured else None}) if part.name == "service" else part
        for part in found.parts
    )
    return found.model_copy(update={"parts": parts, **counts})


def _beacon(*, window: bool, inspected: bool, proven_by_2: bool = False) -> bytes:
    """Return a beacon that has a window and draws the host for an inspection, or not; by rules 2 for a proof, or not."""
    for number in range(100_000):
        beacon = number.to_bytes(32, "big")
        drawn = tuple(is_drawn(beacon, name, EVERY) for name in (f"#window/{KEY}", f"{HOST}#inspect", HOST))
        if drawn == (window, inspected, proven_by_2):
            return beacon
    raise AssertionError("no such beacon")


def _draw(beacon: bytes, previous: ScoreRecord | None, entry: RegistryEntry | None = None) -> tuple[bool, bool]:
    found = draw_for(beacon, entry or _entry(), previous, USUAL)
    return found.is_proven, found.is_inspected


NOBODY = _beacon(window=False, inspected=False)


def test_miner_is_examined_when_it_is_met_first() -> None:
    assert _draw(NOBODY, None) == (True, True)
    assert _draw(NOBODY, _previous()) == (False, False)


def test_miner_scored_by_rules_without_draws_is_met_anew() -> None:
    assert _draw(NOBODY, _previous(rules_version=1)) == (True, True)


@pytest.mark.parametrize("drawn", [(True, False), (False, True), (True, True)])
def test_windows_and_inspections_are_drawn_apart(drawn: tuple[bool, bool]) -> None:
    assert _draw(_beacon(window=drawn[0], inspected=drawn[1]), _previous()) == drawn


def test_window_is_everybodys_whatever_its_host() -> None:
    """Names cost nothing: by rules 2 each of them was drawn for itself, and one device answered for all in turn."""
    hosts = [f"https://{number}.example" for number in range(50)]
    for beacon, is_common in ((_beacon(window=True, inspected=False), True), (NOBODY, False)):
        found = [draw_for(beacon, _entry(host), _previous(), USUAL) for host in hosts]
        assert {draw.is_proven for draw in found} == {draw.is_common for draw in found} == {is_common}
        assert has_window(beacon, USUAL) is is_common


def test_windows_of_two_validators_are_drawn_apart_from_one_beacon() -> None:
    """Both are one in twelve; that both have one is one in 144, and no device is asked by all of them each time."""
    beacons = [number.to_bytes(32, "big") for number in range(14_400)]
    other = Intervals(OTHER_VALIDATOR.public_key, EVERY, EVERY)
    ours = {beacon for beacon in beacons if has_window(beacon, USUAL)}
    theirs = {beacon for beacon in beacons if has_window(beacon, other)}
    assert 1100 < len(ours) < 1300
    assert 1100 < len(theirs) < 1300
    assert 60 < len(ours & theirs) < 140


def test_first_epoch_has_a_window_and_who_is_met_alone_has_none() -> None:
    first = draw_for(NOBODY, _entry(), _previous(), Intervals(KEY, EVERY, EVERY, is_first=True))
    assert (first.is_first, first.is_common, first.is_proven) == (True, True, True)
    alone = draw_for(NOBODY, _entry(), None, USUAL)
    assert (alone.is_common, alone.is_proven) == (False, True)


@pytest.mark.parametrize(("count", "is_due"), [(OVERDUE_TIMES * EVERY - 2, False), (OVERDUE_TIMES * EVERY - 1, True)])
def test_miner_is_never_left_out_for_longer_than_three_times_the_interval(count: int, is_due: bool) -> None:
    assert _draw(NOBODY, _previous(undrawn_count=count)) == (is_due, False)
    assert _draw(NOBODY, _previous(uninspected_count=count)) == (False, is_due)
    assert not draw_for(NOBODY, _entry(), _previous(undrawn_count=count), USUAL).is_common


def test_miner_without_a_measured_container_is_inspected_until_there_is_one() -> None:
    assert _draw(NOBODY, _previous(is_measured=False)) == (False, True)
    assert _draw(NOBODY, _previous(is_measured=True)) == (False, False)


def test_validator_that_does_not_inspect_draws_nobody() -> None:
    for previous in (None, _previous(is_measured=False), _previous(uninspected_count=10**6)):
        assert not draw_for(NOBODY, _entry(), previous, Intervals(KEY, EVERY, 0)).is_inspected


def test_interval_of_one_draws_everybody() -> None:
    found = draw_for(NOBODY, _entry(), _previous(), Intervals(KEY, 1, 1))
    assert found == DrawEvidence(proof_every=1, inspect_every=1, is_proven=True, is_inspected=True, is_common=True)


@pytest.mark.parametrize("endpoint", [f"https://{HOST}:1", f"http://{HOST}", "https://MINER.Example:8091"])
def test_miners_of_one_host_are_inspected_together(endpoint: str) -> None:
    entry = _entry(endpoint)
    assert host_of(entry) == HOST
    for beacon in (_beacon(window=False, inspected=True), NOBODY):
        assert _draw(beacon, _previous(), entry) == _draw(beacon, _previous())


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [("http://[::1]:8091", "::1"), ("http://:8091", "http://:8091"), ("http://[A", "http://[a")],
)
def test_endpoint_without_a_host_stands_for_itself(endpoint: str, host: str) -> None:
    """A broken entry is drawn like any other: it must not end the epoch for everybody."""
    assert host_of(_entry(endpoint)) == host


def test_one_epoch_in_twelve_has_a_window_on_average() -> None:
    """Over 4,800 beacons, within five standard deviations of 400."""
    drawn = sum(_draw(number.to_bytes(32, "big"), _previous())[0] for number in range(4800))
    assert abs(drawn - 400) < 96


def test_rules_2_draw_by_host_and_know_no_window() -> None:
    for is_drawn_by_2 in (True, False):
        beacon = _beacon(window=not is_drawn_by_2, inspected=False, proven_by_2=is_drawn_by_2)
        found = draw_by_host(beacon, _entry(), _previous(), proof_every=EVERY, inspect_every=EVERY)
        assert (found.is_proven, found.is_inspected, found.is_common) == (is_drawn_by_2, False, False)
