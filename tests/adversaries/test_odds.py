"""The formulas, against counting by hand."""

from __future__ import annotations

import itertools
import math

import pytest

from tests.adversaries.odds import binomial_interval, caught_by_openings
from tests.adversaries.shares import PARAMS, easier_chance


@pytest.mark.parametrize(("tiles", "skipped", "openings"), [(6, 2, 3), (7, 1, 7), (5, 0, 2), (5, 5, 1), (8, 3, 6)])
def test_chance_is_the_share_of_draws_that_hit(tiles: int, skipped: int, openings: int) -> None:
    draws = list(itertools.combinations(range(tiles), openings))
    hits = sum(any(tile < skipped for tile in draw) for draw in draws)
    assert caught_by_openings(tiles, skipped, openings) == pytest.approx(hits / len(draws))


@pytest.mark.parametrize("percent", [5, 10, 20])
def test_drawing_without_replacement_catches_a_little_more(percent: int) -> None:
    with_replacement = 1 - (1 - percent / 100) ** 32
    assert with_replacement < caught_by_openings(10_000, 100 * percent, 32) < with_replacement + 0.001


def test_an_easier_share_is_good_enough_by_the_ratio_of_the_targets() -> None:
    assert easier_chance(PARAMS, 63) == pytest.approx(1 - (63 / 64) ** 64)
    assert easier_chance(PARAMS, 64) == 0.0


@pytest.mark.parametrize("probability", [0.03, 0.5, 0.88, 0.9995])
def test_interval_holds_99_percent_and_no_tail_more_than_half_of_the_rest(probability: float) -> None:
    low, high = binomial_interval(200, probability)
    masses = [math.comb(200, k) * probability**k * (1 - probability) ** (200 - k) for k in range(201)]
    assert sum(masses[low : high + 1]) >= 0.99
    assert max(sum(masses[:low]), sum(masses[high + 1 :])) <= 0.005


def test_interval_of_a_certain_event_is_one_count() -> None:
    assert binomial_interval(200, 1.0) == (200, 200)
    assert binomial_interval(200, 0.0) == (0, 0)
