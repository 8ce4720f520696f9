"""The 64-bit digest of one block of memory under the key of one pass, which only the whole block can give.

Definition: a block is [128, 128] words of 32 bits. A pass key is read as 128 row keys r and 128 column keys c. For each
word, modulo 2**32: x = w·M1 + r[i]; x ^= x >> 15; x ^= c[j]; x = x·M2; x ^= x >> 13. Lane 0 is the sum of all x, lane 1
that of y ^ y >> 16 with y = x·M3.

Rules:
- No summary of a block gives its digest under a key that is not known yet. Changing one row key and one column key and
  nothing else, in all four ways, and adding the four digests with alternating signs leaves what one word alone adds; over
  some keys that tells the word. Whoever can answer for unknown keys can therefore compute the block, whose words are
  outputs of SHA-256 and do not compress.
- That rests on each place having a pair of keys of its own. With one key for all words, (w ^ k)·m, the digest follows
  from how often each of 32 bits is set: 60 bytes a block. With a mix that ignores the place the order of the words need
  not be kept, which is two fifths of their bits. Both are shown in `tests/adversaries/test_memory.py`.
- Nonlinear: each word passes an xor-shift and an xor between multiplications, which are linear in no one ring.
- The sums are free of order within the block: a GPU's threads add as they come. Position is in the keys.

Sketch: 7 operations on a GPU's integer lanes and 3 multiplications a word (w·M1 + r is one); at 0.9 of its bandwidth a
B200 has 10.7 such operations a word and an H200 15.5, so that memory decides. In numpy 13 passes over words in the cache.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from challenges.draw import encode_fields
from challenges.prng import UInt32Array

ROWS = 128
COLUMNS = 128
BLOCK_WORDS = ROWS * COLUMNS
DIGEST_BYTES = 8
LANES = 2

# Odd multipliers with well mixed bits, those of `challenges.digest`, and shifts as there.
MULTIPLIER_FIRST = 0x846CA68B
MULTIPLIER_SECOND = 0x7FEB352D
MULTIPLIER_LANE = 0x9E3779B1
XORSHIFT_FIRST = 15
XORSHIFT_SECOND = 13
XORSHIFT_LANE = 16

_KEYS_DOMAIN = b"polarise/memory/keys/1"
_FIRST = np.uint32(MULTIPLIER_FIRST)
_SECOND = np.uint32(MULTIPLIER_SECOND)
_LANE = np.uint32(MULTIPLIER_LANE)
_XORSHIFT_FIRST = np.uint32(XORSHIFT_FIRST)
_XORSHIFT_SECOND = np.uint32(XORSHIFT_SECOND)
_XORSHIFT_LANE = np.uint32(XORSHIFT_LANE)


@dataclass(frozen=True, slots=True)
class PassKeys:
    """What the key of one pass is to each word of a block.

    Args:
        rows: [16384] uint32, the row key of each word, in the order of the words.
        columns: [16384] uint32, its column key.
    """

    rows: UInt32Array
    columns: UInt32Array

    @classmethod
    def of(cls, pass_key: bytes) -> PassKeys:
        """Lay a pass key, 32 bytes, out once: numpy takes longer to broadcast 128 words than to read 128 KiB."""
        words = key_words(pass_key)
        return cls(np.repeat(words[:ROWS], COLUMNS), np.tile(words[ROWS:], ROWS))


def key_words(pass_key: bytes) -> UInt32Array:
    """Read a pass key, 32 bytes, as [256] uint32: SHAKE-256, 1 KiB, 128 row keys before 128 column keys."""
    data = hashlib.shake_256(encode_fields(_KEYS_DOMAIN, pass_key)).digest(4 * (ROWS + COLUMNS))
    return np.frombuffer(data, dtype="<u4").astype(np.uint32, copy=False)


class BlockDigester:
    """Scratch space for one block, 128 KiB, which stays in the cache; not for use by two threads at once."""

    def __init__(self) -> None:
        self._x = np.empty(BLOCK_WORDS, dtype=np.uint32)
        self._shifted = np.empty(BLOCK_WORDS, dtype=np.uint32)

    def digests(self, blocks: UInt32Array, keys: PassKeys) -> UInt32Array:
        """Digest blocks one by one, 23 us each on one Zen 5 core.

        Args:
            blocks: [count, 16384] uint32, each row by row.
            keys: Of the pass.

        Returns:
            [count, 2] uint32, lane 0 and lane 1.
        """
        lanes = np.empty((len(blocks), LANES), dtype=np.uint32)
        for index, block in enumerate(blocks):
            lanes[index] = self._digest(block, keys)
        return lanes

    def _digest(self, block: UInt32Array, keys: PassKeys) -> tuple[np.uint32, np.uint32]:
        x, shifted = self._x, self._shifted
        np.multiply(block, _FIRST, out=x)
        np.add(x, keys.rows, out=x)
        np.right_shift(x, _XORSHIFT_FIRST, out=shifted)
        np.bitwise_xor(shifted, keys.columns, out=shifted)
        np.bitwise_xor(x, shifted, out=x)
        np.multiply(x, _SECOND, out=x)
        np.bitwise_xor(x, np.right_shift(x, _XORSHIFT_SECOND, out=shifted), out=x)
        first = np.add.reduce(x, dtype=np.uint32)
        np.multiply(x, _LANE, out=x)
        np.bitwise_xor(x, np.right_shift(x, _XORSHIFT_LANE, out=shifted), out=x)
        return first, np.add.reduce(x, dtype=np.uint32)


def digest_bytes(lanes: UInt32Array) -> bytes:
    """Return the digests of some blocks, [count, 2], as they are committed: 8 bytes each, little-endian, lane 0 first."""
    return lanes.astype("<u4").tobytes()
