"""A tile recomputed in blocks equals the plain product of plainly mixed operands, for any size and place."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from challenges import digest, prng
from challenges.matmul_messages import TILES, MatmulParams, TilePosition
from challenges.tile_recomputer import TileRecomputer

SEED = bytes(range(32))
Int64Array = npt.NDArray[np.int64]


def _mix(outer: prng.UInt32Array, salt: prng.UInt32Array, inner: prng.UInt32Array, bits: int) -> Int64Array:
    """Say the definition once more, in 64-bit words without a trick: [outer, inner] integers of that many bits."""
    mask = (1 << 32) - 1
    x = (outer[:, None].astype(np.int64) ^ inner[None, :]) * 0x7FEB352D & mask
    # The second product has up to 64 bits: its low 32 are the same in wrapping words.
    y = ((x >> 15) ^ x ^ salt[:, None]).astype(np.uint64) * np.uint64(0x846CA68B)
    top = (y.astype(np.int64) & mask) >> (32 - bits)
    return np.where(top >= 1 << (bits - 1), top - (1 << bits), top)


def _plain_tile(round_seed: bytes, params: MatmulParams, position: TilePosition) -> Int64Array:
    keys = prng.round_keys(round_seed, params.n)
    rows = slice(position.tile_row * params.tile, (position.tile_row + 1) * params.tile)
    columns = slice(position.tile_column * params.tile, (position.tile_column + 1) * params.tile)
    a = _mix(keys.a_row[rows], keys.a_row_salt[rows], keys.a_inner, 9)
    b_transposed = _mix(keys.b_column[columns], keys.b_column_salt[columns], keys.b_inner, 8)
    # float64 holds these sums exactly and is multiplied by BLAS; int64 is not.
    return np.rint(a.astype(np.float64) @ b_transposed.T.astype(np.float64)).astype(np.int64)


@st.composite
def _tiles(draw: st.DrawFn) -> tuple[MatmulParams, TilePosition]:
    """Sizes on both sides of the inner block, whole blocks and parts of one."""
    tile = draw(st.sampled_from(TILES))
    side = draw(st.integers(-(-64 // tile), 10_000 // tile))
    params = MatmulParams(side * tile, rounds=1, tile=tile, openings=1)
    return params, TilePosition(0, draw(st.integers(0, side - 1)), draw(st.integers(0, side - 1)))


@settings(max_examples=60, deadline=None)
@given(_tiles(), st.binary(min_size=32, max_size=32))
def test_a_recomputed_tile_is_the_plain_product(place: tuple[MatmulParams, TilePosition], round_seed: bytes) -> None:
    """Keys that end with the tile are enough, and the digest agrees with the one from whole keys."""
    params, position = place
    end = [(index + 1) * params.tile for index in position[1:]]
    keys = prng.round_keys(round_seed, params.n, rows=end[0], columns=end[1])
    product = TileRecomputer(params).product(keys, position)
    plain = _plain_tile(round_seed, params, position)
    assert np.array_equal(product.astype(np.int64), plain)
    corner = end[0] - params.tile, end[1] - params.tile
    whole = prng.round_keys(round_seed, params.n)
    assert digest.tile_digest_bytes(product, keys, *corner) == digest.tile_digest_bytes(
        plain.astype(np.float32), whole, *corner
    )


def test_buffers_carry_nothing_from_one_tile_to_the_next() -> None:
    params = MatmulParams(4160, rounds=1, tile=64, openings=1)
    keys, recomputer = prng.round_keys(SEED, params.n), TileRecomputer(params)
    first = recomputer.product(keys, TilePosition(0, 0, 1))
    kept = first.copy()
    recomputer.product(keys, TilePosition(0, 64, 64))
    assert np.array_equal(first, kept)
    assert np.array_equal(recomputer.product(keys, TilePosition(0, 0, 1)), kept)


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (64, 192), (192, 64)])
def test_shorter_keys_are_the_beginning_of_the_whole_ones(rows: int, columns: int) -> None:
    whole, short = prng.round_keys(SEED, 192), prng.round_keys(SEED, 192, rows=rows, columns=columns)
    ends = {"a_inner": 192, "b_inner": 192, "b_column": columns, "b_column_salt": columns, "digest_column": columns}
    for name in prng.RoundKeys.__slots__:
        assert np.array_equal(getattr(short, name), getattr(whole, name)[: ends.get(name, rows)]), name


def test_fast_broadcasts_leave_numpy_as_it_was() -> None:
    before = np.getbufsize()
    with prng.fast_broadcasts():
        assert np.getbufsize() != before
    assert np.getbufsize() == before
