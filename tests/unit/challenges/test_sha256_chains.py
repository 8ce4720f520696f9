"""SHA-256 in chains: a published value, and hashlib bit for bit wherever a counter can stand."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from challenges.prng import UInt32Array
from challenges.sha256_chains import HASH_WORDS, Sha256Chains


def _chain(message: bytes, length: int) -> bytes:
    for _ in range(length):
        message = hashlib.sha256(message).digest()
    return message


def _hashed(first_message: bytes, length: int, count: int, lanes: int) -> list[bytes]:
    out: UInt32Array = np.empty((count, HASH_WORDS), dtype=np.uint32)
    Sha256Chains(lanes).hash_counted(first_message, length, out)
    return [row.astype(">u4").tobytes() for row in out]


def test_published_vector_of_32_bytes() -> None:
    """NIST's CAVS 11.0, SHA256ShortMsg, Len = 256."""
    message = bytes.fromhex("09fc1accc230a205e4a208e64a8f204291f581a12756392da4b8c0cf5ef02b95")
    digest = "4f44c1c7fbebb6f9601829f3897bfd650c56fa07844be76489076356ac1886a4"
    assert [value.hex() for value in _hashed(message, 1, 1, 3)] == [digest]


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=28, max_size=28), st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 20))
def test_every_lane_equals_hashlib(head: bytes, start: int, length: int, count: int) -> None:
    start = min(start, 2**32 - count)
    found = _hashed(head + start.to_bytes(4, "big"), length, count, 20)
    assert found == [_chain(head + (start + lane).to_bytes(4, "big"), length) for lane in range(count)]


@pytest.mark.parametrize("head", [bytes(28), b"\xff" * 28])
@pytest.mark.parametrize("start", [0, 2**31 - 2, 2**32 - 5])
def test_edges_of_words_equal_hashlib(head: bytes, start: int) -> None:
    found = _hashed(head + start.to_bytes(4, "big"), 2, 5, 8)
    assert found == [_chain(head + (start + lane).to_bytes(4, "big"), 2) for lane in range(5)]


def test_one_scratch_space_serves_many_calls() -> None:
    """Nothing of one call may show in the next."""
    chains, out = Sha256Chains(16), np.empty((16, HASH_WORDS), dtype=np.uint32)
    chains.hash_counted(bytes(32), 3, out)
    first = out.copy()
    chains.hash_counted(b"\xff" * 28 + bytes(4), 2, out)
    chains.hash_counted(bytes(32), 3, out)
    assert np.array_equal(out, first)


@pytest.mark.parametrize(
    ("message", "length", "count"),
    [
        (bytes(31), 1, 4),
        (bytes(33), 1, 4),
        (bytes(32), 0, 4),
        (bytes(32), 1, 0),
        (bytes(32), 1, 9),
        (bytes(28) + (2**32 - 3).to_bytes(4, "big"), 1, 4),
    ],
)
def test_what_does_not_fit_is_our_own_error(message: bytes, length: int, count: int) -> None:
    with pytest.raises(ValueError, match=r"message of|room for"):
        Sha256Chains(8).hash_counted(message, length, np.empty((count, HASH_WORDS), dtype=np.uint32))
