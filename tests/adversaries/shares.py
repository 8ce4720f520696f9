"""Miners that save hashes in the proof of work: shares twice, out of the slot, above the target, too few, of another prefix."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from challenges.pow import PowParams
from challenges.pow_solver import NumpyPowBackend, PowWork, solve_pow
from challenges.proofs import Work
from neurons.validator.challenges import Challenge
from polarise.errors import RejectReason
from tests.adversaries.cheat import Cheat
from tests.adversaries.exam import new_challenge
from tests.adversaries.proofs import ProverCheat

PARAMS = PowParams(shares=64, difficulty=64)
EASIER = 63

Nonces = Callable[[Challenge, random.Random, bytes], tuple[int, ...]]


def shares_of(params: PowParams, seed: bytes) -> tuple[int, ...]:
    """Find all shares honestly, about 4,000 hashes."""
    return solve_pow(params, seed, NumpyPowBackend(lanes=4096, calls=1)).nonces


def twice(challenge: Challenge, rng: random.Random, seed: bytes) -> tuple[int, ...]:
    """Find some shares and fill up with copies of one of them."""
    found = shares_of(params_of(challenge), seed)
    repeated = rng.randrange(1, len(found) - 1)
    return (*found[:repeated], found[repeated - 1], *found[repeated : len(found) - 1])


def outside_the_slot(challenge: Challenge, rng: random.Random, seed: bytes) -> tuple[int, ...]:
    """Take some of the shares from the range of another device of the host, where they may well be shares."""
    params, moved = params_of(challenge), rng.randrange(1, 64)
    elsewhere = replace(params, slot=params.slot + rng.randrange(1, 16))
    return (*shares_of(params, seed)[moved:], *shares_of(elsewhere, seed)[:moved])


def neighbours(challenge: Challenge, rng: random.Random, seed: bytes) -> tuple[int, ...]:
    """Find most of the shares and invent the others beside them."""
    found = set(shares_of(params_of(challenge), seed))
    wanted = len(found)
    for nonce in rng.sample(sorted(found), rng.randrange(1, wanted)):
        found.discard(nonce)
    while len(found) < wanted:
        found.add(rng.randrange(1 << 20, 1 << 30))
    return tuple(sorted(found))


def easier(challenge: Challenge, _rng: random.Random, seed: bytes) -> tuple[int, ...]:
    """Take shares of a slightly lower difficulty, which are good enough by luck now and then."""
    return shares_of(replace(params_of(challenge), difficulty=EASIER), seed)


def fewer(challenge: Challenge, rng: random.Random, seed: bytes) -> tuple[int, ...]:
    """Stop before all shares are found."""
    found = shares_of(params_of(challenge), seed)
    return found[: rng.randrange(len(found))]


def of_another_prefix(challenge: Challenge, rng: random.Random, _seed: bytes) -> tuple[int, ...]:
    """Send the shares of another challenge."""
    other = new_challenge(rng, params_of(challenge))
    return shares_of(params_of(challenge), other.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareCheat(ProverCheat):
    """A miner that does not find all the shares it sends.

    Args:
        nonces: What it sends.
    """

    params: PowParams = PARAMS
    nonces: Nonces

    def solve(self, challenge: Challenge, rng: random.Random, seed: bytes) -> Work:
        """Cheat."""
        return PowWork(params_of(challenge), self.nonces(challenge, rng, seed))


def easier_chance(params: PowParams, difficulty: int) -> float:
    """Return how often shares of a lower difficulty are seen through.

    A value below the easier target is below the real one with probability (target + 1) / (easier + 1), each for itself.
    """
    easier_target = replace(params, difficulty=difficulty).target
    return 1.0 - ((params.target + 1) / (easier_target + 1)) ** params.shares


def params_of(challenge: Challenge) -> PowParams:
    """Return the sizes of a proof of work."""
    if not isinstance(challenge.params, PowParams):
        raise TypeError(f"{type(challenge.params).__name__} is no proof of work")
    return challenge.params


CHEATS: tuple[Cheat, ...] = (
    ShareCheat(
        name="shares twice",
        how="finds some shares and counts one of them twice",
        reasons=(RejectReason.MALFORMED,),
        nonces=twice,
    ),
    ShareCheat(
        name="shares out of the slot",
        how="sends nonces that belong to other devices of the host",
        reasons=(RejectReason.MALFORMED,),
        nonces=outside_the_slot,
    ),
    ShareCheat(
        name="shares above the target",
        how="finds most of the shares and invents the others",
        reasons=(RejectReason.SHARE_INVALID,),
        formula="1 - 64**-k for k invented shares, hence over k uniform in 1..63: 1 - 2.5e-4",
        predicted=1.0 - sum(64.0**-count for count in range(1, 64)) / 63,
        nonces=neighbours,
    ),
    ShareCheat(
        name="shares of a lower difficulty",
        how=f"works at difficulty {EASIER} where {PARAMS.difficulty} is asked",
        reasons=(RejectReason.SHARE_INVALID,),
        predicted=easier_chance(PARAMS, EASIER),
        formula=f"1 - (t/t')^N, t/t' = {EASIER}/{PARAMS.difficulty}, N = {PARAMS.shares}",
        nonces=easier,
    ),
    ShareCheat(
        name="too few shares",
        how="stops before all shares are found",
        reasons=(RejectReason.WRONG_COUNT,),
        nonces=fewer,
    ),
    ShareCheat(
        name="shares of another prefix",
        how="sends the shares of another challenge",
        reasons=(RejectReason.SHARE_INVALID,),
        formula="1 - 64**-64",
        nonces=of_another_prefix,
    ),
)
