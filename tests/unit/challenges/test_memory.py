"""The memory proof end to end: an honest one passes, and the least change of any part fails with its reason."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from challenges import draw, memory
from challenges.memory import BlockOpening, BlockPosition, MemoryCommitment, MemoryParams
from challenges.memory_backends import NumpyMemoryBackend, make_blocks
from challenges.memory_digest import BLOCK_WORDS
from challenges.memory_solver import MemoryWork, solve_memory
from polarise.errors import ProofRejected, RejectReason

SEED = bytes(range(32))
FILL_SEED = bytes(range(32, 64))
# Two leaves, the second with one block.
PARAMS = MemoryParams(blocks=513, hashes=1, passes=3, openings=6)
Positions = tuple[tuple[int, ...], ...]


def _solve(params: MemoryParams, fill_seed: bytes = FILL_SEED, seed: bytes = SEED) -> MemoryWork:
    backend = NumpyMemoryBackend()
    backend.fill(params, fill_seed)
    return solve_memory(params, fill_seed, seed, backend)


@pytest.fixture(scope="module")
def work() -> MemoryWork:
    return _solve(PARAMS)


@pytest.fixture(scope="module")
def positions() -> Positions:
    return draw.draw_positions(
        SEED, "GPU-0", draw.ChallengeKind.MEMORY, b"signed", bounds=PARAMS.bounds, count=PARAMS.openings
    )


def _reason(
    positions: Positions,
    openings: list[BlockOpening],
    roots: tuple[bytes, ...],
    *,
    params: MemoryParams = PARAMS,
    fill_seed: bytes = FILL_SEED,
    seed: bytes = SEED,
) -> RejectReason | None:
    """Return the reason of the refusal, or None where the answer passes."""
    try:
        memory.check_block_openings(params, fill_seed, seed, MemoryCommitment(roots), positions, openings)
    except ProofRejected as rejected:
        return rejected.reason
    return None


def _flip(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")


@pytest.mark.parametrize(("blocks", "hashes", "passes"), [(8, 1, 1), (8, 3, 2), (19, 2, 4)])
def test_an_honest_proof_passes_for_any_size(blocks: int, hashes: int, passes: int) -> None:
    params = MemoryParams(blocks, hashes, passes, openings=1)
    work = _solve(params)
    every = [(pass_index, block) for pass_index in range(passes) for block in range(blocks)]
    memory.check_block_openings(params, FILL_SEED, SEED, work.commitment, every, work.open(every))


def test_known_answers() -> None:
    """Pinned: miners and validators of all versions must agree on every bit."""
    work = _solve(MemoryParams(blocks=8, hashes=3, passes=3, openings=1))
    assert [root.hex() for root in work.roots] == [
        "a20110fe1f95f754cedccc8d25498cb77240290c7b6dc43c37ad05de5cc7a843",
        "a0f0572fece0beabbbfbe7f393858d43bf239f31bcb6301e0aad6d8cd6e984f1",
        "65f2214d5a95d5cdda223cf9a172c95f36c0ee23a3dd20dc9ddfb313628dfef6",
    ]


def test_units_are_hashed_as_often_as_asked() -> None:
    """Each of 32 bytes is sha256 applied k times to 24 bytes that follow from the fill seed, and the unit's number."""
    params = MemoryParams(blocks=8, hashes=5, passes=1)
    domain = b"polarise/memory/units/1"
    fields = len(domain).to_bytes(8, "big") + domain + (32).to_bytes(8, "big") + FILL_SEED
    value = hashlib.sha256(fields).digest()[:24] + (2048 * 7 + 3).to_bytes(8, "big")
    for _ in range(5):
        value = hashlib.sha256(value).digest()
    words = memory.block_words(params, FILL_SEED, 7)
    assert words[3 * 8 : 4 * 8].astype(">u4").tobytes() == value


