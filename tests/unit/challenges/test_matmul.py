"""The matmul proof end to end: an honest one passes, and the least change of any part fails with its reason."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from challenges import digest, draw, matmul, prng
from challenges.matmul import MatmulCommitment, MatmulParams, TileOpening, TilePosition
from challenges.solver import MatmulWork, NumpyBackend, solve
from polarise import merkle
from polarise.errors import ProofRejected, RejectReason

SEED = bytes(range(32))
PARAMS = MatmulParams(n=192, rounds=4, tile=64, openings=6)
Positions = tuple[tuple[int, ...], ...]


@pytest.fixture(scope="module")
def work() -> MatmulWork:
    return solve(PARAMS, SEED, NumpyBackend())


@pytest.fixture(scope="module")
def positions() -> Positions:
    return draw.draw_positions(
        SEED, "GPU-0", draw.ChallengeKind.MATMUL, b"signed", bounds=PARAMS.bounds, count=PARAMS.openings
    )


def _reason(
    positions: Positions,
    openings: list[TileOpening],
    roots: tuple[bytes, ...],
    *,
    params: MatmulParams = PARAMS,
    seed: bytes = SEED,
) -> RejectReason | None:
    """Return the reason of the refusal, or None where the answer passes."""
    try:
        matmul.check_openings(params, seed, MatmulCommitment(roots), positions, openings)
    except ProofRejected as rejected:
        return rejected.reason
    return None


def _flip(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")


@pytest.mark.parametrize(
    ("n", "rounds", "tile"), [(64, 1, 64), (64, 3, 64), (128, 2, 16), (192, 4, 64), (320, 2, 32), (256, 2, 128)]
)
def test_an_honest_proof_passes_for_any_size(n: int, rounds: int, tile: int) -> None:
    params = MatmulParams(n, rounds, tile, openings=3)
    work = solve(params, SEED, NumpyBackend())
    every = [(r, i, j) for r in range(rounds) for i in range(n // tile) for j in range(n // tile)]
    matmul.check_openings(params, SEED, work.commitment, every, work.open(every))


@pytest.mark.parametrize(
    ("n", "roots"),
    [
        (
            64,
            [
                "611ffb73f2db2a74487336738b93f2e791873e0b9351bde62ca158c689de77a4",
                "81561adbe978f1a530a372975f1b4649c62fd5c3c54a8aaad92950eab5c79e2a",
                "bb45591665968162ab6f48c3229fb31e15433b9ac8f38ef89c578b0a2c166155",
            ],
        ),
        (
            128,
            [
                "7247c10ac32d2764c8a4a29a72fc89628045deeb39f508588b1d0d6e37813ac3",
                "fba19f0d9e253a6e34b91627f31670f104c9451c023e7d4f17e374e14f3c3bd0",
                "1778f829dd023b938fd6f62705efbd4e92ab72f948a4d7719308cbd1d908389f",
            ],
        ),
    ],
)
def test_known_answers(n: int, roots: list[str]) -> None:
    """Pinned: miners and validators of all versions must agree on every bit."""
    work = solve(MatmulParams(n, rounds=3, tile=64, openings=1), SEED, NumpyBackend())
    assert [root.hex() for root in work.roots] == roots


def test_digests_are_those_of_the_exact_integer_product(work: MatmulWork) -> None:
    keys = prng.round_keys(matmul.round_seeds(PARAMS, SEED, work.roots)[2], PARAMS.n)
    a = prng.a_rows(keys, 0, PARAMS.n).astype(np.int64)
    b = prng.b_columns_transposed(keys, 0, PARAMS.n).T.astype(np.int64)
    exact = (a @ b).astype(np.float32)
    lanes = digest.tile_digests(exact, keys.digest_row, keys.digest_column, PARAMS.tile)
    assert np.array_equal(work.digests[2], lanes)


def test_round_seeds_wait_for_the_root_before_the_last(work: MatmulWork) -> None:
    """Round r cannot be known before round r - 2 is done, and it can be known while round r - 1 still runs."""
    seeds = matmul.round_seeds(PARAMS, SEED, work.roots)
    assert len(set(seeds)) == PARAMS.rounds
    for changed in range(PARAMS.rounds):
        roots = [_flip(root, 0) if index == changed else root for index, root in enumerate(work.roots)]
        other = matmul.round_seeds(PARAMS, SEED, roots)
        assert [before == after for before, after in zip(seeds, other, strict=True)] == [
            index < changed + 2 for index in range(PARAMS.rounds)
        ]


def test_one_opening_is_checked_on_its_own(work: MatmulWork) -> None:
    opening = work.open([(3, 2, 1)])[0]
    round_seed = matmul.round_seeds(PARAMS, SEED, work.roots)[3]
    matmul.check_opening(PARAMS, round_seed, work.roots[3], (3, 2, 1), opening)
    with pytest.raises(ProofRejected, match="TILE_MISMATCH"):
        matmul.check_opening(PARAMS, _flip(round_seed, 0), work.roots[3], (3, 2, 1), opening)


def test_the_honest_answer_of_this_file_passes(work: MatmulWork, positions: Positions) -> None:
    assert _reason(positions, work.open(positions), work.roots) is None


@pytest.mark.parametrize("bit", [0, 63, 191])
def test_a_flipped_bit_in_a_leaf_breaks_its_path(work: MatmulWork, positions: Positions, bit: int) -> None:
    openings = work.open(positions)
    openings[2] = dataclasses.replace(openings[2], leaf=_flip(openings[2].leaf, bit))
    assert _reason(positions, openings, work.roots) is RejectReason.BAD_MERKLE_PATH


def test_a_flipped_bit_in_a_path_breaks_it(work: MatmulWork, positions: Positions) -> None:
    openings = work.open(positions)
    path = openings[1].path
    openings[1] = dataclasses.replace(openings[1], path=(_flip(path[0], 5), *path[1:]))
    assert _reason(positions, openings, work.roots) is RejectReason.BAD_MERKLE_PATH


@pytest.mark.parametrize("change", [(), (bytes(32), bytes(32), bytes(32)), (b"short", b"short")])
def test_a_path_of_wrong_length_is_refused(work: MatmulWork, change: tuple[bytes, ...]) -> None:
    opening = dataclasses.replace(work.open([(0, 0, 0)])[0], path=change)
    assert _reason(((0, 0, 0),), [opening], work.roots) is RejectReason.BAD_MERKLE_PATH


def test_a_flipped_bit_in_a_root_breaks_the_paths_of_its_round(work: MatmulWork) -> None:
    roots = (_flip(work.roots[0], 0), *work.roots[1:])
    assert _reason(((0, 1, 1),), work.open([(0, 1, 1)]), roots) is RejectReason.BAD_MERKLE_PATH


def test_a_flipped_bit_in_an_early_root_breaks_the_tiles_of_later_rounds(work: MatmulWork) -> None:
    roots = (_flip(work.roots[0], 0), *work.roots[1:])
    assert _reason(((2, 1, 1),), work.open([(2, 1, 1)]), roots) is RejectReason.TILE_MISMATCH


def test_another_seed_breaks_the_tiles(work: MatmulWork, positions: Positions) -> None:
    """A replayed proof, or one made for another identity, is right for another seed only."""
    openings = work.open(positions)
    assert _reason(positions, openings, work.roots, seed=_flip(SEED, 0)) is RejectReason.TILE_MISMATCH


@pytest.mark.parametrize("other", [(0, 0, 1), (0, 1, 0), (1, 0, 0), (-1, 0, 0), (0, 0, 1 << 40)])
def test_an_opening_of_another_tile_is_malformed(work: MatmulWork, other: tuple[int, int, int]) -> None:
    opening = dataclasses.replace(work.open([(0, 0, 0)])[0], position=TilePosition(*other))
    assert _reason(((0, 0, 0),), [opening], work.roots) is RejectReason.MALFORMED


def test_the_right_leaf_of_another_row_is_a_bad_path(work: MatmulWork) -> None:
    opening = dataclasses.replace(work.open([(0, 1, 0)])[0], position=TilePosition(0, 0, 0))
    assert _reason(((0, 0, 0),), [opening], work.roots) is RejectReason.BAD_MERKLE_PATH


def test_openings_in_another_order_are_malformed(work: MatmulWork, positions: Positions) -> None:
    assert _reason(positions, work.open(positions)[::-1], work.roots) is RejectReason.MALFORMED


@pytest.mark.parametrize("count", [0, 5, 7])
def test_one_opening_too_few_or_too_many_is_a_wrong_count(work: MatmulWork, positions: Positions, count: int) -> None:
    openings = (work.open(positions) * 2)[:count]
    assert _reason(positions, openings, work.roots) is RejectReason.WRONG_COUNT


@pytest.mark.parametrize("count", [0, 3, 5])
def test_one_root_too_few_or_too_many_is_a_wrong_count(work: MatmulWork, count: int) -> None:
    commitment = MatmulCommitment((work.roots * 2)[:count])
    with pytest.raises(ProofRejected, match="WRONG_COUNT"):
        matmul.check_roots_shape(PARAMS, commitment)


def test_a_root_of_31_bytes_is_malformed(work: MatmulWork) -> None:
    commitment = MatmulCommitment((work.roots[0][:31], *work.roots[1:]))
    with pytest.raises(ProofRejected, match="MALFORMED"):
        matmul.check_roots_shape(PARAMS, commitment)


@pytest.mark.parametrize("change", [-1, 1, 8, -8])
def test_a_leaf_of_wrong_length_is_malformed(work: MatmulWork, change: int) -> None:
    opening = work.open([(0, 0, 0)])[0]
    leaf = (opening.leaf + bytes(8))[: len(opening.leaf) + change]
    assert _reason(((0, 0, 0),), [dataclasses.replace(opening, leaf=leaf)], work.roots) is RejectReason.MALFORMED


def test_a_committed_wrong_digest_is_a_tile_mismatch_in_that_tile_only(work: MatmulWork) -> None:
    """The tree is built over the wrong digest, so that all hashes fit and only the arithmetic can tell."""
    lanes = work.digests[3].copy()
    lanes[1, 2, 0] ^= 1
    forged = MatmulWork(PARAMS, work.roots, (*work.digests[:3], lanes))
    leaves = [row.astype("<u4").tobytes() for row in lanes]
    roots = (*work.roots[:3], merkle.root(leaves))
    assert _reason(((3, 1, 2),), forged.open([(3, 1, 2)]), roots) is RejectReason.TILE_MISMATCH
    assert _reason(((3, 1, 1),), forged.open([(3, 1, 1)]), roots) is None


@pytest.mark.parametrize("position", [(4, 0, 0), (0, 3, 0), (0, 0, 3), (-1, 0, 0)])
def test_asking_outside_the_proof_is_our_own_error(work: MatmulWork, position: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="outside"):
        matmul.check_openings(PARAMS, SEED, work.commitment, [position], work.open([(0, 0, 0)]))
    with pytest.raises(ValueError, match="outside"):
        work.open([position])


def test_other_sizes_give_another_seed() -> None:
    encodings = {
        hashlib.sha256(MatmulParams(n, rounds, tile, openings).encode()).digest()
        for n in (128, 256)
        for rounds in (1, 2)
        for tile in (32, 64)
        for openings in (1, 32)
    }
    assert len(encodings) == 16
