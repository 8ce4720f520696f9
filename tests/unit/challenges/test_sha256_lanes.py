"""SHA-256 in lanes: the published constants and vector, and hashlib bit for bit wherever a nonce can stand."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from challenges.sha256_lanes import INITIAL_STATE, ROUND_CONSTANTS, Sha256Lanes

PREFIX = bytes(range(44))


def _last_word(prefix: bytes, nonce: int) -> int:
    return int.from_bytes(hashlib.sha256(prefix + nonce.to_bytes(8, "big")).digest()[28:32], "big")


def _primes(count: int) -> list[int]:
    primes: list[int] = []
    candidate = 2
    while len(primes) < count:
        if all(candidate % prime for prime in primes):
            primes.append(candidate)
        candidate += 1
    return primes


def _cube_root(number: int) -> int:
    low, high = 0, 1 << (number.bit_length() // 3 + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**3 <= number else (low, middle - 1)
    return low


def test_constants_are_those_of_fips_180_4() -> None:
    """The first 32 bits of the fractional parts of square and cube roots of the first primes."""
    primes = _primes(64)
    assert tuple(math.isqrt(prime << 64) % 2**32 for prime in primes[:8]) == INITIAL_STATE
    assert tuple(_cube_root(prime << 96) % 2**32 for prime in primes) == ROUND_CONSTANTS


def test_published_vector_of_52_bytes() -> None:
    """NIST's CAVS 5.0, SHA256ShortMsg, Len = 416: the one published message that is as long as ours."""
    message = bytes.fromhex(
        "893d1a8863d234ee50e5a8c7650a4de047230ad03d268dde8921401ff97b79dfb97cf2426b0f782b79c7e75daa2155e1f4098ea7"
    )
    digest = "f7808e03e5d5af43c2bffb66e35d1ecbd79f4d8fec44f821f73a235d17c70a89"
    words = Sha256Lanes(3).last_words(message[:44], int.from_bytes(message[44:], "big") - 1)
    assert int(words[1]) == int(digest[-8:], 16)


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=44, max_size=44), st.integers(0, 2**64 - 1), st.integers(1, 40))
def test_every_lane_equals_hashlib(prefix: bytes, nonce: int, lanes: int) -> None:
    start = nonce - max(0, nonce % 2**32 + lanes - 2**32)
    words = Sha256Lanes(lanes).last_words(prefix, start)
    assert words.tolist() == [_last_word(prefix, start + lane) for lane in range(lanes)]


@pytest.mark.parametrize("prefix", [bytes(44), b"\xff" * 44, b"\x80" + bytes(43)])
@pytest.mark.parametrize("start", [0, 2**32 - 5, 7 << 32, 2**63, 2**64 - 5])
def test_edges_of_words_equal_hashlib(prefix: bytes, start: int) -> None:
    """Zeros and ones everywhere, where a forgotten constant or carry would not show in random words."""
    words = Sha256Lanes(5).last_words(prefix, start)
    assert words.tolist() == [_last_word(prefix, start + lane) for lane in range(5)]


def test_many_lanes_equal_hashlib() -> None:
    words = Sha256Lanes(20_000).last_words(PREFIX, 1 << 40)
    assert words.tolist() == [_last_word(PREFIX, (1 << 40) + lane) for lane in range(20_000)]


def test_one_scratch_space_serves_many_calls() -> None:
    """Nothing of one call may show in the next."""
    lanes = Sha256Lanes(64)
    first = lanes.last_words(PREFIX, 0).copy()
    lanes.last_words(bytes(44), 5 << 32)
    assert np.array_equal(lanes.last_words(PREFIX, 0), first)


@pytest.mark.parametrize(("prefix", "start"), [(bytes(43), 0), (bytes(45), 0), (PREFIX, 2**32 - 7), (PREFIX, -1)])
def test_what_is_no_single_block_of_lanes_is_our_own_error(prefix: bytes, start: int) -> None:
    with pytest.raises(ValueError, match="prefix of"):
        Sha256Lanes(8).last_words(prefix, start)
