"""The usual rate of a model: what counts, who counts how much, which band follows, and that anyone derives it equal."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from challenges import averages, timing
from challenges.bands import HONEST_PPM, Band, RateFlag, expect
from challenges.draw import ChallengeKind
from challenges.hardware import HardwareTable
from polarise.decode import decode_model
from polarise.rate_average import RateAverage, RateKind, RateSample

MODEL = "NVIDIA H200"
CARD = HardwareTable.load().models[MODEL]
OWNERS = tuple(f"{index:064x}" for index in range(40))


def sample(of_expected_ppm: int, owner: int = 0, kind: RateKind = "matmul", model: str = MODEL) -> RateSample:
    return RateSample(model=model, kind=kind, owner_key=OWNERS[owner], of_expected_ppm=of_expected_ppm)


def fresh(kind: RateKind = "matmul") -> RateAverage:
    return RateAverage(model=MODEL, kind=kind)


def average_of(*rates: int, owners: int = 5, kind: RateKind = "matmul") -> RateAverage:
    """The average after these rates, owners taking turns."""
    average = fresh(kind)
    for index, rate in enumerate(rates):
        average = averages.update(average, sample(rate, index % owners, kind))
    return average


def test_mean_and_deviation_are_those_of_all_samples_at_first() -> None:
    average = average_of(800_000, 900_000, 1_000_000)
    assert (average.samples_count, average.mean_ppm) == (3, 900_000)
    # |900 - 800| and |1000 - 850| over three samples, the first of which deviates from nothing.
    assert average.deviation_ppm == ((100_000 // 2) * 2 + 150_000) // 3


def test_a_sample_weighs_a_thirty_second_later() -> None:
    average = average_of(*[1_000_000] * 32)
    moved = averages.update(average, sample(1_032_000, 9))
    assert (moved.mean_ppm, moved.deviation_ppm) == (1_001_000, 1_000)


@pytest.mark.parametrize(("count", "is_usable"), [(19, False), (20, True)])
def test_twenty_samples_make_it_usable(count: int, is_usable: bool) -> None:
    average = average_of(*[1_000_000] * count)
    assert averages.is_usable(average) is is_usable
    assert averages.edges(average) == ((740_818, 1_349_858) if is_usable else (600_000, 1_100_000))


@pytest.mark.parametrize(("owners", "counted"), [(1, 1), (4, 4), (5, 100)])
def test_fewer_than_five_owners_never_make_an_average(owners: int, counted: int) -> None:
    assert average_of(*[1_000_000] * 100, owners=owners).samples_count == counted


def test_an_owner_counts_again_after_four_others() -> None:
    average = average_of(*[1_000_000] * 4)
    assert averages.update(average, sample(1_000_000, 0)) == average
    after_four_others = averages.update(average, sample(1_000_000, 4))
    assert averages.update(after_four_others, sample(1_000_000, 0)).samples_count == 6


@pytest.mark.parametrize(("rate", "counts"), [(599_999, False), (600_000, True)])
def test_rates_below_the_tables_band_do_not_count(rate: int, counts: bool) -> None:
    assert average_of(rate).samples_count == int(counts)


def test_cards_under_a_better_name_never_become_usual() -> None:
    """However many they are: forty owners of cards with a fifteenth of the rate."""
    assert average_of(*[66_000] * 400, owners=40) == fresh()
    at_the_edge = average_of(*[600_000] * 400, owners=40)
    assert averages.edges(at_the_edge)[0] == 600_000


@pytest.mark.parametrize("kind", ["pow", "matmul", "memory"])
def test_a_sample_two_honest_bands_away_counts_in_full_and_none_counts_more(kind: RateKind) -> None:
    average = average_of(*[1_000_000] * 32, kind=kind)
    quotient = averages.SPREAD_PPM[ChallengeKind(kind)]
    for edge, step in ((quotient, 32), (10**12 // quotient, -32)):
        at_edge = averages.update(average, sample(edge, 9, kind))
        assert averages.update(average, sample(edge + step, 9, kind)) == at_edge
        assert averages.update(average, sample(edge - step, 9, kind)) != at_edge


def test_two_honest_bands_are_the_square_of_one() -> None:
    noise = 1 + 3 / math.sqrt(2000)
    for kind, extra in ((ChallengeKind.POW, noise), (ChallengeKind.MATMUL, 1), (ChallengeKind.MEMORY, 1)):
        assert averages.SPREAD_PPM[kind] == pytest.approx((HONEST_PPM[kind] / 1e6) ** 2 * extra * 1e6, abs=2)


def test_a_sample_beyond_the_tables_band_counts_as_its_edge_at_first() -> None:
    assert average_of(1_100_001) == average_of(1_100_000)
    assert average_of(1_100_000) != average_of(1_099_999)


@pytest.mark.parametrize("lie", [600_000, 1_437_500])
def test_one_owner_of_five_moves_the_average_by_less_than_a_tenth(lie: int) -> None:
    average = average_of(*[lie, 1_000_000, 1_000_000, 1_000_000, 1_000_000] * 200)
    assert abs(average.mean_ppm - 1_000_000) < 100_000
    assert Band(10**12, *averages.edges(average)).flag(10**12) is None


def test_a_driver_that_changes_all_cards_is_followed() -> None:
    average = average_of(*[800_000] * 40, *[1_250_000] * 400)
    assert average.mean_ppm == pytest.approx(1_250_000, abs=40)


@pytest.mark.parametrize(
    ("kind", "mean", "deviation", "expected"),
    [
        ("matmul", 1_000_000, 0, (740_818, 1_349_858)),
        ("pow", 900_000, 0, (624_822, 1_296_369)),
        ("memory", 1_000_000, 0, (852_144, 1_173_510)),
        # Seven deviations, where they reach further than two honest bands: below first, for bands are quotients.
        ("memory", 1_000_000, 21_122, (852_144, 1_173_510)),
        ("memory", 1_000_000, 21_123, (852_139, 1_173_510)),
        ("memory", 1_000_000, 24_787, (826_491, 1_173_510)),
        ("memory", 1_000_000, 24_788, (826_484, 1_173_516)),
        # Below never more than the table allows.
        ("matmul", 1_000_000, 57_142, (600_006, 1_399_994)),
        ("matmul", 1_000_000, 57_143, (600_000, 1_400_001)),
        ("matmul", 700_000, 0, (600_000, 944_900)),
        ("matmul", 1_200_000, 400_000, (600_000, 4_000_000)),
    ],
)
def test_band_around_the_average(kind: RateKind, mean: int, deviation: int, expected: tuple[int, int]) -> None:
    average = RateAverage(model=MODEL, kind=kind, samples_count=20, mean_ppm=mean, deviation_ppm=deviation)
    assert averages.edges(average) == expected


def test_band_of_a_device_is_the_averages_once_there_is_one() -> None:
    expectation = expect(CARD, ChallengeKind.MATMUL, 1)
    usable = average_of(*[900_000] * 20)
    assert averages.band_of(expectation, None) == Band(expectation.rate, 600_000, 1_100_000)
    assert averages.band_of(expectation, average_of(900_000)) == Band(expectation.rate, 600_000, 1_100_000)
    assert averages.band_of(expectation, usable) == Band(expectation.rate, 666_736, 1_214_872)
    assert averages.band_of(expect(None, ChallengeKind.MATMUL, 1), usable) is None
    rate = expectation.rate * 660_000 // 1_000_000
    verdict = timing.judge_rate(rate, 1, expectation.peak, averages.band_of(expectation, usable))
    assert (verdict.reason, verdict.flag) == (None, RateFlag.DEGRADED)


def test_an_accepted_rate_of_a_known_card_is_a_sample() -> None:
    expectation = expect(CARD, ChallengeKind.MATMUL, 10)

    def of(measured: int, claimed: int) -> RateSample | None:
        verdict = timing.judge_rate(measured, claimed, expectation.peak, expectation.band)
        return averages.sample_of(expectation, OWNERS[0], verdict)

    rate = expectation.rate
    assert of(rate, rate) == sample(1_000_000)
    assert of(rate * 6 // 10, rate) == sample(600_000)
    assert of(rate * 6 // 10 - 1, rate) is None
    assert of(2 * rate, rate) is None
    unknown = expect(None, ChallengeKind.MATMUL, 10)
    assert averages.sample_of(unknown, OWNERS[0], timing.judge_rate(10, 10, None, unknown.band)) is None


@pytest.mark.parametrize(("model", "kind"), [("NVIDIA L4", "matmul"), (MODEL, "pow")])
def test_averages_of_different_things_are_never_mixed(model: str, kind: RateKind) -> None:
    with pytest.raises(ValueError, match=r"sample of .* for matmul"):
        averages.update(fresh(), sample(1_000_000, kind=kind, model=model))
    other = expect(HardwareTable.load().models[model], ChallengeKind(kind), 1)
    with pytest.raises(ValueError, match="matmul of 'NVIDIA H200' for"):
        averages.band_of(other, average_of(*[1_000_000] * 20))


@given(st.lists(st.tuples(st.integers(0, 1_500_000), st.integers(0, 39)), max_size=60), st.integers(0, 60))
def test_an_auditor_who_starts_in_the_middle_arrives_at_the_same_state(told: list[tuple[int, int]], split: int) -> None:
    """State -> JSON -> state, on the way, changes nothing; the order of the epochs does not get lost."""
    samples = [sample(rate, owner, "pow" if owner % 2 else "matmul") for rate, owner in told]
    whole = averages.advance((), samples)
    first = averages.advance((), samples[:split])
    kept = tuple(decode_model(RateAverage, average.model_dump_json().encode()) for average in first)
    assert averages.advance(kept, samples[split:]) == whole
    assert [average.kind for average in whole] == sorted({one.kind for one in samples})


@given(st.lists(st.tuples(st.integers(0, 2_000_000), st.integers(0, 39)), max_size=120))
def test_state_stays_within_its_bounds(told: list[tuple[int, int]]) -> None:
    average = fresh()
    for rate, owner in told:
        average = averages.update(average, sample(rate, owner))
        low, high = averages.edges(average)
        assert 600_000 <= low <= high
        assert average.samples_count < 5 or average.mean_ppm >= 600_000 - 32


@pytest.mark.parametrize(
    "change",
    [{"mean_ppm": 2_000_001}, {"mean_ppm": -1}, {"kind": "disk"}, {"recent_owners": OWNERS[:5]}, {"more": 1}],
)
def test_a_state_beyond_its_bounds_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RateAverage.model_validate({"model": MODEL, "kind": "matmul", **change})
