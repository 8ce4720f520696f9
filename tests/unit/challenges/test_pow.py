"""The proof of work end to end: an honest one passes, and the least change of any part fails with its reason."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from challenges.pow import PowCommitment, PowParams, check_nonces_shape, check_shares, share_prefix, share_value
from challenges.pow_solver import NumpyPowBackend, solve_pow
from polarise.errors import ProofRejected, RejectReason

SEED = bytes(range(32))
PARAMS = PowParams(shares=64, difficulty=100, slot=3)
ROOT_FOLDER = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def backend() -> NumpyPowBackend:
    return NumpyPowBackend(lanes=1024, calls=2)


@pytest.fixture(scope="module")
def nonces(backend: NumpyPowBackend) -> tuple[int, ...]:
    return solve_pow(PARAMS, SEED, backend).nonces


def _reason(nonces: tuple[int, ...], *, params: PowParams = PARAMS, seed: bytes = SEED) -> RejectReason | None:
    """Return the reason of the refusal, or None where the answer passes."""
    try:
        check_shares(params, seed, PowCommitment(nonces))
    except ProofRejected as rejected:
        return rejected.reason
    return None


def _first_shares(params: PowParams, seed: bytes) -> list[int]:
    """Say the definition once more, with nothing of ours but the parameters' numbers."""
    fields = b"".join(len(field).to_bytes(8, "big") + field for field in (b"polarise/pow/prefix/1", seed))
    prefix = hashlib.sha256(fields).digest() + bytes(10) + params.slot.to_bytes(2, "big")
    target = 2**64 // params.difficulty - 1
    shares: list[int] = []
    for nonce in itertools.count(params.slot * 2**48):
        digest = hashlib.sha256(prefix + nonce.to_bytes(8, "big")).digest()
        t32 = int.from_bytes(digest[28:32], "big")
        if t32 < target >> 32 or (t32 == target >> 32 and int.from_bytes(digest[24:28], "big") <= target % 2**32):
            shares.append(nonce)
        if len(shares) == params.shares:
            break
    return shares


@pytest.mark.parametrize(
    ("params", "seed", "offsets"),
    [
        (
            PowParams(16, 1000),
            SEED,
            [3446, 5047, 5664, 5842, 5981, 6298, 6706, 6933, 8451, 8706, 9461, 9605, 9723, 11900, 15404, 15516],
        ),
        (
            PowParams(16, 1000, slot=3),
            SEED,
            [1437, 1528, 4815, 6313, 9590, 9735, 10495, 11728, 12118, 12543, 12657, 12792, 13290, 13913, 14145, 16188],
        ),
        (
            PowParams(16, 37),
            bytes(32),
            [61, 91, 95, 236, 258, 329, 360, 388, 416, 475, 485, 565, 579, 674, 701, 706],
        ),
    ],
)
def test_known_answers(backend: NumpyPowBackend, params: PowParams, seed: bytes, offsets: list[int]) -> None:
    """Pinned: miners and validators of all versions must agree on every share."""
    found = solve_pow(params, seed, backend).nonces
    assert [nonce - params.nonces.start for nonce in found] == offsets
    assert list(found) == _first_shares(params, seed)


def test_prefix_is_pinned() -> None:
    prefix = share_prefix(PowParams(16, 1000, slot=3), SEED)
    assert prefix.hex() == "231ff67fb68727eb6756c4a61b48fc15a5cf6e25fabf6465c85fecfe45a93b42" + "0" * 23 + "3"


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(16, 40), st.integers(1, 300), st.integers(0, 65535))
def test_an_honest_proof_passes_for_any_size(seed: bytes, shares: int, difficulty: int, slot: int) -> None:
    params = PowParams(shares, difficulty, slot)
    work = solve_pow(params, seed, NumpyPowBackend(lanes=1024, calls=1))
    check_shares(params, seed, work.commitment)
    assert list(work.nonces) == _first_shares(params, seed)


def test_the_honest_answer_of_this_file_passes(nonces: tuple[int, ...]) -> None:
    assert _reason(nonces) is None


@pytest.mark.parametrize("index", [0, 31, 63])
def test_a_repeated_share_is_malformed(nonces: tuple[int, ...], index: int) -> None:
    """One share counted twice, in the place of its neighbour."""
    other = index - 1 if index else 1
    repeated = (*nonces[:other], nonces[index], *nonces[other + 1 :])
    assert _reason(repeated) is RejectReason.MALFORMED


def test_two_shares_in_another_order_are_malformed(nonces: tuple[int, ...]) -> None:
    assert _reason((*nonces[:10], nonces[11], nonces[10], *nonces[12:])) is RejectReason.MALFORMED
    assert _reason(nonces[::-1]) is RejectReason.MALFORMED


