"""Miners that save hashes are caught, those that only choose their hashes gain nothing, and the rate's bound holds."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from challenges import draw, timing
from challenges.draw import ChallengeKind, SeedInputs
from challenges.pow import PowCommitment, PowParams, check_shares, share_prefix
from challenges.pow_solver import NumpyPowBackend, solve_pow
from challenges.sha256_lanes import Sha256Lanes
from polarise.errors import ProofRejected, RejectReason

SEED = bytes(range(32))
PARAMS = PowParams(shares=64, difficulty=64)
PROOFS = 240
NONCES = 1 << 14
BoolArray = npt.NDArray[np.bool_]
INPUTS = SeedInputs(
    kind=ChallengeKind.POW,
    params=PARAMS.encode(),
    epoch=7,
    beacon=b"b" * 32,
    validator_key=b"v" * 32,
    nonce=b"n" * 32,
    miner_key=b"m" * 32,
    device_uuid="GPU-0",
    device_index=0,
)


@pytest.fixture(scope="module")
def backend() -> NumpyPowBackend:
    return NumpyPowBackend(lanes=4096, calls=1)


def _reason(commitment: PowCommitment, params: PowParams = PARAMS, seed: bytes = SEED) -> RejectReason | None:
    try:
        check_shares(params, seed, commitment)
    except ProofRejected as rejected:
        return rejected.reason
    return None


class AlteringBackend(NumpyPowBackend):
    """Answers something cheaper than the shares of a stretch."""

    def __init__(self, alter: Callable[[list[int]], list[int]]) -> None:
        super().__init__(lanes=4096, calls=1)
        self._alter = alter

    def scan(self, prefix: bytes, target: int, start: int) -> list[int]:
        return self._alter(super().scan(prefix, target, start))


def _neighbours(shares: list[int]) -> list[int]:
    return [number for share in shares for number in (share, share + 1)]


def _twice(shares: list[int]) -> list[int]:
    return [share for share in shares for _ in range(2)]


def _in_every_slot(shares: list[int]) -> list[int]:
    return [share + (slot << 48) for slot in range(64) for share in shares[:1]]


def _invented(shares: list[int]) -> list[int]:
    return list(range(shares[0], shares[0] + 1000))


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (_neighbours, RejectReason.SHARE_INVALID),
        (_twice, RejectReason.MALFORMED),
        (_in_every_slot, RejectReason.MALFORMED),
        (_invented, RejectReason.SHARE_INVALID),
    ],
)
def test_padded_answers_are_caught(alter: Callable[[list[int]], list[int]], reason: RejectReason) -> None:
    assert _reason(solve_pow(PARAMS, SEED, AlteringBackend(alter)).commitment) is reason


@pytest.mark.parametrize("saved_percent", [5, 20, 50])
def test_an_easier_difficulty_is_caught(backend: NumpyPowBackend, saved_percent: int) -> None:
    """At 60 instead of 64, which 5 % give, all 64 shares are good enough by luck with probability (60/64)**64 = 0.016."""
    easier = dataclasses.replace(PARAMS, difficulty=PARAMS.difficulty * (100 - saved_percent) // 100)
    assert _reason(solve_pow(easier, SEED, backend).commitment) is RejectReason.SHARE_INVALID


@pytest.mark.parametrize(
    "change",
    [
        {"miner_key": b"l" * 32},
        {"validator_key": b"w" * 32},
        {"device_uuid": "GPU-1"},
        {"device_index": 1},
        {"epoch": 6},
        {"beacon": b"c" * 32},
        {"nonce": b"o" * 32},
        {"kind": ChallengeKind.MATMUL},
    ],
)
def test_the_answer_of_another_identity_device_or_epoch_fails(
    backend: NumpyPowBackend, change: dict[str, object]
) -> None:
    """Shares kept from another challenge, or borrowed from another key of the same owner, are none here."""
    ours = draw.seed(INPUTS)
    theirs = draw.seed(dataclasses.replace(INPUTS, **change))  # type: ignore[arg-type]
    kept = solve_pow(PARAMS, theirs, backend).commitment
    assert _reason(kept, seed=theirs) is None
    assert _reason(kept, seed=ours) is RejectReason.SHARE_INVALID


@pytest.fixture(scope="module")
def is_share() -> BoolArray:
    """[proofs, nonces]: which nonces are shares, in 240 proofs."""
    lanes = Sha256Lanes(NONCES)
    last_word_max = np.uint32(PARAMS.target >> 32)
    return np.array(
        [lanes.last_words(share_prefix(PARAMS, _seed(proof)), 0) <= last_word_max for proof in range(PROOFS)]
    )


def _seed(proof: int) -> bytes:
    return proof.to_bytes(32, "big")


def _mean_band(mean: float, deviation: float, samples: int) -> tuple[float, float]:
    """Return the 99 % band of a mean of `samples` independent numbers."""
    half = 2.576 * deviation / math.sqrt(samples)
    return mean - half, mean + half


def _variance_band(samples: int) -> tuple[float, float]:
    """Return the 99 % band of a sample variance over the true one, by Wilson and Hilferty's chi-squared."""
    freedom = samples - 1
    low, high = (
        (1 - 2 / (9 * freedom) + deviation * math.sqrt(2 / (9 * freedom))) ** 3 for deviation in (-2.576, 2.576)
    )
    return low, high


