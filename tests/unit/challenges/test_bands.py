"""What a device should measure, and the band around it: each edge by the least amount on either side."""

from __future__ import annotations

import pytest

from challenges import timing
from challenges.bands import Band, Expectation, RateFlag, expect
from challenges.draw import ChallengeKind
from challenges.hardware import GpuModel, HardwareTable
from polarise.errors import RejectReason

H200 = HardwareTable.load().models["NVIDIA H200"]


@pytest.mark.parametrize(
    ("kind", "rate", "peak"),
    [
        (ChallengeKind.POW, 132 * 1_980_000_000 * 624 // 10_000, 132 * 1_980_000_000 * 70_874 // 1_000_000),
        (ChallengeKind.MATMUL, 791_520_000_000_000, 989_400_000_000_000),
        (ChallengeKind.MEMORY, 4_320_000_000_000, 4_800_000_000_000),
    ],
)
def test_known_card_should_do_what_the_table_says(kind: ChallengeKind, rate: int, peak: int) -> None:
    expectation = expect(H200, kind, claimed=5)
    assert expectation == Expectation(kind, rate, peak, "NVIDIA H200")
    assert expectation.band == Band(rate, 600_000, 1_100_000)


@pytest.mark.parametrize("kind", list(ChallengeKind))
def test_of_a_processor_or_unknown_card_nothing_but_its_claim_is_expected(kind: ChallengeKind) -> None:
    expectation = expect(None, kind, claimed=5)
    assert expectation == Expectation(kind, 5, None, None)
    assert expectation.band is None
    verdict = timing.judge_rate(50, 5, expectation.peak, expectation.band)
    assert (verdict.reason, verdict.flag, verdict.of_expected_ppm, verdict.counted) == (None, None, None, 5)


@pytest.mark.parametrize(
    ("measured", "flag"),
    [
        (0, RateFlag.DEGRADED),
        (5_999_999, RateFlag.DEGRADED),
        (6_000_000, None),
        (11_000_000, None),
        (11_000_001, RateFlag.FAST),
    ],
)
def test_edges_belong_to_the_band(measured: int, flag: RateFlag | None) -> None:
    assert Band(10_000_000).flag(measured) is flag


@pytest.mark.parametrize(
    ("measured", "claimed", "reason", "flag", "counted"),
    [
        # Claimed low and held: worth what it says, and shown.
        (5_999_999, 5_000_000, None, RateFlag.DEGRADED, 5_000_000),
        (5_999_999, 9_999_998, None, RateFlag.DEGRADED, 5_999_999),
        (6_000_000, 10_000_000, None, None, 6_000_000),
        # A reason says more than a flag.
        (5_999_999, 10_000_000, RejectReason.CLAIM_NOT_MET, None, 5_999_999),
        (11_000_000, 10_000_000, None, None, 10_000_000),
        (11_000_001, 10_000_000, None, RateFlag.FAST, 10_000_000),
        # The ceiling is 1.15 of the peak, 12,500,000.
        (14_375_000, 10_000_000, None, RateFlag.FAST, 10_000_000),
        (14_375_001, 10_000_000, RejectReason.TOO_FAST, None, 0),
    ],
)
def test_flag_costs_nothing_and_a_reason_does(
    measured: int, claimed: int, reason: RejectReason | None, flag: RateFlag | None, counted: int
) -> None:
    verdict = timing.judge_rate(measured, claimed, 12_500_000, Band(10_000_000))
    assert (verdict.reason, verdict.flag, verdict.counted) == (reason, flag, counted)
    assert verdict.of_expected_ppm == measured // 10
    plain = timing.judge_rate(measured, claimed, 12_500_000)
    assert (plain.reason, plain.counted, plain.ratio_ppm) == (verdict.reason, verdict.counted, verdict.ratio_ppm)


def test_band_moves_with_its_edges() -> None:
    band = Band(1_000_000, 700_000, 900_000)
    assert [band.flag(rate) for rate in (699_999, 700_000, 900_000, 900_001)] == [
        RateFlag.DEGRADED,
        None,
        None,
        RateFlag.FAST,
    ]


def test_fastest_honest_hashing_stays_below_the_ceiling() -> None:
    """The fastest published rate a card, at 1.08 of it (the bound of our kernel), five deviations of 2,000 shares up."""
    for model in HardwareTable.load().models.values():
        fastest = _published(model) * 108 // 100
        highest_bound = fastest * (1_000_000 - 44_722 + 5 * 22_361) // 1_000_000
        expectation = expect(model, ChallengeKind.POW, 1)
        assert timing.judge_rate(highest_bound, 1, expectation.peak).reason is None, model.nvml_name


def _published(model: GpuModel) -> int:
    """Return the largest of hashcat's rates per SM and clock in hardware.csv, at this card's SMs and clock."""
    return model.sm_count * model.boost_hz * 695 // 10_000
