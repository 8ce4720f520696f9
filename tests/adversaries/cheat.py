"""What a cheat is: who it is, how often it must be caught and for which reason, and how it is played.

Rules:
- A play is a whole proof with a seed, a nonce and an opening key of its own, drawn from the generator it is given; the
  same generator gives the same play.
- Caught means: rejected for one of the reasons named here. Where the answer to a cheat is a bound and no rejection (slow
  pings, refusing for ever) it means that the bound held, and `Outcome.gain` says by how much.
- `predicted` is a formula, never a measured figure; `formula` says which, and where it comes from.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass

from polarise.errors import RejectReason
from tests.adversaries.live import Stage

EVERY_TIME = "every time"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one play.

    Args:
        is_caught: Whether the cheat got nothing, or no more than its bound.
        reason: The verdict's reason; None where it passed or nothing was judged.
        gain: What it got beyond an honest miner, as a share of that; None where that is no question.
        seen: What caught it where that is no reason of a verdict.
    """

    is_caught: bool
    reason: RejectReason | None = None
    gain: float | None = None
    seen: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cheat(ABC):
    """One cheat.

    Args:
        name: As it stands in tables.
        how: How it cheats, one sentence.
        reasons: What it is rejected for; empty where nobody rejects it.
        answer: What stops it then.
        predicted: Probability of being caught in one play.
        predicted_live: The same of its live form, where that is another; None where it is not.
        formula: Where `predicted` comes from.
        no_live: Why it cannot be played over HTTP; empty where it can.
    """

    name: str
    how: str
    reasons: tuple[RejectReason, ...] = ()
    answer: str = ""
    predicted: float = 1.0
    predicted_live: float | None = None
    formula: str = EVERY_TIME
    no_live: str = ""

    @abstractmethod
    def play_pure(self, rng: random.Random) -> Outcome:
        """Play once against the verifier's functions."""

    def play_live(self, rng: random.Random, stage: Stage) -> Outcome:
        """Play once as a miner over HTTP on loopback.

        Raises:
            NotImplementedError: There is no live form; `no_live` says why.
        """
        raise NotImplementedError(f"{self.name}: {self.no_live}")

    def outcome(self, reason: RejectReason | None) -> Outcome:
        """Return what a verdict means for this cheat."""
        return Outcome(reason in self.reasons, reason)