ORDERS = {
    "upwards": np.arange(NONCES),
    "downwards": np.arange(NONCES)[::-1],
    "odd first": np.concatenate((np.arange(1, NONCES, 2), np.arange(0, NONCES, 2))),
    "from the middle": np.roll(np.arange(NONCES), -5000),
    "at random": np.random.default_rng(1).permutation(NONCES),
}


@pytest.mark.parametrize("order", ORDERS)
def test_choosing_or_skipping_nonces_gains_nothing(is_share: BoolArray, order: str) -> None:
    """Whatever the order, 64 shares cost 64 * 64 hashes with the deviation of 64 random events, over 240 proofs."""
    costs = []
    for proof in range(PROOFS):
        found = np.flatnonzero(is_share[proof][ORDERS[order]])[: PARAMS.shares]
        check_shares(PARAMS, _seed(proof), PowCommitment(tuple(sorted(ORDERS[order][found].tolist()))))
        costs.append(int(found[-1]) + 1)
    # Negative binomial: N·D hashes, variance N·D·(D - 1).
    variance = PARAMS.operations * (PARAMS.difficulty - 1)
    low, high = _mean_band(PARAMS.operations, math.sqrt(variance), PROOFS)
    assert low <= statistics.mean(costs) <= high
    low, high = _variance_band(PROOFS)
    assert low <= statistics.variance(costs) / variance <= high


def _failure_probability(shares: int) -> float:
    """Return how often the bound is above the true rate: a Gamma(N) time below N - 2·sqrt(N)."""
    mean = shares - 2 * math.sqrt(shares)
    return 1 - sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(shares))


@pytest.mark.parametrize("rate", [7_000_000, 16_300_000_000])
def test_the_lower_bound_holds_as_often_as_predicted(rate: int) -> None:
    """1,000 simulated proofs of 2,000 shares: 2.15 % of the bounds are above the true rate, 99.9 % band."""
    params, chance, trials = timing.fit_pow_params(rate, 10), random.Random(rate), 1000
    times = [round(chance.gammavariate(params.shares, params.difficulty / rate) * 1e9) for _ in range(trials)]
    failures = sum(timing.pow_rate_lower_bound(params, time_ns) > rate for time_ns in times)
    expected = trials * _failure_probability(params.shares)
    assert expected / trials == pytest.approx(0.0215, abs=1e-4)
    assert abs(failures - expected) <= 3.29 * math.sqrt(expected)
    rates = [timing.rate_per_second(params.operations, time_ns) / rate for time_ns in times]
    low, high = _variance_band(trials)
    assert low <= statistics.variance(rates) * params.shares <= high


def test_the_lower_bound_holds_over_real_proofs(backend: NumpyPowBackend) -> None:
    """240 proofs on a device of recorded speed, one hash per microsecond."""
    failures = 0
    for proof in range(PROOFS):
        work = solve_pow(PARAMS, _seed(proof), backend)
        time_ns = (work.nonces[-1] + 1) * 1000
        failures += timing.pow_rate_lower_bound(PARAMS, time_ns) > 1_000_000
    expected = PROOFS * _failure_probability(PARAMS.shares)
    assert failures <= expected + 3.29 * math.sqrt(expected)
    assert failures > 0
