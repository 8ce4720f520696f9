"""Miners that try to show another tile than the committed one: bent Merkle paths, and tiles computed after the questions."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from challenges.matmul import TileOpening
from challenges.solver import MatmulWork
from neurons.validator.challenges import Challenge
from polarise.errors import RejectReason
from tests.adversaries.cheat import Cheat
from tests.adversaries.exam import Player, Positions, SignedWork, openings_body
from tests.adversaries.proofs import AnswerCheat, honest_work

Bend = Callable[[random.Random, MatmulWork, TileOpening], TileOpening]


def flipped_bit(rng: random.Random, _work: MatmulWork, opening: TileOpening) -> TileOpening:
    """Change one bit of one sibling."""
    level = rng.randrange(len(opening.path))
    sibling = bytearray(opening.path[level])
    sibling[rng.randrange(len(sibling))] ^= 1 << rng.randrange(8)
    return replace(opening, path=(*opening.path[:level], bytes(sibling), *opening.path[level + 1 :]))


def swapped_siblings(_rng: random.Random, _work: MatmulWork, opening: TileOpening) -> TileOpening:
    """Turn the path upside down."""
    return replace(opening, path=opening.path[::-1])


def another_row(_rng: random.Random, work: MatmulWork, opening: TileOpening) -> TileOpening:
    """Show the next row of tiles, with its own path, as the one that was asked for."""
    index, row, column = opening.position
    neighbour = work.open([(index, (row + 1) % work.params.tiles_per_side, column)])[0]
    return replace(neighbour, position=opening.position)


def shorter_path(_rng: random.Random, _work: MatmulWork, opening: TileOpening) -> TileOpening:
    """Leave out the sibling next to the root, as if an inner node were the root."""
    return replace(opening, path=opening.path[:-1])


BENDS: tuple[Bend, ...] = (flipped_bit, swapped_siblings, another_row, shorter_path)


@dataclass(frozen=True, slots=True)
class BentPaths:
    """Commits honestly and bends one of the openings."""

    inner: SignedWork
    work: MatmulWork
    rng: random.Random

    def commit(self) -> bytes:
        """Send the honest commitment."""
        return self.inner.commit()

    def open(self, positions: Positions) -> bytes:
        """Bend one."""
        openings = list(self.work.open(positions))
        chosen = self.rng.randrange(len(openings))
        openings[chosen] = self.rng.choice(BENDS)(self.rng, self.work, openings[chosen])
        return openings_body([opening.to_wire() for opening in openings])


@dataclass(frozen=True, slots=True)
class AfterTheQuestions:
    """Commits to roots of nothing at once, and computes the tiles when they are asked for."""

    challenge: Challenge
    rng: random.Random

    def commit(self) -> bytes:
        """Send random roots: the clock stops here."""
        honest = honest_work(self.challenge)
        roots = tuple(self.rng.randbytes(32) for _ in honest.roots)
        return SignedWork(self.challenge, replace(honest, roots=roots)).commit()

    def open(self, positions: Positions) -> bytes:
        """Show right tiles with paths of a tree that nobody committed to."""
        return SignedWork(self.challenge, honest_work(self.challenge)).open(positions)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgedPath(AnswerCheat):
    """A miner that would rather show another leaf than the committed one."""

    def player(self, challenge: Challenge, rng: random.Random) -> Player:
        """Work honestly, and bend what is shown."""
        work = honest_work(challenge)
        return BentPaths(SignedWork(challenge, work), work, rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorksAfterwards(AnswerCheat):
    """A miner that lets the clock stop before it has done anything."""

    def player(self, challenge: Challenge, rng: random.Random) -> Player:
        """Commit to nothing."""
        return AfterTheQuestions(challenge, rng)


CHEATS: tuple[Cheat, ...] = (
    ForgedPath(
        name="forged Merkle path",
        how="flips a bit of a path, turns it round, shortens it, or shows another row's",
        reasons=(RejectReason.BAD_MERKLE_PATH,),
    ),
    WorksAfterwards(
        name="works after the questions",
        how="commits to random roots at once and computes only the tiles that are asked for",
        reasons=(RejectReason.BAD_MERKLE_PATH,),
        formula="1 - 2**-256 for a root of 256 bits",
    ),
)
