"""From stamps to verdicts: each bound by the least amount on either side, on recorded times only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from challenges import timing
from challenges.matmul import MatmulParams
from challenges.pow_messages import HASHES_MAX, PowParams
from polarise.errors import RejectReason

SECOND = 1_000_000_000
MS = 1_000_000


@pytest.mark.parametrize(
    ("sent", "received", "rtt", "expected"),
    [
        (0, 10 * SECOND, 0, 10 * SECOND),
        (5, 10 * SECOND + 5, 80 * MS, 9920 * MS),
        (0, 10 * SECOND, 100 * MS, 9900 * MS),
        (0, 10 * SECOND, 100 * MS + 1, 9900 * MS),
        (0, 10 * SECOND, 60 * SECOND, 9900 * MS),
        (0, 5 * SECOND, 100 * MS, 4900 * MS),
        (0, 5 * SECOND - 50, 100 * MS, 4900 * MS - 49),
        (0, SECOND, 20 * MS, 980 * MS),
        (0, SECOND, 20 * MS + 1, 980 * MS),
        (0, 50 * MS, 80 * MS, 49 * MS),
        (0, 49, 80 * MS, 49),
        (7, 7, 0, 1),
    ],
)
def test_round_trip_is_subtracted_up_to_its_caps(sent: int, received: int, rtt: int, expected: int) -> None:
    assert timing.duration_ns(sent, received, rtt) == expected


@given(st.integers(1, 10**12), st.integers(0, 10**12))
def test_delayed_pings_raise_no_rate_by_more_than_a_49th(elapsed: int, rtt: int) -> None:
    assert 50 * timing.duration_ns(0, elapsed, rtt) >= 49 * elapsed


@pytest.mark.parametrize(("sent", "received", "rtt"), [(1, 0, 0), (0, 1, -1)])
def test_impossible_stamps_are_our_own_error(sent: int, received: int, rtt: int) -> None:
    with pytest.raises(ValueError, match="stamps"):
        timing.duration_ns(sent, received, rtt)


def test_rate_counts_two_operations_per_term() -> None:
    params = MatmulParams(n=1024, rounds=10)
    assert params.operations == 2 * 1024**3 * 10
    assert timing.rate_per_second(params.operations, 2 * SECOND) == 1024**3 * 10


@pytest.mark.parametrize(("operations", "time_ns"), [(-1, 1), (1, 0)])
def test_impossible_rates_are_our_own_error(operations: int, time_ns: int) -> None:
    with pytest.raises(ValueError, match="operations"):
        timing.rate_per_second(operations, time_ns)


def test_a_claim_of_nothing_is_our_own_error() -> None:
    with pytest.raises(ValueError, match="claimed 0"):
        timing.ratio_ppm(5, 0)


@pytest.mark.parametrize(
    ("measured", "claimed", "peak", "reason", "counted"),
    [
        (6_000_000, 10_000_000, None, None, 6_000_000),
        (5_999_999, 10_000_000, None, RejectReason.CLAIM_NOT_MET, 5_999_999),
        (10_000_001, 10_000_000, None, None, 10_000_000),
        (99_000_000, 10_000_000, None, None, 10_000_000),
        (11_500_000, 8_000_000, 10_000_000, None, 8_000_000),
        (11_500_001, 8_000_000, 10_000_000, RejectReason.TOO_FAST, 0),
        (11_500_001, 99_000_000, 10_000_000, RejectReason.TOO_FAST, 0),
        (0, 1, None, RejectReason.CLAIM_NOT_MET, 0),
    ],
)
def test_bands(measured: int, claimed: int, peak: int | None, reason: RejectReason | None, counted: int) -> None:
    verdict = timing.judge_rate(measured, claimed, peak)
    assert verdict.reason is reason
    assert verdict.is_accepted is (reason is None)
    assert verdict.counted == counted
    assert verdict.ratio_ppm == measured * 1_000_000 // claimed


@given(st.integers(0, 10**18), st.integers(1, 10**18), st.none() | st.integers(1, 10**18))
def test_no_more_counts_than_claimed_and_measured(measured: int, claimed: int, peak: int | None) -> None:
    verdict = timing.judge_rate(measured, claimed, peak)
    assert 0 <= verdict.counted <= min(measured, claimed)


@pytest.mark.parametrize(
    ("rate", "seconds", "n", "rounds"),
    [
        (100 * 10**9, 2, 2048, 12),
        (60 * 10**9, 2, 1024, 56),
        (200 * 10**9, 2, 2048, 23),
        (790 * 10**12, 10, 16384, 898),
        (1, 1, 256, 2),
        (10**17, 600, 16384, 4096),
    ],
)
def test_sizes_fit_the_device(rate: int, seconds: int, n: int, rounds: int) -> None:
    assert timing.fit_params(rate, seconds) == MatmulParams(n, rounds, tile=32 if n <= 8192 else 64)


def test_memory_limits_the_size_and_rounds_make_up_for_it() -> None:
    wanted = 16 * 8192**2
    assert timing.fit_params(10**14, 10, memory_bytes=wanted) == MatmulParams(8192, 909, tile=32)
    assert timing.fit_params(10**14, 10, memory_bytes=wanted - 1) == MatmulParams(4096, 4096, tile=32)


def test_memory_that_does_not_carry_half_of_the_work_does_not_meet_the_claim() -> None:
    """1 MiB of memory would make a 500 Top/s card prove 0.3 ms of work, which any processor does in a round trip."""
    carried = 2 * 256**3 * 4096
    assert timing.fit_params(2 * carried, 1, memory_bytes=1 << 20).operations == carried
    for rate in (2 * carried + 2, 5 * 10**14):
        with pytest.raises(timing.WorkTooSmall) as caught:
            timing.fit_params(rate, 1, memory_bytes=1 << 20)
        assert caught.value.reason is RejectReason.CLAIM_NOT_MET
        assert caught.value.params == MatmulParams(256, 4096, tile=32)


@given(st.integers(1, 2**53), st.integers(1, 60), st.none() | st.integers(1, 1 << 40))
def test_no_claim_has_less_than_half_of_its_proof(rate: int, seconds: int, memory_bytes: int | None) -> None:
    largest = 2 * 16384**3 * 4096
    try:
        params = timing.fit_params(rate, seconds, memory_bytes=memory_bytes)
    except timing.WorkTooSmall as err:
        assert 2 * err.params.operations < min(rate * seconds, largest)  # noqa: PT017  both outcomes are fine
    else:
        assert 2 * params.operations >= min(rate * seconds, largest) - 1


@given(st.integers(10**9, 10**15), st.integers(1, 20))
def test_work_lasts_about_the_target(rate: int, seconds: int) -> None:
    params = timing.fit_params(rate, seconds)
    if params.rounds < 4096:
        assert abs(params.operations - rate * seconds) <= params.n**3 + rate * seconds // 100


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (1, 0)])
def test_planning_for_nothing_is_our_own_error(rate: int, seconds: int) -> None:
    with pytest.raises(ValueError, match="target"):
        timing.fit_params(rate, seconds)


@pytest.mark.parametrize(
    ("params", "time_ns", "expected"),
    [
        # 1 - 2/sqrt(N) is exactly 1/2, 0.8 and 0.9.
        (PowParams(16, 1000), SECOND, 8000),
        (PowParams(100, 1000), SECOND, 80_000),
        (PowParams(400, 80_000_000), 2 * SECOND, 14_400_000_000),
        # 10 * (17 - 2 * sqrt(17)) = 87.53...
        (PowParams(17, 10), SECOND, 87),
        (PowParams(17, 10), 1, 87_537_887_487),
        (PowParams(16, 1), 60 * SECOND, 0),
    ],
)
def test_lower_bound_is_two_deviations_below_the_rate(params: PowParams, time_ns: int, expected: int) -> None:
    assert timing.pow_rate_lower_bound(params, time_ns) == expected


@given(st.integers(16, 4096), st.integers(1, HASHES_MAX // 4096), st.integers(1, 10**12))
def test_lower_bound_is_rounded_down_and_by_less_than_one(shares: int, difficulty: int, time_ns: int) -> None:
    """The largest b with b·T <= D·10**9·(N - 2·sqrt(N)); compared without a root, in integers."""
    bound = timing.pow_rate_lower_bound(PowParams(shares, difficulty), time_ns)
    scaled = difficulty * SECOND

    def is_below(candidate: int) -> bool:
        rest = scaled * shares - candidate * time_ns
        return rest >= 0 and rest**2 >= 4 * shares * scaled**2

    assert is_below(bound)
    assert not is_below(bound + 1)


def test_a_proof_of_work_in_no_time_is_our_own_error() -> None:
    with pytest.raises(ValueError, match="in 0 ns"):
        timing.pow_rate_lower_bound(PowParams(16, 1), 0)


@pytest.mark.parametrize(
    ("rate", "seconds", "shares", "difficulty"),
    [
        (16 * 10**9, 10, 2000, 80_000_000),
        (7_000_000, 2, 2000, 7000),
        (512_000, 1, 2000, 256),
        (511_999, 1, 1999, 256),
        (5000, 1, 19, 263),
        (100, 1, 16, 6),
        (1, 1, 16, 1),
        (10**18, 600, 2000, HASHES_MAX // 2000),
    ],
)
def test_difficulty_fits_the_device(rate: int, seconds: int, shares: int, difficulty: int) -> None:
    assert timing.fit_pow_params(rate, seconds, slot=5) == PowParams(shares, difficulty, 5)


@given(st.integers(1, 10**19), st.integers(1, 600))
def test_any_rate_gets_parameters_that_last_about_the_target(rate: int, seconds: int) -> None:
    params = timing.fit_pow_params(rate, seconds)
    if 16 <= rate * seconds < HASHES_MAX // 2:
        assert abs(params.operations - rate * seconds) <= params.shares / 2


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (1, 0)])
def test_planning_a_proof_of_work_for_nothing_is_our_own_error(rate: int, seconds: int) -> None:
    with pytest.raises(ValueError, match="target"):
        timing.fit_pow_params(rate, seconds)
