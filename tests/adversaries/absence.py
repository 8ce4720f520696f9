"""Miners that are away when it counts: out of memory whenever they would lose, or busy for ever.

All figures of the rules that answer them are taken from `neurons.validator.scoring`; what this file expects of them:
- MISSING is worth nothing in its own epoch, whatever was measured before.
- A device that declines when it is asked is worth nothing until it is proven, which takes even a perfect miner below 70 at
  once. Whoever shows a lease instead is played in `names`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from neurons.validator.scoring import ACCEPTABLE_PPM, ScoringSystem
from polarise.errors import RejectReason, Unavailable
from polarise.evidence import ScoreRecord
from tests.adversaries.cheat import Cheat, Outcome
from tests.adversaries.exam import Positions, examine, new_challenge
from tests.adversaries.live import SolvedBy, Stage, prove
from tests.adversaries.proofs import honest_work
from tests.support.evidence import CLAIM, inspection, proof
from tests.support.proving_miner import OTHER_VALIDATOR

ROUNDS = 3


def score_of(
    reason: RejectReason | None, previous: ScoreRecord | None, *, measured: int = CLAIM, serves: bool = True
) -> ScoreRecord:
    """Return the score of a miner with one device whose two proofs had this outcome.

    Args:
        reason: Of both verdicts.
        previous: The score before.
        measured: Of a claim of 1,000,000.
        serves: Whether its container was rented and found right; else it declines that too.
    """
    proofs = [proof(reason, measured=measured), proof(reason, measured=measured, kind="pow")]
    return ScoringSystem().calculate_score(proofs, inspection(None if serves else RejectReason.NOT_MEASURED), previous)


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """Has an accident as soon as it knows the challenge."""

    def commit(self) -> bytes:
        """Fail."""
        raise Unavailable("the solver failed: out of memory")

    def open(self, positions: Positions) -> bytes:
        """Never be asked."""
        raise AssertionError(f"asked for {positions} without a commitment")


@dataclass(frozen=True, slots=True, kw_only=True)
class LosesNothing(Cheat):
    """A miner that looks at the challenge first and answers only if it will win."""

    def play_pure(self, rng: random.Random) -> Outcome:
        """Be perfect before, and out of memory now."""
        return self._outcome_of(examine(new_challenge(rng), OutOfMemory()).reason, rng)

    def play_live(self, rng: random.Random, stage: Stage) -> Outcome:
        """Answer 503 to the start."""
        return self._outcome_of(stage.prove_against(new_challenge(rng), OutOfMemory()).verdict.reason, rng)

    def _outcome_of(self, reason: RejectReason | None, rng: random.Random) -> Outcome:
        before = score_of(None, None, measured=rng.randrange(700_000, CLAIM + 1))
        now = score_of(reason, before)
        is_nothing = now.part("compute").value_ppm == 0 and now.smoothed_ppm < before.smoothed_ppm
        return Outcome(reason in self.reasons and is_nothing, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class BusyForEver(Cheat):
    """A miner that was measured once and has been busy ever since."""

    def play_pure(self, rng: random.Random) -> Outcome:
        """Decline by the verdict itself."""
        return self._decline_for_ever(rng, lambda: RejectReason.DECLINED)

    def play_live(self, rng: random.Random, stage: Stage) -> Outcome:
        """Answer 429 in each round: the device is held by another validator's challenge that never ends."""
        challenge = new_challenge(rng)
        with stage.miner(lambda _params, _device: SolvedBy(lambda _seed: honest_work(challenge))) as miner:
            miner.client(OTHER_VALIDATOR).prepare(challenge.prepare_request(), deadline_seconds=10)
            return self._decline_for_ever(
                rng, lambda: prove(miner.client(), new_challenge(rng), stage.wave, stage.engine).verdict.reason
            )

    def _decline_for_ever(self, rng: random.Random, ask: Callable[[], RejectReason | None]) -> Outcome:
        shown, serves = rng.randrange(700_000, CLAIM + 1), rng.random() < 0.5
        score = score_of(None, None, measured=shown)
        for _ in range(ROUNDS):
            reason = ask()
            score = score_of(reason, score, serves=serves)
            if score.part("compute").value_ppm != 0 or score.score_ppm >= ACCEPTABLE_PPM:
                return Outcome(is_caught=False, reason=reason)
        return Outcome(reason in self.reasons, reason)


CHEATS: tuple[Cheat, ...] = (
    LosesNothing(
        name="out of memory when it would lose",
        how="looks at the challenge and has an accident unless it will win",
        reasons=(RejectReason.MISSING,),
    ),
    BusyForEver(
        name="busy for ever",
        how="is measured once and says that it is busy from then on; below 70 in the first round",
        reasons=(RejectReason.DECLINED,),
    ),
)
