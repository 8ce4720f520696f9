"""Parameters, commitment and openings of a memory proof on the wire: round trips, size, and refusal of everything else."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from challenges.memory_messages import (
    BLOCKS_MAX,
    LEAF_BYTES_MAX,
    OPENINGS_MAX,
    OPENINGS_WIRE_BYTES_MAX,
    PASSES_MAX,
    PATH_BYTES_MAX,
    BlockOpening,
    BlockPosition,
    MemoryCommitment,
    MemoryParams,
    block_openings_from_wire,
    path_length,
)
from polarise.errors import ProofRejected, RejectReason

OPENING = BlockOpening(BlockPosition(1, 2), bytes(range(16)), (b"a" * 32, b"b" * 32))
ROOT = "ab" * 32


def _reason_of_opening(value: object) -> RejectReason | None:
    try:
        BlockOpening.from_wire(value)
    except ProofRejected as rejected:
        return rejected.reason
    return None


@settings(deadline=None)
@given(
    st.tuples(st.integers(0, PASSES_MAX - 1), st.integers(0, BLOCKS_MAX - 1)),
    st.binary(max_size=200),
    st.lists(st.binary(min_size=32, max_size=32), max_size=14),
)
def test_opening_survives_the_wire(at: tuple[int, int], leaf: bytes, path: list[bytes]) -> None:
    opening = BlockOpening(BlockPosition(*at), leaf, tuple(path))
    assert BlockOpening.from_wire(json.loads(json.dumps(opening.to_wire()))) == opening


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=5))
def test_commitment_survives_the_wire(roots: list[bytes]) -> None:
    commitment = MemoryCommitment(tuple(roots))
    assert MemoryCommitment.from_wire(json.loads(json.dumps(commitment.to_wire()))) == commitment


def test_tuples_of_a_frozen_model_are_taken_as_lists() -> None:
    assert MemoryCommitment.from_wire({"roots": (ROOT,)}) == MemoryCommitment((bytes.fromhex(ROOT),))
    assert block_openings_from_wire(MemoryParams(8, 1, 1, openings=1), (OPENING.to_wire(),)) == (OPENING,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("at", [1]),
        ("at", [1, 2, 3]),
        ("at", [-1, 2]),
        ("at", [1, -2]),
        ("at", [PASSES_MAX, 2]),
        ("at", [1, BLOCKS_MAX]),
        ("at", [1, 10**400]),
        ("at", [1, math.nan]),
        ("at", [1, 2.0]),
        ("at", [1, True]),
        ("at", [1, "2"]),
        ("at", [1, None]),
        ("at", {"0": 1}),
        ("at", "12"),
        ("at", None),
        ("leaf", None),
        ("leaf", 5),
        ("leaf", ["AAAA"]),
        ("leaf", "AAA"),
        ("leaf", "AAAA\n"),
        ("leaf", "AA-_"),
        ("leaf", "AB=="),  # the unused bits of B are not zero
        ("leaf", "A" * (LEAF_BYTES_MAX * 4 // 3 + 8)),
        ("path", "AAAA"),
        ("path", "A" * (PATH_BYTES_MAX * 4 // 3 + 8)),
        ("path", math.inf),
    ],
)
def test_a_broken_field_is_malformed(field: str, value: object) -> None:
    assert _reason_of_opening({**OPENING.to_wire(), field: value}) is RejectReason.MALFORMED


@pytest.mark.parametrize("value", [None, [], "{}", 3, {}, {"at": [0, 0], "leaf": ""}, {1: 2, 3: 4, 5: 6}])
def test_anything_but_the_three_fields_is_malformed(value: object) -> None:
    assert _reason_of_opening(value) is RejectReason.MALFORMED


def test_an_unknown_field_is_malformed() -> None:
    assert _reason_of_opening({**OPENING.to_wire(), "extra": 1}) is RejectReason.MALFORMED


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=8,
)


@given(st.fixed_dictionaries({"at": JSON_VALUES, "leaf": JSON_VALUES, "path": JSON_VALUES}) | JSON_VALUES)
def test_no_json_value_raises_anything_but_malformed(value: object) -> None:
    assert _reason_of_opening(value) in (None, RejectReason.MALFORMED)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"roots": ROOT},
        {"roots": [ROOT[:-1]]},
        {"roots": [ROOT + "00"]},
        {"roots": [ROOT.upper()]},
        {"roots": [ROOT + "\n"]},
        {"roots": [5]},
        {"roots": [ROOT] * (PASSES_MAX + 1)},
        {"roots": [ROOT], "extra": 1},
    ],
)
def test_a_broken_commitment_is_malformed(value: object) -> None:
    with pytest.raises(ProofRejected, match="MALFORMED"):
        MemoryCommitment.from_wire(value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, RejectReason.MALFORMED),
        ({}, RejectReason.MALFORMED),
        ([], RejectReason.WRONG_COUNT),
        ([OPENING.to_wire()], RejectReason.WRONG_COUNT),
        ([OPENING.to_wire()] * 3, RejectReason.WRONG_COUNT),
        ([OPENING.to_wire(), None], RejectReason.MALFORMED),
    ],
)
def test_a_broken_list_of_openings_is_refused(value: object, reason: RejectReason) -> None:
    with pytest.raises(ProofRejected) as caught:
        block_openings_from_wire(MemoryParams(8, 1, 1, openings=2), value)
    assert caught.value.reason is reason


def test_refusals_do_not_repeat_what_the_miner_sent() -> None:
    with pytest.raises(ProofRejected) as caught:
        BlockOpening.from_wire({**OPENING.to_wire(), "leaf": "?" * 5000})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("openings", "bytes_max"), [(32, 200_000), (OPENINGS_MAX, OPENINGS_WIRE_BYTES_MAX)])
def test_wire_is_bounded_at_full_size(openings: int, bytes_max: int) -> None:
    """With 512 GiB and the largest indices, in compact JSON; an H200 has a quarter of that."""
    params = MemoryParams(BLOCKS_MAX, 1, PASSES_MAX, openings)
    at = BlockPosition(PASSES_MAX - 1, BLOCKS_MAX - 1)
    opening = BlockOpening(at, bytes(LEAF_BYTES_MAX), (bytes(32),) * path_length(params, params.leaves_count - 1))
    assert BlockOpening.from_wire(opening.to_wire()) == opening
    one = json.dumps(opening.to_wire(), separators=(",", ":"))
    assert len(opening.leaf) + 32 * len(opening.path) <= 9000
    assert len(json.dumps([opening.to_wire()] * openings, separators=(",", ":"))) <= bytes_max, len(one)


@pytest.mark.parametrize(("blocks", "leaves"), [(8, [8]), (512, [512]), (513, [512, 1]), (1024, [512, 512])])
def test_leaves_hold_all_blocks_once(blocks: int, leaves: list[int]) -> None:
    params = MemoryParams(blocks, 1, 1)
    ranges = [params.leaf_blocks(leaf) for leaf in range(params.leaves_count)]
    assert [len(one) for one in ranges] == leaves
    assert [block for one in ranges for block in one] == list(range(blocks))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": 7}, "blocks is 7"),
        ({"blocks": BLOCKS_MAX + 1}, "blocks is"),
        ({"hashes": 0}, "hashes is"),
        ({"hashes": 129, "openings": 1}, "hashes is"),
        ({"passes": 0}, "passes is"),
        ({"passes": PASSES_MAX + 1}, "passes is"),
        ({"openings": 0}, "openings is"),
        ({"openings": OPENINGS_MAX + 1}, "openings is"),
        ({"hashes": 81, "openings": 32}, "a check takes"),
    ],
)
def test_sizes_out_of_bounds_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryParams(**{"blocks": 64, "hashes": 8, "passes": 4, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": 8},
        {"blocks": BLOCKS_MAX},
        {"hashes": 1},
        {"hashes": 80},
        {"hashes": 128, "openings": 20},
        {"passes": 1},
        {"passes": PASSES_MAX},
        {"openings": 1},
        {"openings": OPENINGS_MAX},
    ],
)
def test_sizes_at_the_bounds_are_taken(change: dict[str, Any]) -> None:
    MemoryParams(**{"blocks": 64, "hashes": 8, "passes": 4, **change})


def test_every_size_is_in_the_bytes_of_the_seed() -> None:
    sizes = [(64, 8, 4, 32), (65, 8, 4, 32), (64, 9, 4, 32), (64, 8, 5, 32), (64, 8, 4, 31)]
    assert len({MemoryParams(*size).encode() for size in sizes}) == len(sizes)
