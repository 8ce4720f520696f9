"""One device under many names, over epochs: with the validator's own draws, scores, worth and weights, and recorded proofs.

What is played is who is there and what it says, not the proof itself: in a wave one device answers for one name (`sharing`
shows that), and alone it answers for whichever name is asked. An honest miner with an equal device stands beside it.

What answers it are windows in which everybody is proven, and that weight counts what was shown there:
- At any moment the names of one device count for what the one that passed in the newest window shows, so that all of them
  together have at most the weight of the honest miner.
- With an excuse that anybody can have (leases signed by oneself, an address nobody may call), those that passed in earlier
  windows keep half, a quarter and so on: below twice the honest miner. Another validator's order, which not everybody can
  have in every window, is spared once in a row: below three times.
- A name that comes, or comes back, outside of a window counts for nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from neurons.validator.drawing import Intervals, draw_for, has_window
from neurons.validator.prices import PriceList
from neurons.validator.scoring import ScoringSystem
from neurons.validator.weights import MinerWorth, weights_ppm, worth_ppb
from polarise.errors import RejectReason
from polarise.evidence import DrawEvidence, ProofEvidence, ScoreRecord
from polarise.hardware import HardwareClaim
from polarise.registry import RegistryEntry, open_entry
from tests.adversaries.cheat import Cheat, Outcome
from tests.support.evidence import inspection, proof
from tests.support.proving_miner import CPU, VALIDATOR, entry_of

NAMES, EPOCHS, PROOF_EVERY = 96, 30, 4
HONEST = "honest"
HARDWARE = HardwareClaim(cpu_model="a processor", cpu_milli=1000, memory_bytes=1 << 30, devices=(CPU,))
ENTRY = open_entry(entry_of("https://name.example:8091"))
PRICES = PriceList.load()
PPM = 1_000_000
# A weight is rounded to whole millionths, the worth of a halved device to whole billionths.
ROUNDING = 1.001


@dataclass
class Market:
    """What a validator knows of its miners, epoch by epoch.

    Attributes:
        rng: Draws the beacons.
        epoch: The newest one.
        last_window: The newest epoch with a common window.
        scores: Each miner's newest score, and its epoch.
    """

    rng: random.Random
    epoch: int = 0
    last_window: int = 0
    scores: dict[str, tuple[int, ScoreRecord]] = field(default_factory=dict)

    def run_epoch(
        self,
        names: Sequence[str],
        answers: Callable[[Sequence[str]], str | None],
        excuse: RejectReason,
        container: RejectReason | None = None,
    ) -> tuple[float, bool]:
        """Examine the names of one device beside the honest miner.

        Args:
            names: Those that stand in the registry now, before the beacon is known.
            answers: Which of those that are asked together the device proves for; None for none.
            excuse: What the others come to.
            container: What the inspection of the device's host comes to.

        Returns:
            The weight of all names together over the honest miner's, and whether there was a window.
        """
        self.epoch += 1
        beacon = self.rng.randbytes(32)
        intervals = Intervals(VALIDATOR.public_key, PROOF_EVERY, 1, is_first=not self.scores)
        draws = {name: self._draw(beacon, name, intervals) for name in (HONEST, *names)}
        chosen = answers([name for name in names if draws[name].is_proven])
        for name, draw in draws.items():
            proofs = _proofs(None if name in {HONEST, chosen} else excuse) if draw.is_proven else ()
            looked = inspection(None if name == HONEST else container) if draw.is_inspected else None
            score = ScoringSystem().calculate_score(proofs, looked, self._previous(name), draw=draw)
            self.scores[name] = (self.epoch, score)
        if is_common := has_window(beacon, intervals):
            self.last_window = self.epoch
        return self._share(names), is_common

    def _draw(self, beacon: bytes, name: str, intervals: Intervals) -> DrawEvidence:
        newest = self.scores.get(name, (self.epoch, None))[0]
        return draw_for(
            beacon, _entry(name), self._previous(name), intervals, has_missed_window=newest < self.last_window
        )

    def _previous(self, name: str) -> ScoreRecord | None:
        return self.scores[name][1] if name in self.scores else None

    def _share(self, names: Sequence[str]) -> float:
        scores = {name: self.scores[name][1] for name in (HONEST, *names)}
        weights = weights_ppm(
            [MinerWorth(name, score.score_ppm, worth_ppb(PRICES, HARDWARE, score)) for name, score in scores.items()]
        )
        return sum(weights[name] for name in names) / max(weights[HONEST], 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyNames(Cheat):
    """All names stand in the registry all the time; the device proves for one that is asked, the others say `excuse`.

    Args:
        excuse: What they say, or come to.
        most: How much of the honest miner's weight all of them may have.
    """

    excuse: RejectReason
    most: float

    def play_pure(self, rng: random.Random) -> Outcome:
        """Change the name that proves by lot, so that each of them passes now and then."""
        market, names = Market(rng), [f"name-{number}" for number in range(NAMES)]
        shares = [market.run_epoch(names, _any(rng), self.excuse)[0] for _ in range(EPOCHS)]
        gain = max(shares)
        return Outcome(gain <= self.most * ROUNDING, self.excuse, gain - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneNameAtATime(Cheat):
    """One name stands in the registry until it has passed in a window, then the next; all of them come back together."""

    def play_pure(self, rng: random.Random) -> Outcome:
        """Gather ten names that passed, bring all of them at once, and begin again after the next window."""
        market, shares, number, harvests_count = Market(rng), list[float](), 0, 0
        names = [f"name-{number}" for number in range(10)]
        # Windows come by lot: ten of them may take longer.
        while len(shares) < 2 * EPOCHS or not harvests_count:
            is_harvest = number == len(names)
            standing = names if is_harvest else [names[number]]
            share, is_common = market.run_epoch(standing, _any(rng), RejectReason.MISSING)
            shares.append(share)
            if is_common:
                number = 0 if is_harvest else number + 1
            harvests_count += is_harvest
        gain = max(shares)
        return Outcome(gain <= ROUNDING, RejectReason.MISSING, gain - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlwaysNew(Cheat):
    """A name that is new in every epoch, and asked at once, alone or in a window."""

    def play_pure(self, rng: random.Random) -> Outcome:
        """Prove perfectly, and be gone."""
        market = Market(rng)
        alone: list[float] = []
        windows: list[float] = []
        for epoch in range(EPOCHS):
            share, is_common = market.run_epoch([f"name-{epoch}"], _any(rng), RejectReason.MISSING)
            (windows if is_common else alone).append(share)
        return Outcome(max(alone) == 0 and max(windows) <= ROUNDING)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoContainer(Cheat):
    """A miner that proves perfectly, never has room for a container, and begins again under a new key."""

    def play_pure(self, rng: random.Random) -> Outcome:
        """Decline every inspection, under one key for some epochs, then under the next."""
        market, stays = Market(rng), rng.randrange(1, 7)
        shares = [
            market.run_epoch([f"name-{epoch // stays}"], _any(rng), RejectReason.MISSING, RejectReason.NOT_MEASURED)[0]
            for epoch in range(EPOCHS)
        ]
        return Outcome(max(shares) == 0)


def _any(rng: random.Random) -> Callable[[Sequence[str]], str | None]:
    return lambda asked: rng.choice(asked) if asked else None


def _entry(name: str) -> RegistryEntry:
    return ENTRY.model_copy(update={"endpoint": f"https://{name}.example:8091"})


def _proofs(reason: RejectReason | None) -> tuple[ProofEvidence, ...]:
    pow_rate, matmul_rate = CPU.pow_hashes_per_second, CPU.matmul_ops_per_second
    return (
        proof(reason, kind="pow", device=CPU.uuid, claimed=pow_rate, measured=0 if reason else pow_rate),
        proof(reason, device=CPU.uuid, claimed=matmul_rate, measured=0 if reason else matmul_rate),
    )


NO_LIVE = "it is about draws and scores; one device in one wave is played live in `sharing`"

CHEATS: tuple[Cheat, ...] = (
    ManyNames(
        name="96 names, busy",
        how="registers one device under 96 names and says that it is busy for all but one",
        reasons=(RejectReason.DECLINED,),
        excuse=RejectReason.DECLINED,
        most=1.0,
        formula="every time: together <= 1 honest miner's weight",
        no_live=NO_LIVE,
    ),
    ManyNames(
        name="96 names, silent",
        how="the same, and does not answer for all but one",
        reasons=(RejectReason.MISSING,),
        excuse=RejectReason.MISSING,
        most=1.0,
        formula="every time: together <= 1 honest miner's weight",
        no_live=NO_LIVE,
    ),
    ManyNames(
        name="96 names, leased",
        how="the same, and shows leases that a second key of its own has signed",
        reasons=(RejectReason.RENTED,),
        excuse=RejectReason.RENTED,
        most=2.0,
        formula="every time: together < 1 + 1/2 + 1/4 + ... = 2 honest miners' weight",
        no_live=NO_LIVE,
    ),
    ManyNames(
        name="96 names, not to be called",
        how="the same, and lets all names but one lead to addresses that the validator must not call",
        reasons=(RejectReason.NOT_MEASURED,),
        excuse=RejectReason.NOT_MEASURED,
        most=2.0,
        formula="every time: together < 1 + 1/2 + 1/4 + ... = 2 honest miners' weight",
        no_live=NO_LIVE,
    ),
    ManyNames(
        name="96 names, occupied",
        how="the same, and shows another validator's order for each of them in every window",
        reasons=(RejectReason.OCCUPIED,),
        excuse=RejectReason.OCCUPIED,
        most=3.0,
        formula="every time: together < 1 + 1 + 1/2 + 1/4 + ... = 3 honest miners' weight",
        no_live=NO_LIVE,
    ),
    OneNameAtATime(
        name="one name at a time",
        how="lets each name pass in a window of its own, the others in no registry, and brings all of them back at once",
        reasons=(RejectReason.MISSING,),
        formula="every time: together <= 1 honest miner's weight",
        no_live=NO_LIVE,
    ),
    AlwaysNew(
        name="always new",
        how="comes under a new key in every epoch, so that it is always proven alone",
        answer="no weight before a common window, one device's in it",
        no_live=NO_LIVE,
    ),
    NoContainer(
        name="no container at all",
        how="never has room for an inspection, and takes a new key before that costs anything",
        answer="no weight before a container was measured",
        no_live=NO_LIVE,
    ),
)
