"""The 64-bit digest of one tile of the exact product, which commits a miner to numbers it can only get by multiplying.

Rules:
- Nonlinear. A linear digest, sum of w[i]·C[i,j]·v[j], is wᵀA(Bv): known in O(n²) without C, which is how Freivalds'
  check and row sums fail as proofs of work. Here each value goes through xor-shifts between multiplications, which no
  ring of 2**k and no linear map passes through, so that each element of C has to be known exactly.
- Keyed by position and round, so that tiles cannot be swapped, copied between rounds, or computed as a multiset.
- A wrapping sum over the elements of the tile: free of order, so that GPU threads may add in any order. The sum is no
  collision-resistant hash and needs none: finding another tile of equal digest does not help one who has to know the
  right digest first. A guess passes with 2**-64 per tile.
- Two 32-bit lanes, the second a further nonlinear mix of the first; 17 simple integer operations per element.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from challenges.prng import Float32Array, RoundKeys, UInt32Array

DIGEST_BYTES = 8
LANES = 2

# lowbias32's multipliers in another order, and the golden ratio's odd word for the second lane.
MULTIPLIER_FIRST = 0x846CA68B
MULTIPLIER_SECOND = 0x7FEB352D
MULTIPLIER_LANE = 0x9E3779B1
XORSHIFT_FIRST = 15
XORSHIFT_SECOND = 13
XORSHIFT_LANE = 16

_FIRST = np.uint32(MULTIPLIER_FIRST)
_SECOND = np.uint32(MULTIPLIER_SECOND)
_LANE = np.uint32(MULTIPLIER_LANE)
_XORSHIFT_FIRST = np.uint32(XORSHIFT_FIRST)
_XORSHIFT_SECOND = np.uint32(XORSHIFT_SECOND)
_XORSHIFT_LANE = np.uint32(XORSHIFT_LANE)


def tile_digests(
    product: Float32Array, row_keys: UInt32Array, column_keys: UInt32Array, tile: int
) -> npt.NDArray[np.uint32]:
    """Digest a block of whole tiles.

    Args:
        product: [rows, columns] float32 holding exact integers, |c| < 2**24; both multiples of `tile`.
        row_keys: `RoundKeys.digest_row` of these rows, [rows].
        column_keys: `RoundKeys.digest_column` of these columns, [columns].
        tile: Side of a tile.

    Returns:
        [rows / tile, columns / tile, 2] uint32, lane 0 and lane 1.
    """
    rows, columns = product.shape
    result = np.empty((rows // tile, columns // tile, LANES), dtype=np.uint32)
    for index in range(rows // tile):
        band = slice(index * tile, (index + 1) * tile)
        result[index] = _band_digests(product[band], row_keys[band], column_keys, tile)
    return result


def tile_digest_bytes(product: Float32Array, keys: RoundKeys, row: int, column: int) -> bytes:
    """Return the 8 bytes (both lanes, little-endian) of one square tile whose corner is element (row, column) of C."""
    tile = len(product)
    lanes = tile_digests(product, keys.digest_row[row : row + tile], keys.digest_column[column : column + tile], tile)
    return lanes.astype("<u4").tobytes()


def _band_digests(
    product: Float32Array, row_keys: UInt32Array, column_keys: UInt32Array, tile: int
) -> npt.NDArray[np.uint32]:
    x = product.astype(np.int32).view(np.uint32)
    shifted = np.empty_like(x)
    x += row_keys[:, None]
    x *= _FIRST
    x ^= np.right_shift(x, _XORSHIFT_FIRST, out=shifted)
    x ^= column_keys[None, :]
    x *= _SECOND
    x ^= np.right_shift(x, _XORSHIFT_SECOND, out=shifted)
    first = _tile_sums(x, tile)
    x *= _LANE
    x ^= np.right_shift(x, _XORSHIFT_LANE, out=shifted)
    return np.stack((first, _tile_sums(x, tile)), axis=-1)


def _tile_sums(band: UInt32Array, tile: int) -> UInt32Array:
    """Sum [tile, columns] words per tile modulo 2**32."""
    columns = np.add.reduce(band, axis=0, dtype=np.uint32)
    sums: UInt32Array = np.add.reduce(columns.reshape(-1, tile), axis=1, dtype=np.uint32)
    return sums
