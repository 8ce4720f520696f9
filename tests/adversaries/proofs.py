"""The common forms of cheats on one proof: a dishonest prover, or a dishonest sender of answers."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from challenges import prng
from challenges.matmul import MatmulParams
from challenges.proofs import ProofParams, Work
from challenges.solver import MatmulWork, NumpyBackend, solve
from neurons.validator.challenges import Challenge
from tests.adversaries.cheat import Cheat, Outcome
from tests.adversaries.exam import MATMUL, Player, SignedWork, examine, new_challenge
from tests.adversaries.live import Stage

Product = prng.Float32Array
Forge = Callable[[random.Random, Product, Product], Product]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProverCheat(Cheat):
    """A miner whose prover cheats; behind it everything is honest, live it is the real challenge handler."""

    params: ProofParams = MATMUL

    @abstractmethod
    def solve(self, challenge: Challenge, rng: random.Random, seed: bytes) -> Work:
        """Do what the cheat does instead of the proof."""

    def play_pure(self, rng: random.Random) -> Outcome:
        """Solve, sign, open."""
        challenge = new_challenge(rng, self.params)
        work = self.solve(challenge, rng, challenge.seed)
        return self.outcome(examine(challenge, SignedWork(challenge, work)).reason)

    def play_live(self, rng: random.Random, stage: Stage) -> Outcome:
        """Let the challenge handler run it."""
        challenge = new_challenge(rng, self.params)
        run = stage.prove_with(challenge, lambda seed: self.solve(challenge, rng, seed))
        return self.outcome(run.verdict.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerCheat(Cheat):
    """A miner that cheats in what it signs or sends."""

    params: ProofParams = MATMUL

    @abstractmethod
    def player(self, challenge: Challenge, rng: random.Random) -> Player:
        """Return who answers this challenge."""

    def play_pure(self, rng: random.Random) -> Outcome:
        """Let it answer."""
        challenge = new_challenge(rng, self.params)
        return self.outcome(examine(challenge, self.player(challenge, rng)).reason)

    def play_live(self, rng: random.Random, stage: Stage) -> Outcome:
        """Let it answer over HTTP."""
        challenge = new_challenge(rng, self.params)
        return self.outcome(stage.prove_against(challenge, self.player(challenge, rng)).verdict.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgedProduct(ProverCheat):
    """A miner that makes something cheaper than the product and digests that honestly.

    Args:
        forge: (generator, A, B) -> instead of A·B, [n, n] float32.
    """

    forge: Forge

    def solve(self, challenge: Challenge, rng: random.Random, seed: bytes) -> Work:
        """Run the honest chain over forged products."""
        return solve(matmul_params(challenge), seed, ForgingBackend(lambda a, b: self.forge(rng, a, b)))


class ForgingBackend(NumpyBackend):
    """Does something else than multiply."""

    def __init__(self, forge: Callable[[Product, Product], Product]) -> None:
        self._forge = forge

    def multiply(self, a: Product, b: Product) -> Product:
        """Forge."""
        return self._forge(a, b)


def honest_work(challenge: Challenge) -> MatmulWork:
    """Do the whole matmul proof."""
    return solve(matmul_params(challenge), challenge.seed, NumpyBackend())


def matmul_params(challenge: Challenge) -> MatmulParams:
    """Return the sizes of a matmul challenge."""
    if not isinstance(challenge.params, MatmulParams):
        raise TypeError(f"{type(challenge.params).__name__} is no matmul proof")
    return challenge.params
