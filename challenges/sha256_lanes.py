"""SHA-256 of one 52-byte message under many nonces at once, in numpy: the arithmetic of the proof of work on a CPU.

Rules:
- A message is 44 fixed bytes and an 8-byte nonce, which with its padding is one block of 16 words: 0-10 are the prefix,
  11 and 12 the nonce. A lane is one nonce; all lanes share word 11, so that only word 12 differs between them.
- A word is a Python int while it is equal in all lanes, and an array after. Rounds 0-11 and most of the early schedule
  are therefore done once per call and not once per lane.
- Only the last word of the digest is made, which alone decides about nearly every nonce: it is E after round 60, so that
  rounds 61-63 fall away and A is not needed after round 56. 49 of 64 rounds are left, 2,268 numpy operations.
- Equal to hashlib bit for bit (FIPS 180-4); whoever finds a share confirms it with hashlib all the same.

Sketch: 2,268 operations on 32-bit words in L2 cache, 0.06 ns per lane and operation on one Zen 5 core, are 7 MHash/s; a
loop over hashlib makes 3 there, compiled code for the same core 132. numpy's cost per call is a third at 8,192 lanes.
"""

from __future__ import annotations

import struct

import numpy as np

from challenges.prng import UInt32Array

Word = int | UInt32Array

PREFIX_BYTES = 44
LAST_ROUND = 60
LAST_ROUND_OF_A = 56

INITIAL_STATE = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
)  # fmt: skip
ROUND_CONSTANTS = (
    0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5, 0x3956C25B, 0x59F111F1, 0x923F82A4, 0xAB1C5ED5,
    0xD807AA98, 0x12835B01, 0x243185BE, 0x550C7DC3, 0x72BE5D74, 0x80DEB1FE, 0x9BDC06A7, 0xC19BF174,
    0xE49B69C1, 0xEFBE4786, 0x0FC19DC6, 0x240CA1CC, 0x2DE92C6F, 0x4A7484AA, 0x5CB0A9DC, 0x76F988DA,
    0x983E5152, 0xA831C66D, 0xB00327C8, 0xBF597FC7, 0xC6E00BF3, 0xD5A79147, 0x06CA6351, 0x14292967,
    0x27B70A85, 0x2E1B2138, 0x4D2C6DFC, 0x53380D13, 0x650A7354, 0x766A0ABB, 0x81C2C92E, 0x92722C85,
    0xA2BFE8A1, 0xA81A664B, 0xC24B8B70, 0xC76C51A3, 0xD192E819, 0xD6990624, 0xF40E3585, 0x106AA070,
    0x19A4C116, 0x1E376C08, 0x2748774C, 0x34B0BCB5, 0x391C0CB3, 0x4ED8AA4A, 0x5B9CCA4F, 0x682E6FF3,
    0x748F82EE, 0x78A5636F, 0x84C87814, 0x8CC70208, 0x90BEFFFA, 0xA4506CEB, 0xBEF9A3F7, 0xC67178F2,
)  # fmt: skip

_WORD_END = 1 << 32
_PADDING = (1 << 31, 0, (PREFIX_BYTES + 8) * 8)


