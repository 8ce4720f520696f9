"""The share search of the proof of work as one Triton kernel: the same hash as `sha256_lanes`, two nonces a thread.

Rules:
- A program scans NONCES_PER_STEP nonces at a time, `steps` times; a thread has two of them, so that one's instructions
  fill the other's waits.
- What all nonces of a launch share is done before: the host sends the state after round 11 and the words that no nonce
  touches (`shared_words`). Only H7 is made, 49 of 64 rounds, and only compared: whoever reads a candidate makes the rest
  of its hash with hashlib.
- A word is a scalar while it is equal in all lanes; the compiler keeps scalar arithmetic out of the loop.
- Candidates go to a buffer of fixed length through a counter, which goes on counting where the buffer is full, so that
  an overflow is seen. Their order is that of the threads.

This module imports Triton, so that only `cuda_pow`, tests and benchmarks import it. On a machine without a GPU
TRITON_INTERPRET=1, set before the import, runs the kernel on the CPU.
"""

from __future__ import annotations

import struct

import triton
import triton.language as tl

from challenges.sha256_lanes import INITIAL_STATE, PREFIX_BYTES, ROUND_CONSTANTS

NONCES_PER_STEP = 256
WARPS = 4
# An argument is an int32 whatever its value: as specialised ones, 1 and multiples of 16 would each compile anew.
SHARED_WORDS = 20

_WORD_END = 1 << 32

_ROUND_CONSTANTS = tl.constexpr(ROUND_CONSTANTS)
_H7 = tl.constexpr(INITIAL_STATE[7])
_LENGTH_BITS = tl.constexpr((PREFIX_BYTES + 8) * 8)
_PADDING = tl.constexpr(1 << 31)
_LAST_ROUND = tl.constexpr(60)
_STEP = tl.constexpr(NONCES_PER_STEP)


def shared_words(prefix: bytes, high: int) -> tuple[int, ...]:
    """Return what all nonces of one launch share, as int32: the state after round 11, then words 0 to 11.

    Args:
        prefix: 44 bytes.
        high: Upper 32 bits of the nonces.
    """
    words = (*struct.unpack(">11I", prefix), high)
    state: tuple[int, ...] = INITIAL_STATE
    for index, word in enumerate(words):
        state = _round(state, (word + ROUND_CONSTANTS[index]) % _WORD_END)
    return tuple(signed(word) for word in (*state, *words))


def signed(word: int) -> int:
    """Read an unsigned 32-bit number as the int32 that a kernel's argument is."""
    return word - _WORD_END if word >= 1 << 31 else word


@triton.jit(do_not_specialize=[*range(SHARED_WORDS), "low", "last_word_max", "capacity"])
def search_shares(
    a, b, c, d, e, f, g, h, w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11,
    low, last_word_max, count, candidates, capacity, steps: tl.constexpr,
):  # fmt: skip
    """Write the low words of all nonces whose last digest word is small enough.

    Args:
        a: With b to h the state after round 11, w0 to w11 the words of the block, as `shared_words` gives them.
        low: Lower 32 bits of the launch's first nonce, as int32.
        last_word_max: Largest last word of a candidate, as int32.
        count: Pointer to one int32, 0 before; how many candidates there were.
        candidates: Pointer to `capacity` int32; the first of them are filled, in any order.
        capacity: Length of that buffer.
        steps: How often a program scans NONCES_PER_STEP nonces.
    """
    nonces = tl.arange(0, _STEP).to(tl.uint32) + as_word(low) + tl.program_id(0).to(tl.uint32) * (steps * _STEP)
    limit = as_word(last_word_max)
    for _ in range(steps):
        last = _last_word(
            as_word(a), as_word(b), as_word(c), as_word(d), as_word(e), as_word(f), as_word(g), as_word(h),
            as_word(w0), as_word(w1), as_word(w2), as_word(w3), as_word(w4), as_word(w5),
            as_word(w6), as_word(w7), as_word(w8), as_word(w9), as_word(w10), as_word(w11), nonces,
        )  # fmt: skip
        is_candidate = last <= limit
        places = tl.atomic_add(count + tl.zeros([_STEP], tl.int32), 1, mask=is_candidate, sem="relaxed")
        tl.store(candidates + places, nonces.to(tl.int32, bitcast=True), mask=is_candidate & (places < capacity))
        nonces += _STEP


@triton.jit
def _last_word(a, b, c, d, e, f, g, h, w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12):
    """Return digest[28:32] of each lane; the sixteen words move down by one place per round."""
    w13 = as_word(0) + _PADDING
    w14 = as_word(0)
    w15 = as_word(0) + _LENGTH_BITS
    # Word 12 is the first place from here on: rounds 12 to 15 take it and what follows.
    w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15 = (
        w12, w13, w14, w15, w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11,
    )  # fmt: skip
    for index in tl.static_range(12, _LAST_ROUND + 1):
        if index >= 16:
            w0 = w0 + w9 + shifts(w1, 7, 18, 3) + shifts(w14, 17, 19, 10)
        first = h + rotations(e, 6, 11, 25) + (((f ^ g) & e) ^ g) + (w0 + _ROUND_CONSTANTS[index])
        second = rotations(a, 2, 13, 22) + ((a & b) ^ (a & c) ^ (b & c))
        h, g, f, e = g, f, e, d + first
        d, c, b, a = c, b, a, first + second
        w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15 = (
            w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15, w0,
        )  # fmt: skip
    return e + _H7


@triton.jit
def as_word(value):
    """Read an int32 scalar, or a literal, as the unsigned word it stands for."""
    return tl.cast(value, tl.int32).to(tl.uint32, bitcast=True)


@triton.jit
def rotations(x, first: tl.constexpr, second: tl.constexpr, third: tl.constexpr):
    """Return SHA-256's sum of three rotations."""
    return _rotate(x, first) ^ _rotate(x, second) ^ _rotate(x, third)


@triton.jit
def shifts(x, first: tl.constexpr, second: tl.constexpr, shift: tl.constexpr):
    """Return SHA-256's sum of two rotations and a shift."""
    return _rotate(x, first) ^ _rotate(x, second) ^ (x >> shift)


@triton.jit
def _rotate(x, bits: tl.constexpr):
    return (x >> bits) | (x << (32 - bits))


def _round(state: tuple[int, ...], word: int) -> tuple[int, ...]:
    """Return the state after one round; `word` has the round's constant in it."""
    a, b, c, d, e, f, g, h = state
    first = h + _host_rotations(e, 6, 11, 25) + (((f ^ g) & e) ^ g) + word
    second = _host_rotations(a, 2, 13, 22) + ((a & b) ^ (a & c) ^ (b & c))
    return ((first + second) % _WORD_END, a, b, c, (d + first) % _WORD_END, e, f, g)


def _host_rotations(word: int, *amounts: int) -> int:
    result = 0
    for bits in amounts:
        result ^= (word >> bits | word << (32 - bits)) % _WORD_END
    return result
