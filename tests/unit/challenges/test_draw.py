"""Commit, nonce, seed and positions: pinned, unambiguous, uniform, and different for every input."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from challenges import draw
from challenges.draw import ChallengeKind, SeedInputs

KEY = bytes(range(32))
BEACON = bytes(range(32, 64))
INPUTS = SeedInputs(
    kind=ChallengeKind.MATMUL,
    params=b"params",
    epoch=7,
    beacon=BEACON,
    validator_key=b"v" * 32,
    nonce=b"n" * 32,
    miner_key=b"m" * 32,
    device_uuid="GPU-0",
    device_index=0,
)


def _positions(commitment: bytes, bounds: tuple[int, ...], count: int) -> tuple[tuple[int, ...], ...]:
    return draw.draw_positions(KEY, "GPU-0", ChallengeKind.MATMUL, commitment, bounds=bounds, count=count)


def test_known_answers() -> None:
    """Pinned, so that evidence of today is re-checked alike by every later version."""
    assert (
        draw.challenge_commit(7, KEY, BEACON).hex()
        == "20cc37aa71565af12a386004080ed8350ff9efae89e859639752e20c35e6bf85"
    )
    assert (
        draw.nonce(KEY, BEACON, "GPU-0", ChallengeKind.MATMUL).hex()
        == "573c2865dbfe74d3f523b03b92140d866c51e809c501e5ba9ec920429a506da2"
    )
    assert draw.seed(INPUTS).hex() == "606eae43f384d9af4528a655544d42aa368d0918a35c9aeedfcc2a0f97e2d37e"
    assert _positions(b"commitment", (5, 16, 16), 4) == ((3, 9, 13), (3, 14, 2), (1, 6, 8), (3, 4, 14))


def test_seed_is_the_hash_of_length_prefixed_fields() -> None:
    """Written out by hand, as another implementation would."""

    def field(data: bytes) -> bytes:
        return len(data).to_bytes(8, "big") + data

    encoded = b"".join(
        field(data)
        for data in (
            b"polarise/challenge/seed/1",
            b"matmul",
            b"params",
            (7).to_bytes(8, "big"),
            BEACON,
            b"v" * 32,
            b"n" * 32,
            b"m" * 32,
            b"GPU-0",
            bytes(8),
        )
    )
    assert draw.seed(INPUTS) == hashlib.sha256(encoded).digest()


def test_nonce_is_the_hmac_of_length_prefixed_fields() -> None:
    message = draw.encode_fields(b"polarise/challenge/nonce/1", BEACON, b"GPU-0", b"pow")
    assert draw.nonce(KEY, BEACON, "GPU-0", ChallengeKind.POW) == hmac.digest(KEY, message, "sha256")


def test_fill_nonce_is_the_hmac_of_length_prefixed_fields_and_no_other_nonce() -> None:
    """A miner that is told what to fill from must not learn what starts the clock."""
    message = draw.encode_fields(b"polarise/challenge/fill-nonce/1", BEACON, b"GPU-0")
    assert draw.fill_nonce(KEY, BEACON, "GPU-0") == hmac.digest(KEY, message, "sha256")
    nonces = {draw.nonce(KEY, BEACON, "GPU-0", kind) for kind in ChallengeKind}
    fills = {
        draw.fill_nonce(key, beacon, device, attempt=attempt)
        for key in (KEY, BEACON)
        for beacon in (KEY, BEACON)
        for device in ("GPU-0", "GPU-1")
        for attempt in (0, 1)
    }
    assert len(fills) == 16
    assert not fills & nonces


@pytest.mark.parametrize(
    "change",
    [
        {"kind": ChallengeKind.POW},
        {"params": b"paramt"},
        {"epoch": 8},
        {"beacon": b"b" * 32},
        {"validator_key": b"w" * 32},
        {"nonce": b"o" * 32},
        {"miner_key": b"l" * 32},
        {"device_uuid": "GPU-1"},
        {"device_index": 1},
    ],
)
def test_every_input_changes_the_seed(change: dict[str, object]) -> None:
    changed = dataclasses.replace(INPUTS, **change)  # type: ignore[arg-type]
    assert len({draw.seed(changed), draw.seed(INPUTS), draw.fill_seed(changed), draw.fill_seed(INPUTS)}) == 4


@given(st.lists(st.binary(max_size=9), max_size=4), st.lists(st.binary(max_size=9), max_size=4))
def test_no_two_lists_of_fields_encode_alike(left: list[bytes], right: list[bytes]) -> None:
    is_same_bytes = draw.encode_fields(b"domain", *left) == draw.encode_fields(b"domain", *right)
    assert is_same_bytes == (left == right)


def test_moving_a_byte_between_fields_changes_the_seed() -> None:
    moved = dataclasses.replace(INPUTS, params=b"param", device_uuid="sGPU-0")
    assert draw.seed(moved) != draw.seed(INPUTS)


@pytest.mark.parametrize("number", [-1, 1 << 64])
def test_a_number_beyond_64_bits_is_our_own_error(number: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        draw.encode_fields(b"domain", number)


def test_a_key_of_31_bytes_is_our_own_error() -> None:
    with pytest.raises(ValueError, match="opening_key"):
        draw.challenge_commit(1, KEY[:31], BEACON)
    with pytest.raises(ValueError, match="miner_key"):
        dataclasses.replace(INPUTS, miner_key=b"m" * 31)


@settings(deadline=None)
@given(st.binary(max_size=40), st.lists(st.integers(1, 300), min_size=1, max_size=3), st.integers(1, 64))
def test_positions_are_in_range_distinct_and_repeatable(commitment: bytes, bounds: list[int], count: int) -> None:
    positions = _positions(commitment, tuple(bounds), count)
    assert positions == _positions(commitment, tuple(bounds), count)
    assert len(positions) == count
    for position in positions:
        assert all(0 <= number < bound for number, bound in zip(position, bounds, strict=True))
    if count <= math.prod(bounds):
        assert len(set(positions)) == count


def test_a_full_draw_gives_every_position_once() -> None:
    assert sorted(_positions(b"c", (2, 3, 4), 24)) == [(r, i, j) for r in range(2) for i in range(3) for j in range(4)]


def test_positions_repeat_where_there_are_too_few() -> None:
    assert _positions(b"c", (1, 1, 1), 3) == ((0, 0, 0),) * 3


def test_positions_follow_the_commitment_the_key_the_device_and_the_kind() -> None:
    bounds, count = (100, 100, 100), 4
    draws = {
        draw.draw_positions(key, device, kind, commitment, bounds=bounds, count=count)
        for key in (KEY, BEACON)
        for device in ("GPU-0", "GPU-1")
        for kind in (ChallengeKind.MATMUL, ChallengeKind.MEMORY)
        for commitment in (b"a", b"b")
    }
    assert len(draws) == 16


def test_draws_are_uniform() -> None:
    """Chi-squared of 12,000 draws over 60 cells: 59 degrees of freedom, 99.9 % below 98.3; the draw is fixed."""
    counts = Counter(p for trial in range(4000) for p in _positions(trial.to_bytes(4, "big"), (3, 4, 5), 3))
    assert len(counts) == 60
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 98.3


def test_words_of_the_incomplete_last_multiple_are_thrown_away() -> None:
    """With a range of 2**62 + 1 one word in four is refused; a bare modulo would use it."""
    space = (1 << 62) + 1
    stream = b"stream"
    words = hashlib.shake_256(stream).digest(8 * 64)
    numbers = [int.from_bytes(words[start : start + 8], "big") for start in range(0, len(words), 8)]
    limit = 3 * space
    expected = [number % space for number in numbers if number < limit]
    drawn = draw._uniform_indices(stream, space)
    assert [next(drawn) for _ in expected] == expected
    assert len(expected) < len(numbers)


@pytest.mark.parametrize(("bounds", "count"), [((), 1), ((0,), 1), ((5,), 0), ((5,), 4097), ((1 << 63,), 1)])
def test_impossible_draws_are_our_own_error(bounds: tuple[int, ...], count: int) -> None:
    with pytest.raises(ValueError, match=r"bounds|count|too many"):
        _positions(b"c", bounds, count)