@pytest.mark.parametrize(("first", "count"), [(0, 1), (3, 20), ((1 << 21) - 5, 10)])
def test_blocks_filled_by_numpy_are_those_made_by_hashlib(first: int, count: int) -> None:
    """From a block that is no multiple of the lanes, and across 2**32 units."""
    params = MemoryParams(blocks=1 << 22, hashes=2, passes=1)
    filled = np.empty((count, BLOCK_WORDS), dtype=np.uint32)
    make_blocks(params, FILL_SEED, first, filled)
    for index in (0, count // 2, count - 1):
        assert np.array_equal(filled[index], memory.block_words(params, FILL_SEED, first + index))


def test_keys_wait_for_every_root_before(work: MemoryWork) -> None:
    """Pass p cannot be begun before pass p - 1 is done, and pass 0 not before the seed is known."""
    keys = memory.pass_keys(PARAMS, FILL_SEED, SEED, work.roots)
    assert tuple(keys) == work.keys
    assert len(set(keys)) == PARAMS.passes
    for changed in range(PARAMS.passes):
        roots = [_flip(root, 0) if index == changed else root for index, root in enumerate(work.roots)]
        other = memory.pass_keys(PARAMS, FILL_SEED, SEED, roots)
        assert [before == after for before, after in zip(keys, other, strict=True)] == [
            index <= changed for index in range(PARAMS.passes)
        ]
    assert memory.first_pass_key(FILL_SEED, _flip(SEED, 0)) != keys[0]
    assert memory.first_pass_key(_flip(FILL_SEED, 0), SEED) != keys[0]


def test_the_honest_answer_of_this_file_passes(work: MemoryWork, positions: Positions) -> None:
    assert _reason(positions, work.open(positions), work.roots) is None


def test_the_last_and_smallest_leaf_opens(work: MemoryWork) -> None:
    opening = work.open([(2, 512)])[0]
    assert len(opening.leaf) == 8
    assert _reason(((2, 512),), [opening], work.roots) is None


@pytest.mark.parametrize("bit", [0, 63, 4095])
def test_a_flipped_bit_in_a_leaf_breaks_its_path(work: MemoryWork, bit: int) -> None:
    opening = work.open([(1, 5)])[0]
    opening = dataclasses.replace(opening, leaf=_flip(opening.leaf, bit))
    assert _reason(((1, 5),), [opening], work.roots) is RejectReason.BAD_MERKLE_PATH


def test_a_flipped_bit_in_a_path_breaks_it(work: MemoryWork) -> None:
    opening = work.open([(1, 5)])[0]
    opening = dataclasses.replace(opening, path=(_flip(opening.path[0], 5),))
    assert _reason(((1, 5),), [opening], work.roots) is RejectReason.BAD_MERKLE_PATH


@pytest.mark.parametrize("change", [(), (bytes(32), bytes(32)), (b"short",)])
def test_a_path_of_wrong_length_is_refused(work: MemoryWork, change: tuple[bytes, ...]) -> None:
    opening = dataclasses.replace(work.open([(0, 0)])[0], path=change)
    assert _reason(((0, 0),), [opening], work.roots) is RejectReason.BAD_MERKLE_PATH


@pytest.mark.parametrize("change", [-8, -1, 8])
def test_a_leaf_of_wrong_length_is_malformed(work: MemoryWork, change: int) -> None:
    opening = work.open([(0, 0)])[0]
    opening = dataclasses.replace(opening, leaf=(opening.leaf + bytes(8))[: len(opening.leaf) + change])
    assert _reason(((0, 0),), [opening], work.roots) is RejectReason.MALFORMED


def test_a_flipped_bit_in_a_root_breaks_its_paths_and_the_keys_after_it(work: MemoryWork) -> None:
    roots = (_flip(work.roots[0], 0), *work.roots[1:])
    assert _reason(((0, 1),), work.open([(0, 1)]), roots) is RejectReason.BAD_MERKLE_PATH
    assert _reason(((1, 1),), work.open([(1, 1)]), roots) is RejectReason.BLOCK_MISMATCH


def test_another_seed_breaks_the_digests(work: MemoryWork, positions: Positions) -> None:
    """A replayed proof is right for another seed only, and memory of another fill holds other units."""
    openings = work.open(positions)
    assert _reason(positions, openings, work.roots, seed=_flip(SEED, 0)) is RejectReason.BLOCK_MISMATCH
    assert _reason(positions, openings, work.roots, fill_seed=_flip(FILL_SEED, 0)) is RejectReason.BLOCK_MISMATCH


def test_units_hashed_once_too_few_break_the_digests() -> None:
    asked, done = (MemoryParams(blocks=8, hashes=hashes, passes=1, openings=1) for hashes in (4, 3))
    work = _solve(done)
    assert _reason(((0, 3),), work.open([(0, 3)]), work.roots, params=done) is None
    assert _reason(((0, 3),), work.open([(0, 3)]), work.roots, params=asked) is RejectReason.BLOCK_MISMATCH


@pytest.mark.parametrize("other", [(0, 1), (1, 0), (-1, 0), (0, 1 << 40)])
def test_an_opening_of_another_block_is_malformed(work: MemoryWork, other: tuple[int, int]) -> None:
    opening = dataclasses.replace(work.open([(0, 0)])[0], position=BlockPosition(*other))
    assert _reason(((0, 0),), [opening], work.roots) is RejectReason.MALFORMED


def test_the_right_leaf_of_another_pass_is_a_bad_path(work: MemoryWork) -> None:
    opening = dataclasses.replace(work.open([(0, 1)])[0], position=BlockPosition(1, 1))
    assert _reason(((1, 1),), [opening], work.roots) is RejectReason.BAD_MERKLE_PATH


def test_openings_in_another_order_are_malformed(work: MemoryWork, positions: Positions) -> None:
    assert _reason(positions, work.open(positions)[::-1], work.roots) is RejectReason.MALFORMED


@pytest.mark.parametrize("count", [0, 5, 7])
def test_one_opening_too_few_or_too_many_is_a_wrong_count(work: MemoryWork, positions: Positions, count: int) -> None:
    openings = (work.open(positions) * 2)[:count]
    assert _reason(positions, openings, work.roots) is RejectReason.WRONG_COUNT


@pytest.mark.parametrize("count", [0, 2, 4])
def test_one_root_too_few_or_too_many_is_a_wrong_count(work: MemoryWork, count: int) -> None:
    with pytest.raises(ProofRejected, match="WRONG_COUNT"):
        memory.check_pass_roots(PARAMS, MemoryCommitment((work.roots * 2)[:count]))


def test_a_root_of_31_bytes_is_malformed(work: MemoryWork) -> None:
    with pytest.raises(ProofRejected, match="MALFORMED"):
        memory.check_pass_roots(PARAMS, MemoryCommitment((work.roots[0][:31], *work.roots[1:])))


def test_a_position_outside_the_proof_is_our_own_error(work: MemoryWork) -> None:
    with pytest.raises(ValueError, match="outside"):
        memory.check_block_openings(PARAMS, FILL_SEED, SEED, work.commitment, [(0, PARAMS.blocks)], work.open([(0, 0)]))
