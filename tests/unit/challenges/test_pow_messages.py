"""Parameters and commitment of the proof of work: bounds, the exact wire form, and refusal of everything else."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from challenges.pow_messages import HASHES_MAX, SHARES_MAX, PowCommitment, PowParams
from polarise.errors import ProofRejected, RejectReason

# Eight bytes are eleven characters and one of padding.
NONCE = "AAAAAAAAAAE="


def _reason(value: object) -> RejectReason | None:
    try:
        PowCommitment.from_wire(value)
    except ProofRejected as rejected:
        return rejected.reason
    return None


@given(st.lists(st.integers(0, 2**64 - 1), max_size=30))
def test_commitment_survives_the_wire(nonces: list[int]) -> None:
    """In any order and number: what is well formed and still wrong is for `pow.check_nonces_shape`."""
    commitment = PowCommitment(tuple(nonces))
    assert PowCommitment.from_wire(json.loads(json.dumps(commitment.to_wire()))) == commitment


def test_wire_form_is_eight_bytes_per_nonce_big_endian() -> None:
    assert PowCommitment((1, 2**64 - 2)).to_wire() == {
        "nonces": base64.b64encode(b"\0\0\0\0\0\0\0\1\xff\xff\xff\xff\xff\xff\xff\xfe").decode()
    }


def test_wire_at_2000_shares_is_21_kb() -> None:
    wire = json.dumps(PowCommitment(tuple(range(2000))).to_wire(), separators=(",", ":"))
    assert len(wire) == 21_349


def test_as_many_shares_as_any_proof_has_are_decoded() -> None:
    commitment = PowCommitment(tuple(range(SHARES_MAX)))
    assert PowCommitment.from_wire(commitment.to_wire()) == commitment


@pytest.mark.parametrize(
    "nonces",
    [
        None,
        5,
        True,
        b"AAAAAAAAAAE=",
        ["AAAAAAAAAAE="],
        [1, 2, 3],
        NONCE[:-1],
        NONCE + "\n",
        " " + NONCE,
        NONCE + NONCE,  # padding in the middle
        "AAAAAAAAAAF=",  # the unused bits of F are not zero
        "AAAAAAAAA-E=",
        "ÀAAAAAAAAAE=",
        "AAAAAAAAAA==",  # seven bytes
        "AAAAAAAAAAAA",  # nine bytes
        PowCommitment(tuple(range(SHARES_MAX + 1))).to_wire()["nonces"],
        "A" * 10_000_000,
    ],
)
def test_a_broken_field_is_malformed(nonces: object) -> None:
    assert _reason({"nonces": nonces}) is RejectReason.MALFORMED


@pytest.mark.parametrize("value", [None, [], NONCE, 3, {}, {"nonce": NONCE}, {"nonces": NONCE, "extra": 1}])
def test_anything_but_the_one_field_is_malformed(value: object) -> None:
    assert _reason(value) is RejectReason.MALFORMED


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=16) | st.just(NONCE),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=7), children, max_size=4),
    max_leaves=8,
)


@given(st.fixed_dictionaries({"nonces": JSON_VALUES}) | JSON_VALUES)
def test_no_json_value_raises_anything_but_malformed(value: object) -> None:
    assert _reason(value) in (None, RejectReason.MALFORMED)


def test_refusals_do_not_repeat_what_the_miner_sent() -> None:
    with pytest.raises(ProofRejected) as caught:
        PowCommitment.from_wire({"nonces": "?" * 40_000})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shares": 15}, "shares is 15"),
        ({"shares": 4097}, "shares is 4097"),
        ({"difficulty": 0}, "difficulty is 0"),
        ({"shares": 16, "difficulty": HASHES_MAX // 16 + 1}, "difficulty is"),
        ({"shares": 4096, "difficulty": HASHES_MAX // 4096 + 1}, "difficulty is"),
        ({"slot": -1}, "slot is -1"),
        ({"slot": 65536}, "slot is 65536"),
    ],
)
def test_sizes_out_of_bounds_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PowParams(**{"shares": 100, "difficulty": 1000, **change})


@pytest.mark.parametrize(
    "change", [{"shares": 16, "difficulty": HASHES_MAX // 16}, {"shares": 4096}, {"difficulty": 1}, {"slot": 65535}]
)
def test_sizes_at_the_bounds_are_taken(change: dict[str, Any]) -> None:
    PowParams(**{"shares": 100, "difficulty": 1000, **change})


@given(st.integers(1, HASHES_MAX // 16))
def test_a_share_is_as_rare_as_the_difficulty_says(difficulty: int) -> None:
    """The rarity is (target + 1) / 2**64; rounding makes it too small by less than one in three million."""
    target = PowParams(16, difficulty).target
    assert 0 <= target < 2**64
    assert (target + 1) * difficulty <= 2**64 < (target + 1) * difficulty * 3_000_001 // 3_000_000 + 1


def test_no_two_slots_have_a_nonce_in_common() -> None:
    first, second, last = (PowParams(16, 1, slot).nonces for slot in (0, 1, 65535))
    assert first.start == 0
    assert first.stop == second.start
    assert last.stop == 2**64


def test_other_sizes_give_another_seed() -> None:
    encodings = {
        hashlib.sha256(PowParams(shares, difficulty, slot).encode()).digest()
        for shares in (16, 17)
        for difficulty in (1, 2)
        for slot in (0, 1)
    }
    assert len(encodings) == 8


def test_encoding_is_pinned() -> None:
    def field(data: bytes) -> bytes:
        return len(data).to_bytes(8, "big") + data

    fields = (b"polarise/pow/params/1", *(number.to_bytes(8, "big") for number in (2000, 80_000_000, 3)))
    assert PowParams(2000, 80_000_000, 3).encode() == b"".join(field(data) for data in fields)


def test_operations_are_the_hashes_expected() -> None:
    params = PowParams(2000, 7000)
    assert params.operations == 14_000_000
    assert dataclasses.replace(params, difficulty=1).operations == 2000