@pytest.mark.parametrize("shares", [0, 1, 63, 65])
def test_one_share_too_few_or_too_many_is_a_wrong_count(
    backend: NumpyPowBackend, nonces: tuple[int, ...], shares: int
) -> None:
    """The one too many is a good share."""
    more = solve_pow(dataclasses.replace(PARAMS, shares=65), SEED, backend).nonces
    assert more[:64] == nonces
    assert _reason(more[:shares]) is RejectReason.WRONG_COUNT


@pytest.mark.parametrize("nonce", [0, PARAMS.nonces.start - 1])
def test_a_nonce_below_the_slot_is_malformed(nonces: tuple[int, ...], nonce: int) -> None:
    assert _reason((nonce, *nonces[1:])) is RejectReason.MALFORMED


@pytest.mark.parametrize("nonce", [PARAMS.nonces.stop, 2**64 - 1])
def test_a_nonce_above_the_slot_is_malformed(nonces: tuple[int, ...], nonce: int) -> None:
    assert _reason((*nonces[:-1], nonce)) is RejectReason.MALFORMED


@pytest.mark.parametrize("nonce", [PARAMS.nonces.start, PARAMS.nonces.stop - 1])
def test_the_ends_of_the_slot_are_in_it(nonces: tuple[int, ...], nonce: int) -> None:
    """They are no shares here, which only their hash can tell."""
    assert _reason(tuple(sorted((nonce, *nonces[1:])))) is RejectReason.SHARE_INVALID


@pytest.mark.parametrize("index", [0, 31, 63])
def test_a_nonce_beside_a_share_is_invalid(nonces: tuple[int, ...], index: int) -> None:
    changed = (*nonces[:index], nonces[index] + 1, *nonces[index + 1 :])
    with pytest.raises(ProofRejected, match=f"SHARE_INVALID: share {index}, nonce {nonces[index] + 1}, misses"):
        check_shares(PARAMS, SEED, PowCommitment(changed))


def test_the_share_that_misses_the_target_by_one_is_invalid(nonces: tuple[int, ...]) -> None:
    """No difficulty has exactly these targets, so that they are set: the worst share's value, and that less one."""
    prefix = share_prefix(PARAMS, SEED)
    worst = max(share_value(prefix, nonce) for nonce in nonces)

    class WorstPasses(PowParams):
        target = worst

    class WorstMisses(PowParams):
        target = worst - 1

    assert _reason(nonces, params=WorstPasses(64, 100, 3)) is None
    assert _reason(nonces, params=WorstMisses(64, 100, 3)) is RejectReason.SHARE_INVALID


def test_the_difficulty_above_the_hardest_that_passes_is_not_met(nonces: tuple[int, ...]) -> None:
    """The difficulty at which the worst share still passes, and that plus one."""
    prefix = share_prefix(PARAMS, SEED)
    worst = max(share_value(prefix, nonce) for nonce in nonces)
    hardest = 2**64 // (worst + 1)
    assert _reason(nonces, params=dataclasses.replace(PARAMS, difficulty=hardest)) is None
    harder = dataclasses.replace(PARAMS, difficulty=hardest + 1)
    assert _reason(nonces, params=harder) is RejectReason.SHARE_INVALID


@pytest.mark.parametrize("bit", [0, 255])
def test_another_seed_breaks_the_shares(nonces: tuple[int, ...], bit: int) -> None:
    other = (int.from_bytes(SEED, "big") ^ 1 << bit).to_bytes(32, "big")
    assert _reason(nonces, seed=other) is RejectReason.SHARE_INVALID


def test_the_shares_of_another_slot_are_none_here(backend: NumpyPowBackend, nonces: tuple[int, ...]) -> None:
    """Neither as they stand nor moved into our slot: the slot is in the prefix too."""
    other = dataclasses.replace(PARAMS, slot=4)
    theirs = solve_pow(other, SEED, backend).nonces
    assert _reason(theirs) is RejectReason.MALFORMED
    moved = tuple(nonce - other.nonces.start + PARAMS.nonces.start for nonce in theirs)
    assert _reason(moved) is RejectReason.SHARE_INVALID
    assert _reason(nonces, params=other) is RejectReason.MALFORMED


def test_form_is_checked_before_anything_is_hashed(nonces: tuple[int, ...]) -> None:
    """A first share that is none, and a fault of form at the end: the form is named."""
    assert _reason((nonces[0] + 1, *nonces[1:-1], nonces[-2])) is RejectReason.MALFORMED
    with pytest.raises(ProofRejected, match="MALFORMED"):
        check_nonces_shape(PARAMS, PowCommitment((*nonces[:-1], nonces[-2])))
    check_nonces_shape(PARAMS, PowCommitment((nonces[0] + 1, *nonces[1:])))


def test_the_check_needs_hashlib_alone() -> None:
    """In a fresh interpreter where importing numpy fails."""
    program = """
import sys
sys.modules["numpy"] = None
from challenges.pow import PowCommitment, PowParams, check_shares
check_shares(PowParams(16, 1), bytes(32), PowCommitment.from_wire(PowCommitment(tuple(range(16))).to_wire()))
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT_FOLDER, timeout=60)
