"""One device that answers for several: two identities, the eight devices of a host, and claims cut to fit the floor.

The device is real in one way only, its rate: whatever it computes for one proof it does not compute for another. All
windows open at the same moment. However the device is shared out, m proofs of its whole rate take m times as long
together, so that at most one of them ends above the floor of 0.6 of its claim.

What remains: who claims less than the device has, m times, can finish all of them above the floor one after another. The
sum that counts then stays below 1 + ln(1 / 0.6) = 1.51 of the device: the last of many small proofs ends at 1 / 0.6 of
the target, and what counts of each is its claim times min(1, target / end).
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from challenges.matmul import MatmulParams
from challenges.proofs import ProofParams, Prover, Work
from challenges.solver import NumpyBackend, solve
from challenges.timing import CLAIM_FLOOR_PPM, PPM
from neurons.validator.challenges import Challenge
from neurons.validator.proof_trace import ProofTrace
from neurons.validator.verification import judge
from polarise.errors import RejectReason
from polarise.hardware import DeviceClaim
from polarise.signing import Certificate, Identity, Purpose, SigningKey
from tests.adversaries.cheat import Cheat, Outcome
from tests.adversaries.exam import DEVICE, MATMUL, new_challenge, vendor_table
from tests.adversaries.live import LiveRun, SolvedBy, Stage, prove_together
from tests.support.proving_miner import OWNER

OVERSOLD_MAX = 1.0 + math.log(PPM / CLAIM_FLOOR_PPM)
# A live device has no rate of its own: it is as slow as its recorded one.
LIVE_SECONDS = 0.25
ARRIVAL_SECONDS = 30.0


class SharedDevice:
    """A device of a recorded rate that works on several proofs at once.

    Args:
        rate: Operations per second.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate

    def ends_ns(self, operations: Sequence[int], weights: Sequence[float]) -> list[int]:
        """Return when each proof ends if all begin at 0 and are served in proportion to weights until they end.

        Args:
            operations: Work of each proof.
            weights: > 0; very different ones serve one after another.
        """
        left = dict(enumerate(float(count) for count in operations))
        ends, now = [0.0] * len(operations), 0.0
        while left:
            total = sum(weights[index] for index in left)
            speeds = {index: self._rate * weights[index] / total for index in left}
            first = min(left, key=lambda index: left[index] / speeds[index])
            step = left[first] / speeds[first]
            now += step
            left = {index: work - speeds[index] * step for index, work in left.items() if index != first}
            ends[first] = now
        return [round(end * 1e9) for end in ends]