class Sha256Lanes:
    """Scratch space for a fixed number of lanes, 120 bytes each; not for use by two threads at once.

    Args:
        lanes: How many nonces one call hashes, >= 1.
    """

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self._index = np.arange(lanes, dtype=np.uint32)
        # Rings: a value is overwritten by the one that takes its place, as in the definition's shift of registers.
        self._schedule = _buffers(16, lanes)
        self._a = _buffers(4, lanes)
        self._e = _buffers(4, lanes)
        self._differences = _buffers(2, lanes)
        self._total, self._scratch, self._left = _buffers(3, lanes)
        # numpy takes a 0-d array four times faster than an int (0.2 us against 0.7 us a call).
        self._bits = tuple(np.array(bits, dtype=np.uint32) for bits in range(32))

    def last_words(self, prefix: bytes, start: int) -> UInt32Array:
        """Return digest[28:32] of each message prefix || nonce as a number.

        Args:
            prefix: 44 bytes.
            start: First nonce; lane i has nonce start + i, and all of them share their upper 32 bits.

        Returns:
            [lanes] uint32, valid until the next call.

        Raises:
            ValueError: The prefix is of another length, or the lanes would cross a multiple of 2**32.
        """
        high, low = divmod(start, _WORD_END)
        if len(prefix) != PREFIX_BYTES or not 0 <= low <= _WORD_END - self.lanes:
            raise ValueError(f"prefix of {len(prefix)} bytes, nonces {start}..{start + self.lanes - 1}")
        words: list[Word] = [*struct.unpack(">11I", prefix), high]
        words.append(np.add(self._index, np.array(low, dtype=np.uint32), out=self._schedule[12]))
        words.extend(_PADDING)
        # The last four values are a, b, c, d of the definition, newest last; and e, f, g, h.
        a: list[Word] = list(INITIAL_STATE[3::-1])
        e: list[Word] = list(INITIAL_STATE[:3:-1])
        difference: Word = INITIAL_STATE[1] ^ INITIAL_STATE[2]
        for index in range(LAST_ROUND + 1):
            if index >= 16:
                words.append(self._expand(words, index))
            big_sigma = self._rotations(e[-1], 6, 11, 25)
            total = self._add(self._total, e[-4], words[index], ROUND_CONSTANTS[index], big_sigma)
            total = self._add(self._total, total, self._choose(e))
            e.append(self._add(self._e[index % 4], a[-4], total))
            if index <= LAST_ROUND_OF_A:
                total = self._add(self._total, total, self._rotations(a[-1], 2, 13, 22))
                majority, difference = self._majority(a, difference, self._differences[index % 2])
                a.append(self._add(self._a[index % 4], total, majority))
            else:
                # Only d of the definition is read from here on.
                a.append(0)
        last = self._add(self._scratch, e[-1], INITIAL_STATE[7])
        assert not isinstance(last, int)  # noqa: S101  word 12 is an array and reaches every later round
        return last

    def _expand(self, words: list[Word], index: int) -> Word:
        """Return word `index` of the schedule, in the place of word `index` - 16, which nothing reads again."""
        out = self._schedule[index % 16]
        total = self._add(out, words[index - 16], words[index - 7], self._shifts(words[index - 15], 7, 18, 3))
        return self._add(out, total, self._shifts(words[index - 2], 17, 19, 10))

    def _choose(self, e: list[Word]) -> Word:
        """Return ch(e, f, g) as ((f ^ g) & e) ^ g."""
        chosen = _xor(self._scratch, e[-2], e[-3])
        return _xor(self._scratch, _and(self._scratch, chosen, e[-1]), e[-3])

    def _majority(self, a: list[Word], difference_before: Word, out: UInt32Array) -> tuple[Word, Word]:
        """Return maj(a, b, c) as ((a ^ b) & (b ^ c)) ^ b, and a ^ b, which is the next round's b ^ c."""
        difference = _xor(out, a[-1], a[-2])
        majority = _and(self._scratch, difference, difference_before)
        return _xor(self._scratch, majority, a[-2]), difference

    def _rotations(self, word: Word, first: int, second: int, third: int) -> Word:
        """Return the exclusive or of three rotations to the right, first < second < third."""
        if isinstance(word, int):
            return _rotate(word, first) ^ _rotate(word, second) ^ _rotate(word, third)
        right = self._shift(self._scratch, word, np.right_shift, (third - second, second - first, first))
        left = self._shift(self._left, word, np.left_shift, (second - first, third - second, 32 - third))
        return np.bitwise_xor(right, left, out=right)

    def _shifts(self, word: Word, first: int, second: int, shift: int) -> Word:
        """Return the exclusive or of two rotations and a shift to the right, shift < first < second."""
        if isinstance(word, int):
            return _rotate(word, first) ^ _rotate(word, second) ^ word >> shift
        right = self._shift(self._scratch, word, np.right_shift, (second - first, first - shift, shift))
        left = self._shift(self._left, word, np.left_shift, (second - first, 32 - second))
        return np.bitwise_xor(right, left, out=right)

    def _shift(self, out: UInt32Array, word: UInt32Array, shift: np.ufunc, steps: tuple[int, ...]) -> UInt32Array:
        """Write the exclusive or of several shifts of one word in place, by the steps between them.

        ((x >> 14 ^ x) >> 5 ^ x) >> 6 is x >> 25 ^ x >> 11 ^ x >> 6, without a second buffer that would leave the cache.
        """
        shift(word, self._bits[steps[0]], out=out)
        for step in steps[1:]:
            np.bitwise_xor(out, word, out=out)
            shift(out, self._bits[step], out=out)
        return out

    def _add(self, out: UInt32Array, *words: Word) -> Word:
        """Add modulo 2**32; an array goes to `out`, which may be the first array among the words and no later one."""
        constant = 0
        arrays: list[UInt32Array] = []
        for word in words:
            if isinstance(word, int):
                constant += word
            else:
                arrays.append(word)
        constant %= _WORD_END
        if not arrays:
            return constant
        if constant or len(arrays) == 1:
            arrays.append(np.array(constant, dtype=np.uint32))
        total = arrays[0]
        for array in arrays[1:]:
            total = np.add(total, array, out=out)
        return total


def _xor(out: UInt32Array, left: Word, right: Word) -> Word:
    if isinstance(left, int) and isinstance(right, int):
        return left ^ right
    return np.bitwise_xor(left, right, out=out)


def _and(out: UInt32Array, left: Word, right: Word) -> Word:
    if isinstance(left, int) and isinstance(right, int):
        return left & right
    return np.bitwise_and(left, right, out=out)


def _rotate(word: int, bits: int) -> int:
    return (word >> bits | word << (32 - bits)) % _WORD_END


def _buffers(count: int, lanes: int) -> list[UInt32Array]:
    return [np.empty(lanes, dtype=np.uint32) for _ in range(count)]
