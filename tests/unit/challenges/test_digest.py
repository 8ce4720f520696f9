"""The tile digest: as defined, free of order, bound to position and value, and not linear."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from challenges import digest, prng

SEED = bytes(range(32))
TILE = 16


def _keys(n: int = TILE) -> prng.RoundKeys:
    return prng.round_keys(SEED, n)


def _product(shape: tuple[int, int], seed: int = 1) -> prng.Float32Array:
    return np.random.default_rng(seed).integers(-(1 << 23), 1 << 23, shape).astype(np.float32)


def _digest(product: prng.Float32Array) -> bytes:
    return digest.tile_digest_bytes(product, _keys(), 0, 0)


def test_digest_equals_its_definition() -> None:
    """Say it once more in Python's own integers."""
    keys, product = _keys(), _product((TILE, TILE))
    first = second = 0
    for i in range(TILE):
        for j in range(TILE):
            x = (int(product[i, j]) + int(keys.digest_row[i])) * 0x846CA68B % 2**32
            x = ((x >> 15) ^ x ^ int(keys.digest_column[j])) * 0x7FEB352D % 2**32
            x ^= x >> 13
            first += x
            x = x * 0x9E3779B1 % 2**32
            second += x ^ (x >> 16)
    expected = (first % 2**32).to_bytes(4, "little") + (second % 2**32).to_bytes(4, "little")
    assert _digest(product) == expected


def test_blocks_of_tiles_equal_single_tiles() -> None:
    keys, product = _keys(64), _product((64, 48))
    whole = digest.tile_digests(product, keys.digest_row, keys.digest_column[:48], TILE)
    assert whole.shape == (4, 3, 2)
    for row in range(4):
        for column in range(3):
            part = product[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
            one = digest.tile_digest_bytes(part, keys, row * TILE, column * TILE)
            assert whole[row, column].astype("<u4").tobytes() == one


@settings(max_examples=40, deadline=None)
@given(st.integers(0, TILE - 1), st.integers(0, TILE - 1), st.integers(0, 22))
def test_one_bit_of_one_element_changes_both_lanes(row: int, column: int, bit: int) -> None:
    product = _product((TILE, TILE)).astype(np.int32)
    changed = product.copy()
    changed[row, column] ^= 1 << bit
    before, after = _digest(product.astype(np.float32)), _digest(changed.astype(np.float32))
    assert before[:4] != after[:4]
    assert before[4:] != after[4:]


def test_swapped_elements_and_tiles_change_the_digest() -> None:
    product = _product((TILE, TILE))
    swapped = product[:, ::-1].copy()
    assert _digest(swapped) != _digest(product)
    assert _digest(product.T.copy()) != _digest(product)
    keys = _keys(2 * TILE)
    assert digest.tile_digest_bytes(product, keys, 0, TILE) != digest.tile_digest_bytes(product, keys, 0, 0)


def test_another_round_gives_another_digest() -> None:
    product = _product((TILE, TILE))
    other = prng.round_keys(bytes(32), TILE)
    assert digest.tile_digest_bytes(product, other, 0, 0) != _digest(product)


@pytest.mark.parametrize("bits", [32, 8, 1])
def test_digest_is_not_linear_in_any_low_bits(bits: int) -> None:
    """For an affine digest d(x + y) - d(x) - d(y) + d(0) would be 0; even its low bits behave like coin tosses.

    wᵀCv is linear and known in O(n²) as wᵀA(Bv), so that a linear digest would prove no multiplication.
    """
    keys, zero = _keys(), np.zeros((TILE, TILE), dtype=np.float32)

    def lanes(product: prng.Float32Array) -> prng.UInt32Array:
        result: prng.UInt32Array = digest.tile_digests(product, keys.digest_row, keys.digest_column, TILE)[0, 0]
        return result

    trials, hits = 64, 0
    for trial in range(trials):
        x, y = _product((TILE, TILE), 2 * trial) // 2, _product((TILE, TILE), 2 * trial + 1) // 2
        defect = lanes(x + y) - lanes(x) - lanes(y) + lanes(zero)
        hits += int(np.count_nonzero(defect % np.uint32(1 << bits if bits < 32 else 1 << 31) == 0))
    # 128 lanes, each 0 by chance with probability 2**-bits: at one bit 64 +- 4 sigma.
    assert hits <= 64 + 4 * 32**0.5 if bits == 1 else hits <= 4
