"""The operands of a matmul round: integers any block of which can be made from a 32-byte round seed alone.

Rules:
- Each row, column and inner index has its own 32-bit keys, read from SHAKE-256 of the round seed: 256 bits of entropy,
  so that nobody can tabulate seeds, and no element depends on i + j, i - j or a product of few vectors.
- A is 9-bit, [-256, 255], and B is 8-bit, [-128, 127]: both exact in fp16, bf16 and fp32, their products below 2**15.
  For keyed entries a sum over K terms has sigma 10,920 * sqrt(K); 2**24, the end of fp32's exact integers, is 8.5 sigma
  at K = 32768 and 12 sigma at 16384. The product is therefore the same in any order, on any device.
- This numpy code is the reference; the torch code in `torch_backend` equals it bit for bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from challenges.draw import encode_fields

UInt32Array = npt.NDArray[np.uint32]
Float32Array = npt.NDArray[np.float32]

# Odd multipliers with well mixed bits: those of C. Wellons' lowbias32 (github.com/skeeto/hash-prospector).
MULTIPLIER_FIRST = 0x7FEB352D
MULTIPLIER_SECOND = 0x846CA68B
XORSHIFT = 15
A_SHIFT = 23
B_SHIFT = 24

# Elements mixed at a time, 512 KiB of scratch: fewer, and numpy's half a microsecond a call shows; more, and they leave
# the second-level cache.
CHUNK_ELEMENTS = 1 << 16

_KEYS_DOMAIN = b"polarise/matmul/keys/1"
_UFUNC_BUFFER_ELEMENTS_MIN = 16
_FIRST = np.uint32(MULTIPLIER_FIRST)
_SECOND = np.uint32(MULTIPLIER_SECOND)
_XORSHIFT = np.uint32(XORSHIFT)


class Scratch:
    """Two word buffers for the mixes; made once and handed in, because fresh memory costs as much as the mixing.

    Args:
        elements: How many elements are mixed at a time; at least the inner width of every block that will be made.
    """

    def __init__(self, elements: int) -> None:
        self.elements = elements
        self.words = np.empty(elements, dtype=np.uint32)
        self.shifted = np.empty(elements, dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class RoundKeys:
    """The 32-bit keys of one round, each an array [n] of uint32; those of rows and columns of C may end earlier.

    Args:
        a_row: Key of row i of A, mixed in first.
        a_row_salt: Second key of row i of A, mixed in between the multiplications.
        a_inner: Key of column k of A.
        b_inner: Key of row k of B.
        b_column: Key of column j of B, mixed in first.
        b_column_salt: Second key of column j of B.
        digest_row: Key of row i of C in the tile digest.
        digest_column: Key of column j of C in the tile digest.
    """

    a_row: UInt32Array
    a_row_salt: UInt32Array
    a_inner: UInt32Array
    b_inner: UInt32Array
    b_column: UInt32Array
    b_column_salt: UInt32Array
    digest_row: UInt32Array
    digest_column: UInt32Array


def round_keys(round_seed: bytes, n: int, *, rows: int | None = None, columns: int | None = None) -> RoundKeys:
    """Read the keys of one round: eight SHAKE-256 streams of 4n bytes, about 0.9 ms at n = 16384.

    A stream can only be read from its start, so that whoever needs a few tiles saves what comes after the last of them:
    on average three eighths for one tile.

    Args:
        round_seed: 32 bytes.
        n: Side of the matrices; the inner keys are always whole.
        rows: Read the keys of that many rows of C only; None for all.
        columns: The same for its columns.
    """
    row_count, column_count = n if rows is None else rows, n if columns is None else columns
    return RoundKeys(
        a_row=_key_stream(round_seed, "a_row", row_count),
        a_row_salt=_key_stream(round_seed, "a_row_salt", row_count),
        a_inner=_key_stream(round_seed, "a_inner", n),
        b_inner=_key_stream(round_seed, "b_inner", n),
        b_column=_key_stream(round_seed, "b_column", column_count),
        b_column_salt=_key_stream(round_seed, "b_column_salt", column_count),
        digest_row=_key_stream(round_seed, "digest_row", row_count),
        digest_column=_key_stream(round_seed, "digest_column", column_count),
    )


@contextmanager
def fast_broadcasts() -> Iterator[None]:
    """Let numpy read a broadcast key where it lies, for the `fill` calls inside; changes the speed and no result.

    Numpy copies a broadcast operand into a buffer wherever an inner loop is shorter than the buffer, 8192 elements by
    default, which takes three times as long as the operation itself. With the smallest buffer it has no reason to.
    """
    with np.errstate():
        np.setbufsize(_UFUNC_BUFFER_ELEMENTS_MIN)
        yield


def a_rows(keys: RoundKeys, start: int, stop: int) -> Float32Array:
    """Return rows start..stop of A as [stop - start, n] float32 holding integers in [-256, 255]."""
    return _whole_rows(keys.a_row[start:stop], keys.a_row_salt[start:stop], keys.a_inner, A_SHIFT)


def b_columns_transposed(keys: RoundKeys, start: int, stop: int) -> Float32Array:
    """Return columns start..stop of B, transposed, as [stop - start, n] float32 holding integers in [-128, 127]."""
    return _whole_rows(keys.b_column[start:stop], keys.b_column_salt[start:stop], keys.b_inner, B_SHIFT)


def fill_a(keys: RoundKeys, rows: slice, inner: slice, out: Float32Array, scratch: Scratch) -> None:
    """Write the block A[rows, inner] to `out`, a contiguous float32 array of its shape."""
    _fill(keys.a_row[rows], keys.a_row_salt[rows], keys.a_inner[inner], A_SHIFT, out=out, scratch=scratch)


def fill_b_transposed(keys: RoundKeys, columns: slice, inner: slice, out: Float32Array, scratch: Scratch) -> None:
    """Write the block B[inner, columns], transposed, to `out`, a contiguous float32 array of its shape."""
    _fill(keys.b_column[columns], keys.b_column_salt[columns], keys.b_inner[inner], B_SHIFT, out=out, scratch=scratch)


def _key_stream(round_seed: bytes, name: str, n: int) -> UInt32Array:
    data = hashlib.shake_256(encode_fields(_KEYS_DOMAIN, round_seed, name)).digest(4 * n)
    return np.frombuffer(data, dtype="<u4").astype(np.uint32, copy=False)


def _whole_rows(outer: UInt32Array, salt: UInt32Array, inner: UInt32Array, shift: int) -> Float32Array:
    result = np.empty((len(outer), len(inner)), dtype=np.float32)
    with fast_broadcasts():
        _fill(outer, salt, inner, shift, out=result, scratch=Scratch(max(min(CHUNK_ELEMENTS, result.size), len(inner))))
    return result


def _fill(
    outer: UInt32Array, salt: UInt32Array, inner: UInt32Array, shift: int, *, out: Float32Array, scratch: Scratch
) -> None:
    """Mix the keys of as many rows at a time as the scratch space holds."""
    step = max(1, scratch.elements // len(inner))
    for start in range(0, len(outer), step):
        chunk = slice(start, start + step)
        _fill_chunk(outer[chunk, None], salt[chunk, None], inner[None, :], shift, out=out[chunk], scratch=scratch)


def _fill_chunk(
    outer: UInt32Array, salt: UInt32Array, inner: UInt32Array, shift: int, *, out: Float32Array, scratch: Scratch
) -> None:
    """Mix each pair of keys to a 32-bit word and keep its top bits, signed: about 0.4 ns per element on one core.

    Eight passes over words in the cache, 0.04 ns each, the conversion 0.07 ns. Nothing is allocated.
    """
    x = scratch.words[: out.size].reshape(out.shape)
    y = scratch.shifted[: out.size].reshape(out.shape)
    signed = x.view(np.int32)
    np.bitwise_xor(outer, inner, out=x)
    np.multiply(x, _FIRST, out=x)
    np.right_shift(x, _XORSHIFT, out=y)
    np.bitwise_xor(y, salt, out=y)
    np.bitwise_xor(x, y, out=x)
    np.multiply(x, _SECOND, out=x)
    np.right_shift(signed, np.int32(shift), out=signed)
    np.copyto(out, signed)
