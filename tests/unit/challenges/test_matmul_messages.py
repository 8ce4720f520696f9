"""Parameters, commitment and openings on the wire: round trips, size, and refusal of everything else."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from challenges.matmul_messages import (
    LEAF_BYTES_MAX,
    PATH_BYTES_MAX,
    MatmulCommitment,
    MatmulParams,
    TileOpening,
    TilePosition,
    openings_from_wire,
    path_length,
)
from polarise.errors import ProofRejected, RejectReason

OPENING = TileOpening(TilePosition(1, 2, 3), bytes(range(16)), (b"a" * 32, b"b" * 32))
ROOT = "ab" * 32


def _reason_of_opening(value: object) -> RejectReason | None:
    try:
        TileOpening.from_wire(value)
    except ProofRejected as rejected:
        return rejected.reason
    return None


@settings(deadline=None)
@given(
    st.tuples(st.integers(0, 2047), st.integers(0, 2047), st.integers(0, 2047)),
    st.binary(max_size=200),
    st.lists(st.binary(min_size=32, max_size=32), max_size=11),
)
def test_opening_survives_the_wire(at: tuple[int, int, int], leaf: bytes, path: list[bytes]) -> None:
    opening = TileOpening(TilePosition(*at), leaf, tuple(path))
    assert TileOpening.from_wire(json.loads(json.dumps(opening.to_wire()))) == opening


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=5))
def test_commitment_survives_the_wire(roots: list[bytes]) -> None:
    commitment = MatmulCommitment(tuple(roots))
    assert MatmulCommitment.from_wire(json.loads(json.dumps(commitment.to_wire()))) == commitment


def test_tuples_of_a_frozen_model_are_taken_as_lists() -> None:
    assert MatmulCommitment.from_wire({"roots": (ROOT,)}) == MatmulCommitment((bytes.fromhex(ROOT),))
    params = MatmulParams(64, 1, openings=1)
    assert openings_from_wire(params, (OPENING.to_wire(),)) == (OPENING,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("at", [1, 2]),
        ("at", [1, 2, 3, 4]),
        ("at", [-1, 2, 3]),
        ("at", [1, 2, 1 << 60]),
        ("at", [1, 2, 10**400]),
        ("at", [1, 2, 4096]),
        ("at", [1, 2, math.nan]),
        ("at", [1, 2, 3.0]),
        ("at", [1, 2, True]),
        ("at", [1, 2, "3"]),
        ("at", [1, 2, None]),
        ("at", {"0": 1}),
        ("at", "123"),
        ("at", None),
        ("leaf", None),
        ("leaf", 5),
        ("leaf", b"AAAA"),
        ("leaf", ["AAAA"]),
        ("leaf", "AAA"),
        ("leaf", "AAAA\n"),
        ("leaf", "AA-_"),
        ("leaf", " AAAA"),
        ("leaf", "AB=="),  # the unused bits of B are not zero
        ("leaf", "AA==AA=="),
        ("leaf", "ÀAAA"),
        ("leaf", "A" * (LEAF_BYTES_MAX * 4 // 3 + 8)),
        ("path", "AAAA"),
        ("path", "A" * (PATH_BYTES_MAX * 4 // 3 + 8)),
        ("path", math.inf),
    ],
)
def test_a_broken_field_is_malformed(field: str, value: object) -> None:
    assert _reason_of_opening({**OPENING.to_wire(), field: value}) is RejectReason.MALFORMED


@pytest.mark.parametrize("value", [None, [], "{}", 3, {}, {"at": [0, 0, 0], "leaf": ""}, {1: 2, 3: 4, 5: 6}])
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
        {"roots": [ROOT[:-2] + " a"]},
        {"roots": [ROOT + "\n"]},
        {"roots": [5]},
        {"roots": [ROOT] * 4097},
        {"roots": [ROOT], "extra": 1},
    ],
)
def test_a_broken_commitment_is_malformed(value: object) -> None:
    with pytest.raises(ProofRejected, match="MALFORMED"):
        MatmulCommitment.from_wire(value)


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
        openings_from_wire(MatmulParams(64, 1, openings=2), value)
    assert caught.value.reason is reason


def test_refusals_do_not_repeat_what_the_miner_sent() -> None:
    """A megabyte of a peer's text must not reach our logs."""
    with pytest.raises(ProofRejected) as caught:
        TileOpening.from_wire({**OPENING.to_wire(), "leaf": "?" * 20000})
    assert len(str(caught.value)) < 300


def test_wire_is_below_100_kb_at_full_size() -> None:
    """At n = 16384 with 32 openings and the largest indices, in compact JSON."""
    params = MatmulParams(n=16384, rounds=4096)
    at = TilePosition(4095, 255, 255)
    opening = TileOpening(at, bytes(params.leaf_bytes), (bytes(32),) * path_length(params, 255))
    wire = json.dumps([opening.to_wire()] * params.openings, separators=(",", ":"))
    assert len(wire) <= 100_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n is"),
        ({"n": 32}, "n is"),
        ({"n": 65}, "n is"),
        ({"n": 32832}, "n is"),
        ({"rounds": 0}, "rounds is"),
        ({"rounds": 4097}, "rounds is"),
        ({"tile": 8}, "tile is"),
        ({"tile": 48}, "tile is"),
        ({"openings": 0}, "openings is"),
        ({"openings": 257}, "openings is"),
        ({"n": 32768, "rounds": 2049}, "digests take"),
    ],
)
def test_sizes_out_of_bounds_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MatmulParams(**{"n": 1024, "rounds": 4, **change})


@pytest.mark.parametrize("change", [{"n": 64}, {"n": 32768, "rounds": 2048}, {"rounds": 4096}, {"openings": 256}])
def test_sizes_at_the_bounds_are_taken(change: dict[str, Any]) -> None:
    MatmulParams(**{"n": 1024, "rounds": 4, **change})
