"""Miners that save work: each is caught, and those that skip a share of it as often as the formula says."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest

from challenges import draw, matmul, prng
from challenges.matmul import MatmulParams
from challenges.solver import MatmulWork, NumpyBackend, solve
from polarise.errors import ProofRejected, RejectReason

SEED = bytes(range(32))
# 4 rounds of 8 x 8 tiles: small, and 256 different tiles to ask for.
PARAMS = MatmulParams(n=128, rounds=4, tile=16, openings=32)


class SkippingBackend(NumpyBackend):
    """Multiplies only some tiles of each product and leaves zeros in the others."""

    def __init__(self, skipped_share: float) -> None:
        self._random = random.Random(1)
        self._skipped_share = skipped_share
        self.skipped_count = 0

    def multiply(self, a: prng.Float32Array, b: prng.Float32Array) -> prng.Float32Array:
        product = super().multiply(a, b)
        tiles = [(row, column) for row in range(8) for column in range(8)]
        for row, column in self._random.sample(tiles, round(self._skipped_share * len(tiles))):
            product[row * 16 : (row + 1) * 16, column * 16 : (column + 1) * 16] = 0
            self.skipped_count += 1
        return product


class AlteringBackend(NumpyBackend):
    """Does something cheaper than the exact product."""

    def __init__(self, alter: Callable[[prng.Float32Array, prng.Float32Array], prng.Float32Array]) -> None:
        self._alter = alter

    def multiply(self, a: prng.Float32Array, b: prng.Float32Array) -> prng.Float32Array:
        return self._alter(a, b)


def _is_caught(work: MatmulWork, trial: int, count: int) -> bool:
    positions = draw.draw_positions(
        SEED, "GPU-0", draw.ChallengeKind.MATMUL, trial.to_bytes(4, "big"), bounds=PARAMS.bounds, count=count
    )
    try:
        matmul.check_openings(PARAMS, SEED, work.commitment, positions, work.open(positions))
    except ProofRejected as rejected:
        return rejected.reason is RejectReason.TILE_MISMATCH
    return False


def _binomial_bounds(trials: int, probability: float, confidence: float) -> tuple[int, int]:
    """Return the smallest and largest count that are not in either tail."""
    tail = (1 - confidence) / 2
    masses = [math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in range(trials + 1)]
    low = next(k for k in range(trials + 1) if sum(masses[: k + 1]) > tail)
    high = next(k for k in range(trials, -1, -1) if sum(masses[k:]) > tail)
    return low, high


@pytest.mark.parametrize(("share", "count"), [(0.2, 3), (0.2, 8), (0.05, 8)])
def test_skipped_tiles_are_caught_as_often_as_predicted(share: float, count: int) -> None:
    """Few openings, so that a part of the trials passes; positions are distinct, hence hypergeometric."""
    backend = SkippingBackend(share)
    work = solve(PARAMS, SEED, backend)
    tiles = math.prod(PARAMS.bounds)
    caught_probability = 1 - math.comb(tiles - backend.skipped_count, count) / math.comb(tiles, count)
    trials = 150
    caught = sum(_is_caught(work, trial, count) for trial in range(trials))
    low, high = _binomial_bounds(trials, caught_probability, 0.999)
    assert low <= caught <= high


def test_a_fifth_skipped_never_passes_32_openings() -> None:
    """(1 - 0.2)**32 is 0.0008: in 100 trials one pass would be rare, and these 100 trials are fixed."""
    work = solve(PARAMS, SEED, SkippingBackend(0.2))
    assert all(_is_caught(work, trial, PARAMS.openings) for trial in range(100))


def test_an_honest_miner_is_never_caught() -> None:
    work = solve(PARAMS, SEED, NumpyBackend())
    assert not any(_is_caught(work, trial, PARAMS.openings) for trial in range(20))


def _bf16_output(a: prng.Float32Array, b: prng.Float32Array) -> prng.Float32Array:
    return ((a @ b).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def _seven_bit_operands(a: prng.Float32Array, b: prng.Float32Array) -> prng.Float32Array:
    coarse: prng.Float32Array = np.floor(a / 4) * np.float32(4)
    return coarse @ b


def _half_of_the_inner_index(a: prng.Float32Array, b: prng.Float32Array) -> prng.Float32Array:
    half = len(a) // 2
    doubled: prng.Float32Array = a[:, :half] @ b[:half] * np.float32(2)
    return doubled


def _low_rank(a: prng.Float32Array, b: prng.Float32Array) -> prng.Float32Array:
    u, s, v = np.linalg.svd(a)
    kept = len(a) * 9 // 10
    product: prng.Float32Array = np.rint((u[:, :kept] * s[:kept]) @ (v[:kept] @ b)).astype(np.float32)
    return product


def _hankel(a: prng.Float32Array, b: prng.Float32Array) -> prng.Float32Array:
    n = len(a)
    words = np.concatenate((a[0], a[-1]))
    hankel = words[np.arange(n)[:, None] + np.arange(n)[None, :]]
    product: prng.Float32Array = hankel @ b
    return product


def _zeros(a: prng.Float32Array, _: prng.Float32Array) -> prng.Float32Array:
    return np.zeros_like(a)


@pytest.mark.parametrize(
    "alter", [_bf16_output, _seven_bit_operands, _half_of_the_inner_index, _low_rank, _hankel, _zeros]
)
def test_a_cheaper_product_fails_at_every_tile(
    alter: Callable[[prng.Float32Array, prng.Float32Array], prng.Float32Array],
) -> None:
    """Lower precision, fewer terms, an approximation, a structured stand-in: each tile tells."""
    work = solve(PARAMS, SEED, AlteringBackend(alter))
    assert all(_is_caught(work, trial, 1) for trial in range(10))


def test_a_proof_for_another_identity_fails() -> None:
    """The same device under a second key has another seed and has to work again."""
    work = solve(PARAMS, bytes(32), NumpyBackend())
    assert all(_is_caught(work, trial, 1) for trial in range(10))


def test_the_last_round_cannot_be_left_out() -> None:
    """A miner that repeats round 0's digests in the last round has a right tree of wrong tiles."""
    work = solve(PARAMS, SEED, NumpyBackend())
    lazy = MatmulWork(PARAMS, (*work.roots[:3], work.roots[0]), (*work.digests[:3], work.digests[0]))
    with pytest.raises(ProofRejected, match="TILE_MISMATCH"):
        matmul.check_openings(PARAMS, SEED, lazy.commitment, [(3, 5, 5)], lazy.open([(3, 5, 5)]))
