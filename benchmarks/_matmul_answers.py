"""Answers to a matmul proof as JSON text: made by a whole work, or by computing nothing but the tiles that are opened.

Rules:
- The second kind takes knowing the positions beforehand, which no miner does; it makes proofs to check whose work would
  take a CPU minutes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from challenges import digest, draw, prng
from challenges.matmul import MatmulCommitment, MatmulParams, check_openings, next_round_seed, openings_from_wire
from challenges.solver import MatmulWork, round_leaves
from polarise import merkle


@dataclass(frozen=True, slots=True)
class Answer:
    """What a miner sends for one proof, as JSON text, and the positions it was asked for."""

    params: MatmulParams
    seed: bytes
    commitment: str
    openings: str
    positions: tuple[tuple[int, ...], ...]


def answer_of(work: MatmulWork, seed: bytes) -> Answer:
    """Return what a miner would send for that work."""
    return _answer(work, seed, _draw(work.params, repr(work.commitment).encode()))


def sketch(params: MatmulParams) -> Answer:
    """Return an answer that passes the check, made from the opened tiles alone; all other digests are 0."""
    seed, positions = bytes(32), _draw(params, b"known beforehand")
    seeds: list[bytes] = []
    roots: list[bytes] = []
    digests: list[prng.UInt32Array] = []
    blank = np.zeros((params.tiles_per_side, params.tiles_per_side, digest.LANES), dtype=np.uint32)
    for round_index in range(params.rounds):
        seeds.append(next_round_seed(seed, seeds, roots))
        tiles = [(row, column) for index, row, column in positions if index == round_index]
        digests.append(_with_tiles(params, seeds[-1], blank, tiles) if tiles else blank)
        roots.append(merkle.root(round_leaves(digests[-1])))
    return _answer(MatmulWork(params, tuple(roots), tuple(digests)), seed, positions)


def verify(answer: Answer) -> tuple[int, int]:
    """Check an answer from its JSON text; return the nanoseconds it took, by the clock and of processor time."""
    started, cpu_started = time.perf_counter_ns(), time.process_time_ns()
    commitment = MatmulCommitment.from_wire(json.loads(answer.commitment))
    openings = openings_from_wire(answer.params, json.loads(answer.openings))
    check_openings(answer.params, answer.seed, commitment, answer.positions, openings)
    return time.perf_counter_ns() - started, time.process_time_ns() - cpu_started


def _with_tiles(
    params: MatmulParams, round_seed: bytes, blank: prng.UInt32Array, tiles: Sequence[tuple[int, int]]
) -> prng.UInt32Array:
    keys, lanes, side = prng.round_keys(round_seed, params.n), blank.copy(), params.tile
    for row, column in tiles:
        top, left = row * side, column * side
        product = prng.a_rows(keys, top, top + side) @ prng.b_columns_transposed(keys, left, left + side).T
        lanes[row, column] = np.frombuffer(digest.tile_digest_bytes(product, keys, top, left), dtype="<u4")
    return lanes


def _answer(work: MatmulWork, seed: bytes, positions: tuple[tuple[int, ...], ...]) -> Answer:
    return Answer(
        work.params,
        seed,
        json.dumps(work.commitment.to_wire(), separators=(",", ":")),
        json.dumps([opening.to_wire() for opening in work.open(positions)], separators=(",", ":")),
        positions,
    )


def _draw(params: MatmulParams, signed_commitment: bytes) -> tuple[tuple[int, ...], ...]:
    return draw.draw_positions(
        bytes(draw.KEY_BYTES),
        "benchmark",
        draw.ChallengeKind.MATMUL,
        signed_commitment,
        bounds=params.bounds,
        count=params.openings,
    )