def shares_of_time(rng: random.Random, count: int) -> list[float]:
    """Return weights of a schedule: fair, one after another, or anything between."""
    match rng.randrange(3):
        case 0:
            return [1.0] * count
        case 1:
            return [1e6**place for place in rng.sample(range(count), count)]
    return [rng.uniform(0.05, 1.0) for _ in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class OneForSeveral(Cheat):
    """A device that is claimed several times, each time whole.

    Args:
        claims: How many times.
        has_identities: Whether each claim is another miner's; otherwise they are devices of one.
    """

    claims: int
    has_identities: bool

    def play_pure(self, rng: random.Random) -> Outcome:
        """Share the device out by some schedule, and let the timing rules judge each proof."""
        rate = rng.randrange(10**9, 10**14)
        device = DEVICE.model_copy(update={"matmul_ops_per_second": rate})
        rounds = max(2, rng.randrange(4, 6) * rate // (2 * 4096**3))
        params = MatmulParams(n=4096, rounds=min(rounds, 4096))
        challenges = [new_challenge(rng, params, device=device, device_index=index) for index in range(self.claims)]
        ends = SharedDevice(rate).ends_ns([params.operations] * self.claims, shares_of_time(rng, self.claims))
        reasons = [
            judge(challenge, vendor_table(), ProofTrace(rtt_min_ns=0, last_byte_after_ns=end)).reason
            for challenge, end in zip(challenges, ends, strict=True)
        ]
        return self._outcome_of(reasons)

    def play_live(self, rng: random.Random, stage: Stage) -> Outcome:
        """Run all proofs in one window, over one lock that is the device."""
        worker = LiveDevice(LIVE_SECONDS, self.claims)
        if self.has_identities:
            return self._outcome_of([run.verdict.reason for run in self._play_identities(rng, stage, worker)])
        return self._outcome_of([run.verdict.reason for run in self._play_devices(rng, stage, worker)])

    def _play_identities(self, rng: random.Random, stage: Stage, worker: LiveDevice) -> list[LiveRun]:
        with ExitStack() as stack:
            asked = []
            for index in range(self.claims):
                identity = identity_of(index)
                miner = stack.enter_context(stage.miner(worker.provers, identity=identity))
                asked.append((miner.client(), new_challenge(rng, device=worker.claim, miner=identity)))
            return prove_together(asked, stage.wave, stage.engine)

    def _play_devices(self, rng: random.Random, stage: Stage, worker: LiveDevice) -> list[LiveRun]:
        devices = tuple(worker.claim.model_copy(update={"uuid": f"cpu-{index}"}) for index in range(self.claims))
        with stage.miner(worker.provers, devices=devices) as miner:
            asked: list[Challenge] = [
                new_challenge(rng, device=device, device_index=index) for index, device in enumerate(devices)
            ]
            return prove_together([(miner.client(), challenge) for challenge in asked], stage.wave, stage.engine)

    def _outcome_of(self, reasons: Sequence[RejectReason | None]) -> Outcome:
        rejected = [reason for reason in reasons if reason is not None]
        is_caught = len(rejected) >= self.claims - 1 and set(rejected) <= set(self.reasons)
        return Outcome(is_caught, rejected[0] if rejected else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Oversold(Cheat):
    """A device sold in parts that are more than the whole, each small enough to end above the floor."""

    def play_pure(self, rng: random.Random) -> Outcome:
        """Serve parts that together are up to 1 / 0.6 of the device, one after another, and add up what counts."""
        rate, parts = rng.randrange(10**9, 10**12), rng.randrange(2, 17)
        claimed = rate * PPM // CLAIM_FLOOR_PPM // parts
        device = DEVICE.model_copy(update={"matmul_ops_per_second": claimed})
        challenges = [new_challenge(rng, MATMUL, device=device, device_index=index) for index in range(parts)]
        # The work of each part is its claim over one second, whatever sizes that takes.
        seconds = MATMUL.operations / claimed
        ends = SharedDevice(rate).ends_ns([MATMUL.operations] * parts, [1e6**place for place in range(parts)])
        assert max(ends) < seconds * 1e9 / (CLAIM_FLOOR_PPM / PPM) * 1.001
        verdicts = [
            judge(challenge, vendor_table(), ProofTrace(rtt_min_ns=0, last_byte_after_ns=end))
            for challenge, end in zip(challenges, ends, strict=True)
        ]
        counted = sum(claimed * verdict.score // PPM for verdict in verdicts if verdict.reason is None)
        return Outcome(counted <= OVERSOLD_MAX * rate, gain=counted / rate - 1.0, seen="the bound held")


class LiveDevice:
    """A lock that proofs pass one at a time, each for a recorded time, once all of them are there.

    They set out together, but a busy machine may hold one of them up; that all are waited for makes such a moment cost
    time and never save any.

    Args:
        seconds: What one proof takes.
        count: How many proofs will come.
    """

    def __init__(self, seconds: float, count: int) -> None:
        self._seconds = seconds
        self._all_there = threading.Barrier(count, timeout=ARRIVAL_SECONDS)
        self._lock = threading.Lock()

    @property
    def claim(self) -> DeviceClaim:
        """The device, claimed at exactly its rate."""
        return DEVICE.model_copy(update={"matmul_ops_per_second": round(MATMUL.operations / self._seconds)})

    def provers(self, params: ProofParams, _device: str) -> Prover:
        """Return a prover that waits for the device."""
        if not isinstance(params, MatmulParams):
            raise TypeError(f"{type(params).__name__} is not proven here")
        return SolvedBy(self._solver(params))

    def _solver(self, params: MatmulParams) -> Callable[[bytes], Work]:
        def work(seed: bytes) -> Work:
            self._all_there.wait()
            with self._lock:
                end = time.monotonic() + self._seconds
                done = solve(params, seed, NumpyBackend())
                time.sleep(max(0.0, end - time.monotonic()))
            return done

        return work


def identity_of(index: int) -> Identity:
    """Return the owner's node of that number."""
    key = SigningKey(bytes([index + 1]) * 32)
    return Identity(key, Certificate.issue(OWNER, key.public_key, Purpose.NODE))


CHEATS: tuple[Cheat, ...] = (
    OneForSeveral(
        name="one device, two identities",
        how="registers one device under two keys; all but one of them lose the window",
        reasons=(RejectReason.CLAIM_NOT_MET,),
        claims=2,
        has_identities=True,
    ),
    OneForSeveral(
        name="one device as eight",
        how="claims eight devices and lets one answer for all of them in one window",
        reasons=(RejectReason.CLAIM_NOT_MET,),
        claims=8,
        has_identities=False,
    ),
    Oversold(
        name="oversold within the floor",
        how="claims a device several times in part, and ends each proof just above 0.6 of its claim",
        answer="a bound, and no rejection",
        formula=f"counts <= 1 + ln(1/0.6) = {OVERSOLD_MAX:.2f} of the device",
        no_live="the bound is of the timing rules; a live device has no rate exact enough to come near it",
    ),
)
