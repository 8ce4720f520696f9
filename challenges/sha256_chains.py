"""SHA-256 applied k times to many 32-byte messages at once, in numpy: what fills the memory of a memory proof on a CPU.

Rules:
- A message of 32 bytes and its padding are one block of 16 words, of which eight are constant; the hash is eight words,
  which are the next message. Nothing but words passes from one hash to the next.
- The first messages of a call share seven words, the last word differs between lanes (`challenges.memory` says why), so
  that the first rounds of the first hash are done once per call, as in `challenges.sha256_lanes`, whose rounds these are.
- Equal to hashlib bit for bit (FIPS 180-4).

Sketch: a hash is all 64 rounds, 3,300 numpy operations on 32-bit words in L2 cache; `benchmarks/memory.py` measures.
"""

from __future__ import annotations

import struct

import numpy as np

from challenges.prng import UInt32Array
from challenges.sha256_lanes import INITIAL_STATE, ROUND_CONSTANTS, Sha256Lanes, Word

MESSAGE_BYTES = 32
HASH_WORDS = 8

_PADDING = (1 << 31, 0, 0, 0, 0, 0, 0, 8 * MESSAGE_BYTES)
_WORD_END = 1 << 32


class Sha256Chains(Sha256Lanes):
    """Scratch space for a fixed number of lanes, 120 bytes each; not for use by two threads at once."""

    def hash_counted(self, first_message: bytes, length: int, out: UInt32Array) -> None:
        """Hash consecutive messages, each `length` times, and write the words of the last hashes.

        Args:
            first_message: 32 bytes; lane i has the message whose last four bytes, as a number, are larger by i.
            length: How many hashes one after another, >= 1.
            out: [count, 8] uint32, count at most the number of lanes.

        Raises:
            ValueError: A size is wrong, or the messages would cross a multiple of 2**32.
        """
        count, low = len(out), int.from_bytes(first_message[-4:], "big")
        if len(first_message) != MESSAGE_BYTES or low > _WORD_END - count or length < 1:
            raise ValueError(f"message of {len(first_message)} bytes, {count} from {low} on, {length} times")
        if not 1 <= count <= self.lanes or out.shape != (count, HASH_WORDS):
            raise ValueError(f"room for {out.shape}, expected at most {(self.lanes, HASH_WORDS)}")
        words: list[Word] = [*struct.unpack(">7I", first_message[:28])]
        words.append(np.add(self._index, np.array(low, dtype=np.uint32), out=self._schedule[7]))
        for _ in range(length):
            words = self._hash(words)
        for index, word in enumerate(words):
            out[:, index] = word[:count] if isinstance(word, np.ndarray) else word

    def _hash(self, message: list[Word]) -> list[Word]:
        """Hash eight words into eight, which stand in the places of the first eight of the schedule."""
        words: list[Word] = [*message, *_PADDING]
        # The last four values are a, b, c, d of the definition, newest last; and e, f, g, h.
        a: list[Word] = list(INITIAL_STATE[3::-1])
        e: list[Word] = list(INITIAL_STATE[:3:-1])
        difference: Word = INITIAL_STATE[1] ^ INITIAL_STATE[2]
        for index, constant in enumerate(ROUND_CONSTANTS):
            if index >= 16:
                words.append(self._expand(words, index))
            total = self._add(self._total, e[-4], words[index], constant, self._rotations(e[-1], 6, 11, 25))
            total = self._add(self._total, total, self._choose(e))
            e.append(self._add(self._e[index % 4], a[-4], total))
            total = self._add(self._total, total, self._rotations(a[-1], 2, 13, 22))
            majority, difference = self._majority(a, difference, self._differences[index % 2])
            a.append(self._add(self._a[index % 4], total, majority))
        state = (*a[:-5:-1], *e[:-5:-1])
        return [
            self._add(self._schedule[index], word, initial)
            for index, (word, initial) in enumerate(zip(state, INITIAL_STATE, strict=True))
        ]
