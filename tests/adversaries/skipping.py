"""Miners that leave out a share of the tiles, hang up when they are asked for one of these, or try other commitments first."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from challenges import prng
from challenges.matmul import MatmulParams
from challenges.proofs import Work
from challenges.solver import MatmulWork, NumpyBackend, round_leaves, solve
from neurons.validator.challenges import Challenge
from neurons.validator.proof_trace import signed_bytes
from polarise import merkle
from polarise.errors import RejectReason, Unavailable
from polarise.statement import SignedStatement
from tests.adversaries.cheat import Cheat
from tests.adversaries.exam import Player, Positions, SignedWork, body_of, commitment
from tests.adversaries.odds import caught_by_openings
from tests.adversaries.proofs import AnswerCheat, Product, ProverCheat, honest_work, matmul_params

Tile = tuple[int, int, int]

HYPERGEOMETRIC = "1 - C(T-m, s) / C(T, s)"
# Two rounds seed nothing from a root, so that a new root costs nothing; few openings, so that many plays pass.
GRINDING = MatmulParams(n=128, rounds=2, tile=16, openings=8)
TRIES = 64


def skipped_tiles(rng: random.Random, params: MatmulParams, share: float) -> list[Tile]:
    """Choose which tiles of all rounds are left out."""
    side = params.tiles_per_side
    tiles = [(index, row, column) for index in range(params.rounds) for row in range(side) for column in range(side)]
    return rng.sample(tiles, skipped_count(params, share))


def skipped_count(params: MatmulParams, share: float) -> int:
    """Return how many tiles are a share of all."""
    return round(share * tiles_count(params))


def tiles_count(params: MatmulParams) -> int:
    """Return the tiles of all rounds."""
    return params.rounds * params.tiles_per_side**2


def chance(params: MatmulParams, share: float) -> float:
    """Return how often a miner that left out this share is caught."""
    return caught_by_openings(tiles_count(params), skipped_count(params, share), params.openings)


class SkippingBackend(NumpyBackend):
    """Leaves some tiles of each product zero."""

    def __init__(self, params: MatmulParams, skipped: Collection[Tile]) -> None:
        self._tile = params.tile
        self._skipped = skipped
        self._round = -1

    def multiply(self, a: Product, b: Product) -> Product:
        """Multiply, and take out what would not have been computed."""
        product = super().multiply(a, b)
        self._round += 1
        for index, row, column in self._skipped:
            if index == self._round:
                top, left = row * self._tile, column * self._tile
                product[top : top + self._tile, left : left + self._tile] = 0
        return product


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSkipper(ProverCheat):
    """A miner that saves a share of the work.

    Args:
        share: Of the tiles that are never computed.
    """

    share: float

    def solve(self, challenge: Challenge, rng: random.Random, seed: bytes) -> Work:
        """Compute the others."""
        params = matmul_params(challenge)
        return solve(params, seed, SkippingBackend(params, skipped_tiles(rng, params, self.share)))


@dataclass(frozen=True, slots=True)
class HangingUp:
    """Opens only where it has nothing to hide."""

    inner: SignedWork
    skipped: frozenset[Tile]

    def commit(self) -> bytes:
        """Commit as if nothing were wrong."""
        return self.inner.commit()

    def open(self, positions: Positions) -> bytes:
        """Break down when a gap is asked for, in the hope of another draw."""
        if self.skipped.intersection(positions):
            raise Unavailable("the solver ran out of memory")
        return self.inner.open(positions)


@dataclass(frozen=True, slots=True, kw_only=True)
class HangsUp(AnswerCheat):
    """A miner that has an accident whenever the questions are the wrong ones.

    Args:
        share: Of the tiles that are never computed.
    """

    share: float

    def player(self, challenge: Challenge, rng: random.Random) -> Player:
        """Skip, and remember what."""
        params = matmul_params(challenge)
        skipped = skipped_tiles(rng, params, self.share)
        work = solve(params, challenge.seed, SkippingBackend(params, skipped))
        return HangingUp(SignedWork(challenge, work), frozenset(skipped))


@dataclass(frozen=True, slots=True)
class Ground:
    """Sends the commitment it has chosen, and opens honestly what it committed to."""

    statement: SignedStatement
    inner: SignedWork

    def commit(self) -> bytes:
        """Send the chosen one."""
        return body_of(self.statement)

    def open(self, positions: Positions) -> bytes:
        """Open what is asked."""
        return self.inner.open(positions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grinder(AnswerCheat):
    """A miner that leaves out tiles and tries fake digests for them until a draw of its own misses all gaps.

    The draw needs the validator's opening key, which it does not have: it takes another. With the right key in its hands
    64 tries pass nearly always, which a test shows.

    Args:
        share: Of the tiles that are never computed.
        knows_key: Whether the validator gave the key away; the control.
    """

    share: float
    knows_key: bool = False

    def player(self, challenge: Challenge, rng: random.Random) -> Player:
        """Try commitments until one looks good."""
        params = matmul_params(challenge)
        skipped = skipped_tiles(rng, params, self.share)
        honest = honest_work(challenge)
        guess = challenge if self.knows_key else replace(challenge, opening_key=rng.randbytes(32))
        for _ in range(TRIES):
            work = with_fakes(honest, skipped, rng)
            statement = commitment(challenge, work.commitment.to_wire())
            if not set(skipped).intersection(guess.positions(signed_bytes(statement))):
                break
        return Ground(statement, SignedWork(challenge, work))


def with_fakes(work: MatmulWork, skipped: Collection[Tile], rng: random.Random) -> MatmulWork:
    """Put random digests where nothing was computed, and make the trees anew."""
    digests: list[prng.UInt32Array] = [lanes.copy() for lanes in work.digests]
    for index, row, column in skipped:
        digests[index][row, column] = np.frombuffer(rng.randbytes(8), dtype=np.uint32)
    roots = tuple(merkle.root(round_leaves(lanes)) for lanes in digests)
    return MatmulWork(work.params, roots, tuple(digests))


def _skipper(percent: int) -> Cheat:
    sizes = TileSkipper(name="", how="", share=percent / 100).params
    assert isinstance(sizes, MatmulParams)
    return TileSkipper(
        name=f"skips {percent} % of the tiles",
        how=f"computes {100 - percent} % of the tiles and leaves the others zero",
        reasons=(RejectReason.TILE_MISMATCH,),
        predicted=chance(sizes, percent / 100),
        formula=_formula(sizes, percent / 100),
        share=percent / 100,
    )


def _formula(params: MatmulParams, share: float) -> str:
    return f"{HYPERGEOMETRIC}, T={tiles_count(params)} m={skipped_count(params, share)} s={params.openings}"


CHEATS: tuple[Cheat, ...] = (
    *(_skipper(percent) for percent in (5, 10, 20)),
    HangsUp(
        name="hangs up on bad questions",
        how="leaves out 10 % of the tiles and fails whenever one of them is asked for, hoping for another draw",
        reasons=(RejectReason.OPENING_LATE,),
        predicted=chance(GRINDING, 0.1),
        formula=_formula(GRINDING, 0.1),
        params=GRINDING,
        share=0.1,
    ),
    Grinder(
        name="grinds the commitment",
        how=f"leaves out 10 % of the tiles and tries up to {TRIES} commitments offline against a guessed key",
        reasons=(RejectReason.TILE_MISMATCH,),
        predicted=chance(GRINDING, 0.1),
        formula=f"as without grinding: {_formula(GRINDING, 0.1)}",
        params=GRINDING,
        share=0.1,
    ),
)
