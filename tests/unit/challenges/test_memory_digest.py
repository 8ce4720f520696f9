"""The digest of a block: the definition word by word, and that each word, its place and both keys decide it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from challenges.draw import encode_fields
from challenges.memory_digest import BLOCK_WORDS, COLUMNS, ROWS, BlockDigester, PassKeys, digest_bytes
from challenges.prng import UInt32Array

KEY = bytes(range(32))
MASK = 2**32 - 1


@pytest.fixture(scope="module")
def block() -> UInt32Array:
    return np.random.default_rng(1).integers(0, 2**32, BLOCK_WORDS, dtype=np.uint32)


def _digest(block: UInt32Array, keys: PassKeys) -> tuple[int, int]:
    first, second = BlockDigester().digests(block[None, :], keys)[0].tolist()
    return first, second


def _by_definition(block: UInt32Array, pass_key: bytes) -> tuple[int, int]:
    data = hashlib.shake_256(encode_fields(b"polarise/memory/keys/1", pass_key)).digest(4 * (ROWS + COLUMNS))
    keys = [int.from_bytes(data[start : start + 4], "little") for start in range(0, len(data), 4)]
    first = second = 0
    for index, word in enumerate(block.tolist()):
        row, column = divmod(index, COLUMNS)
        x = (word * 0x846CA68B + keys[row]) & MASK
        x ^= x >> 15
        x = (x ^ keys[ROWS + column]) * 0x7FEB352D & MASK
        x ^= x >> 13
        first += x
        y = x * 0x9E3779B1 & MASK
        second += y ^ y >> 16
    return first & MASK, second & MASK


@pytest.mark.parametrize("key", [KEY, bytes(32), b"\xff" * 32])
def test_digest_is_the_definition(block: UInt32Array, key: bytes) -> None:
    assert _digest(block, PassKeys.of(key)) == _by_definition(block, key)


@pytest.mark.parametrize("value", [0, MASK])
def test_extreme_words_are_digested_by_the_definition(value: int) -> None:
    block = np.full(BLOCK_WORDS, value, dtype=np.uint32)
    assert _digest(block, PassKeys.of(KEY)) == _by_definition(block, KEY)


def test_many_blocks_are_digested_one_by_one(block: UInt32Array) -> None:
    blocks = np.stack([block, block[::-1], np.zeros_like(block)])
    keys = PassKeys.of(KEY)
    lanes = BlockDigester().digests(blocks, keys)
    assert [tuple(pair) for pair in lanes.tolist()] == [_digest(one, keys) for one in blocks]


def test_bytes_are_little_endian_lane_by_lane() -> None:
    assert digest_bytes(np.array([[1, 2], [3, 2**31]], dtype=np.uint32)).hex() == "01000000020000000300000000000080"


@pytest.mark.parametrize("place", [0, 127, 128, 8191, BLOCK_WORDS - 1])
@pytest.mark.parametrize("bit", [0, 31])
def test_one_bit_anywhere_changes_both_lanes(block: UInt32Array, place: int, bit: int) -> None:
    changed = block.copy()
    changed[place] ^= np.uint32(1 << bit)
    before, after = _digest(block, PassKeys.of(KEY)), _digest(changed, PassKeys.of(KEY))
    assert before[0] != after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize("other", [1, COLUMNS, COLUMNS + 1])
def test_two_words_that_change_places_change_the_digest(block: UInt32Array, other: int) -> None:
    """In one row, in one column, and in neither."""
    changed = block.copy()
    changed[[0, other]] = changed[[other, 0]]
    assert _digest(block, PassKeys.of(KEY)) != _digest(changed, PassKeys.of(KEY))


@pytest.mark.parametrize("keyed", ["rows", "columns"])
def test_every_key_decides(block: UInt32Array, keyed: str) -> None:
    keys = PassKeys.of(KEY)
    for index in (0, 64, 127):
        rows, columns = keys.rows.reshape(ROWS, COLUMNS).copy(), keys.columns.reshape(ROWS, COLUMNS).copy()
        if keyed == "rows":
            rows[index] ^= np.uint32(1)
        else:
            columns[:, index] ^= np.uint32(1)
        assert _digest(block, PassKeys(rows.ravel(), columns.ravel())) != _digest(block, keys)


def _mixed_difference(block: UInt32Array, row: int, column: int, keys: tuple[int, int, int, int]) -> int:
    """Digest under four keys that differ in one row key and one column key, with alternating signs."""
    base = PassKeys.of(KEY)
    total = 0
    for sign, row_key, column_key in ((1, 0, 2), (-1, 1, 2), (-1, 0, 3), (1, 1, 3)):
        rows, columns = base.rows.reshape(ROWS, COLUMNS).copy(), base.columns.reshape(ROWS, COLUMNS).copy()
        rows[row], columns[:, column] = keys[row_key], keys[column_key]
        total += sign * _digest(block, PassKeys(rows.ravel(), columns.ravel()))[0]
    return total & MASK


def test_digests_under_enough_keys_tell_each_word(block: UInt32Array) -> None:
    """What no summary can take away: the four digests hang on one word alone, and differ between words.

    So whoever can answer for keys that are not known yet can compute every word of the block.
    """
    chance = np.random.default_rng(2)
    row, column = 5, 77
    other_block = chance.integers(0, 2**32, BLOCK_WORDS, dtype=np.uint32)
    place = row * COLUMNS + column
    other_block[place] = block[place]
    seen = set()
    quads = [tuple(chance.integers(0, 2**32, 4).tolist()) for _ in range(4)]
    for _ in range(20):
        word = np.uint32(chance.integers(0, 2**32))
        block_with, other_with = block.copy(), other_block.copy()
        block_with[place] = other_with[place] = word
        differences = tuple(_mixed_difference(block_with, row, column, quad) for quad in quads)
        assert differences == tuple(_mixed_difference(other_with, row, column, quad) for quad in quads)
        seen.add(differences)
    assert len(seen) == 20
