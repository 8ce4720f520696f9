"""The matmul proof's mixes as Triton kernels: operands from keys, and the digest of every tile of the product.

Rules:
- Bit for bit what `prng` and `digest` compute; words are unsigned and wrap around, shifts are logical.
- Each element is read or written once: the operands are born in registers, and the product is read by its digest alone.
  Eager torch makes about ten passes over memory for either.
- Sketch at n = 16384: an operand writes 0.5 GB in bf16, a digest reads 1.1 GB; at 4 TB/s 0.13 and 0.27 ms, beside some
  10 integer operations per element, which take less.

This module imports Triton, so that only the CUDA path, tests and benchmarks import it. On a machine without a GPU
TRITON_INTERPRET=1, set before the import, runs the kernels on the CPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

from challenges import digest, prng

BLOCK_ROWS = 32
BLOCK_COLUMNS = 128
WARPS = 4
TILE_WARPS_MAX = 8
ELEMENTS_PER_WARP = 512

_MIX_FIRST = tl.constexpr(prng.MULTIPLIER_FIRST)
_MIX_SECOND = tl.constexpr(prng.MULTIPLIER_SECOND)
_MIX_SHIFT = tl.constexpr(prng.XORSHIFT)
_DIGEST_FIRST = tl.constexpr(digest.MULTIPLIER_FIRST)
_DIGEST_SECOND = tl.constexpr(digest.MULTIPLIER_SECOND)
_DIGEST_LANE = tl.constexpr(digest.MULTIPLIER_LANE)
_SHIFT_FIRST = tl.constexpr(digest.XORSHIFT_FIRST)
_SHIFT_SECOND = tl.constexpr(digest.XORSHIFT_SECOND)
_SHIFT_LANE = tl.constexpr(digest.XORSHIFT_LANE)
_LANES = tl.constexpr(digest.LANES)


def operand_grid(n: int) -> tuple[int, int]:
    """Return how many programs of `fill_operand` cover [n, n]."""
    return triton.cdiv(n, BLOCK_ROWS), triton.cdiv(n, BLOCK_COLUMNS)


def tile_warps(tile: int) -> int:
    """Return how many warps share a tile: 1 at a side of 16, 8 from 64 on; more would only hold registers."""
    return max(1, min(TILE_WARPS_MAX, tile * tile // ELEMENTS_PER_WARP))


@triton.jit
def fill_operand(
    out, row_keys, column_keys, salts, n,
    shift: tl.constexpr, salt_on_rows: tl.constexpr, rows_each: tl.constexpr, columns_each: tl.constexpr,
):  # fmt: skip
    """Write one block of an operand.

    Args:
        out: Pointer to [n, n] bf16, fp16 or fp32, all of which hold the integers exactly.
        row_keys: Pointer to n int32, the key of each row.
        column_keys: Pointer to n int32, the key of each column.
        salts: Pointer to n int32, the second key of each row or column.
        n: Side of the matrix, at most 32768, so that an element's index is below 2**31. It is a multiple of 16, which
            Triton sees and makes wide accesses of.
        shift: `prng.A_SHIFT` or `prng.B_SHIFT`.
        salt_on_rows: Whether rows have the salt, as those of A have, or columns, as those of B.
        rows_each: Height of a program's block.
        columns_each: Width of it.
    """
    rows = tl.program_id(0) * rows_each + tl.arange(0, rows_each)
    columns = tl.program_id(1) * columns_each + tl.arange(0, columns_each)
    row_words = _load_words(row_keys, rows, n)
    column_words = _load_words(column_keys, columns, n)
    x = row_words[:, None] ^ column_words[None, :]
    x = x * _MIX_FIRST
    if salt_on_rows:
        x = x ^ (x >> _MIX_SHIFT) ^ _load_words(salts, rows, n)[:, None]
    else:
        x = x ^ (x >> _MIX_SHIFT) ^ _load_words(salts, columns, n)[None, :]
    x = x * _MIX_SECOND
    # By way of fp32, as the hardware does it; the interpreter knows no other way to bf16.
    values = (x.to(tl.int32, bitcast=True) >> shift).to(tl.float32).to(out.dtype.element_ty)
    places = out + rows[:, None] * n + columns[None, :]
    tl.store(places, values, mask=(rows[:, None] < n) & (columns[None, :] < n))


@triton.jit
def digest_tiles(product, row_keys, column_keys, lanes, n, tile: tl.constexpr):
    """Write the two lanes of one tile; a program per tile.

    Args:
        product: Pointer to [n, n] fp32 holding exact integers.
        row_keys: Pointer to n int32.
        column_keys: Pointer to n int32.
        lanes: Pointer to [n / tile, n / tile, 2] int32.
        n: Side of the product, a multiple of tile, at most 32768.
        tile: Side of a tile, a power of two.
    """
    rows = tl.program_id(0) * tile + tl.arange(0, tile)
    columns = tl.program_id(1) * tile + tl.arange(0, tile)
    row_words = tl.load(row_keys + rows).to(tl.uint32, bitcast=True)
    column_words = tl.load(column_keys + columns).to(tl.uint32, bitcast=True)
    values = tl.load(product + rows[:, None] * n + columns[None, :])
    x = values.to(tl.int32).to(tl.uint32, bitcast=True) + row_words[:, None]
    x = x * _DIGEST_FIRST
    x = x ^ (x >> _SHIFT_FIRST) ^ column_words[None, :]
    x = x * _DIGEST_SECOND
    x = x ^ (x >> _SHIFT_SECOND)
    place = lanes + (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * _LANES + tl.zeros([1, 1], tl.int32)
    tl.store(place, _sum(x))
    x = x * _DIGEST_LANE
    x = x ^ (x >> _SHIFT_LANE)
    tl.store(place + 1, _sum(x))


@triton.jit
def _load_words(keys, places, n):
    """Load unsigned words, 0 beyond the end."""
    return tl.load(keys + places, mask=places < n, other=0).to(tl.uint32, bitcast=True)


@triton.jit
def _sum(x):
    """Sum all words modulo 2**32, as [1, 1]: where the interpreter would make a scalar, it minds the overflow."""
    rows = tl.sum(x.to(tl.int32, bitcast=True), axis=1, keep_dims=True)
    return tl.sum(rows, axis=0, keep_dims=True)
