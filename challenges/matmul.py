"""The matmul proof: chained rounds of exact integer products, checked by recomputing a few tiles.

Rules:
- Round r multiplies A [n, n] by B [n, n], both made from the round's seed; the miner commits to a nonlinear digest of
  every tile of the product (`challenges.digest`) with one Merkle root per round. A leaf is one row of tiles.
- The seed of round r hashes the seed of round r - 1 and the root of round r - 2. A device therefore cannot start many
  rounds ahead, and yet it never waits for the host: while it computes round r - 1, the host hashes round r - 2. The
  price of this lag is that two rounds may be in flight at once, on two devices too; the same is true of the halves of
  one product, so that the proof measures what a miner can reach, not in how many boxes it stands.
- Openings are drawn after the commitment (`draw.draw_positions`). A miner that skipped a fraction f of the tiles
  passes s openings with probability (1 - f)**s: f = 0.1, s = 32 gives 0.03. A failed proof is not repeated.
- The check needs hashlib and numpy. A tile costs 2·b²·n operations where the round cost 2·n³, and making its operands
  costs b·n mixes on either side; nothing grows with the number of rounds but the 32-byte roots.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Sequence

from challenges import digest, prng
from challenges.draw import encode_fields
from challenges.matmul_messages import (
    MatmulCommitment,
    MatmulParams,
    TileOpening,
    TilePosition,
    openings_from_wire,
    path_length,
)
from challenges.tile_recomputer import TileRecomputer
from polarise import merkle
from polarise.errors import ProofRejected, RejectReason

__all__ = [
    "MatmulCommitment",
    "MatmulParams",
    "TileOpening",
    "TilePosition",
    "check_opening",
    "check_openings",
    "check_roots_shape",
    "next_round_seed",
    "openings_from_wire",
    "round_seeds",
]

LAG_ROUNDS = 2

_ROUND_DOMAIN = b"polarise/matmul/round/1"
_NO_SEED = bytes(32)


def round_seeds(params: MatmulParams, seed: bytes, roots: Sequence[bytes]) -> list[bytes]:
    """Return the seed of every round, given the committed roots (the last two of which seed nothing)."""
    seeds: list[bytes] = []
    for _ in range(params.rounds):
        seeds.append(next_round_seed(seed, seeds, roots))
    return seeds


def next_round_seed(seed: bytes, seeds: Sequence[bytes], roots: Sequence[bytes]) -> bytes:
    """Return the seed of round r = len(seeds).

    Args:
        seed: Seed of the challenge, 32 bytes.
        seeds: Seeds of all rounds before.
        roots: Roots known so far, those of rounds 0..r - 2 at least.
    """
    index = len(seeds)
    previous = seeds[-1] if seeds else _NO_SEED
    root = roots[index - LAG_ROUNDS] if index >= LAG_ROUNDS else merkle.EMPTY_ROOT
    return hashlib.sha256(encode_fields(_ROUND_DOMAIN, seed, index, previous, root)).digest()


def check_roots_shape(params: MatmulParams, commitment: MatmulCommitment) -> None:
    """Check that there is one root of 32 bytes per round; to be called before positions are drawn.

    Raises:
        ProofRejected: WRONG_COUNT or MALFORMED.
    """
    if len(commitment.roots) != params.rounds:
        raise ProofRejected(
            RejectReason.WRONG_COUNT, "number of roots differs", got=len(commitment.roots), expected=params.rounds
        )
    for root in commitment.roots:
        if len(root) != merkle.HASH_BYTES:
            raise ProofRejected(RejectReason.MALFORMED, "a root is not a hash", expected=f"{merkle.HASH_BYTES} bytes")


def check_openings(
    params: MatmulParams,
    seed: bytes,
    commitment: MatmulCommitment,
    positions: Sequence[Sequence[int]],
    openings: Sequence[TileOpening],
) -> None:
    """Check a whole answer: all that is cheap first, then every opened tile, bit for bit.

    At n = 16384 with 32 openings in as many rounds 0.085 s of one Zen 5 core: two fifths making operands, two fifths
    multiplying, the rest reading keys.

    Args:
        params: As the validator sent them.
        seed: Seed of the challenge, as the validator derived it.
        commitment: What the miner signed before it knew the positions.
        positions: As `draw.draw_positions` gave them, (round, tile row, tile column) each.
        openings: The miner's answer in the order of the positions; untrusted.

    Raises:
        ProofRejected: WRONG_COUNT, MALFORMED, BAD_MERKLE_PATH or TILE_MISMATCH, with the position that failed.
        ValueError: A position is outside the proof, which is our own error.
    """
    check_roots_shape(params, commitment)
    if len(openings) != len(positions):
        raise ProofRejected(
            RejectReason.WRONG_COUNT, "number of openings differs", got=len(openings), expected=len(positions)
        )
    asked = [_own_position(params, position) for position in positions]
    for position, opening in zip(asked, openings, strict=True):
        _check_path(params, commitment.roots[position.round_index], position, opening)
    seeds = round_seeds(params, seed, commitment.roots)
    recomputer = TileRecomputer(params)
    # Round by round, so that the keys of one round are read once and only one round's keys are held.
    by_round = sorted(zip(asked, openings, strict=True), key=lambda pair: pair[0])
    for round_index, answered in itertools.groupby(by_round, key=lambda pair: pair[0].round_index):
        answers = list(answered)
        keys = _keys_up_to(params, seeds[round_index], [position for position, _ in answers])
        for position, opening in answers:
            _check_tile(params, recomputer.product(keys, position), keys, position, opening)


def check_opening(
    params: MatmulParams, round_seed: bytes, root: bytes, position: Sequence[int], opening: TileOpening
) -> None:
    """Check one opening on its own, for a verifier that spreads openings over processes.

    Args:
        params: As the validator sent them.
        round_seed: Seed of the opened round, from `round_seeds`.
        root: Committed root of the opened round.
        position: The tile that was asked for.
        opening: The miner's answer; untrusted.

    Raises:
        ProofRejected: MALFORMED, BAD_MERKLE_PATH or TILE_MISMATCH.
    """
    asked = _own_position(params, position)
    _check_path(params, root, asked, opening)
    keys = _keys_up_to(params, round_seed, [asked])
    _check_tile(params, TileRecomputer(params).product(keys, asked), keys, asked, opening)


def _own_position(params: MatmulParams, position: Sequence[int]) -> TilePosition:
    asked = TilePosition(*position)
    if not all(0 <= number < bound for number, bound in zip(asked, params.bounds, strict=True)):
        raise ValueError(f"position {tuple(asked)} is outside {params.bounds}")
    return asked


def _check_path(params: MatmulParams, root: bytes, position: TilePosition, opening: TileOpening) -> None:
    if opening.position != position:
        raise ProofRejected(
            RejectReason.MALFORMED, "opening is for another tile", got=tuple(opening.position), expected=tuple(position)
        )
    if len(opening.leaf) != params.leaf_bytes:
        raise ProofRejected(
            RejectReason.MALFORMED, "leaf length differs", got=len(opening.leaf), expected=params.leaf_bytes
        )
    hashes = path_length(params, position.tile_row)
    if len(opening.path) != hashes:
        raise ProofRejected(RejectReason.BAD_MERKLE_PATH, "path length differs", got=len(opening.path), expected=hashes)
    try:
        leaf = merkle.leaf_hash(opening.leaf)
        merkle.verify_inclusion(leaf, position.tile_row, params.tiles_per_side, opening.path, root)
    except merkle.InvalidProof as err:
        raise ProofRejected(RejectReason.BAD_MERKLE_PATH, f"tile {tuple(position)}: {err}") from err


def _keys_up_to(params: MatmulParams, round_seed: bytes, positions: Sequence[TilePosition]) -> prng.RoundKeys:
    """Read the keys of one round as far as the last of these tiles."""
    rows = (max(position.tile_row for position in positions) + 1) * params.tile
    columns = (max(position.tile_column for position in positions) + 1) * params.tile
    return prng.round_keys(round_seed, params.n, rows=rows, columns=columns)


def _check_tile(
    params: MatmulParams,
    product: prng.Float32Array,
    keys: prng.RoundKeys,
    position: TilePosition,
    opening: TileOpening,
) -> None:
    row, column = position.tile_row * params.tile, position.tile_column * params.tile
    expected = digest.tile_digest_bytes(product, keys, row, column)
    start = position.tile_column * digest.DIGEST_BYTES
    committed = opening.leaf[start : start + digest.DIGEST_BYTES]
    if not hmac.compare_digest(committed, expected):
        raise ProofRejected(
            RejectReason.TILE_MISMATCH,
            f"tile {tuple(position)} is not the product of its operands",
            got=committed.hex(),
            expected=expected.hex(),
        )
