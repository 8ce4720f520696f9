"""Miners that do not cheat and are not at their best: slow within their claim, on a link that trembles, or both.

The link is the model of research/challenges.md, section D: 80 ms of round trip, and on each way a jitter of log-normal
distribution with median 10 ms and 99 % below 85 ms. Work takes 5 s by the claim, as design section 5 asks of GPUs. A proof
of work takes the time of the hashes it really needed, so that its luck is in it.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from challenges.memory import MemoryParams
from challenges.memory_backends import NumpyMemoryBackend
from challenges.memory_solver import MemoryProver
from challenges.pow import PowParams
from challenges.pow_solver import NumpyPowBackend, solve_pow
from challenges.proofs import ProofParams
from neurons.miner.hardware import CLAIM_FIELDS
from neurons.validator.challenges import Challenge
from neurons.validator.proof_trace import ProofTrace
from neurons.validator.stamper_process import PINGS
from polarise.errors import RejectReason
from polarise.hardware import DeviceClaim
from tests.adversaries.exam import DEVICE, MATMUL, SignedWork, examine, new_challenge
from tests.adversaries.live import Stage, prove
from tests.adversaries.proofs import honest_work
from tests.support.proving_miner import proving_miner

NS = 1_000_000_000
SECONDS = 5
# 2,000 shares as every real device is asked for; a low difficulty keeps a play at some milliseconds.
SHARES = PowParams(shares=2000, difficulty=4)
MEMORY = MemoryParams(blocks=16, hashes=1, passes=3, openings=8)
KINDS: tuple[ProofParams, ...] = (MATMUL, SHARES, MEMORY)
RTT_NS = 80_000_000
JITTER_MEDIAN_NS = 10_000_000
# ln(85 / 10) over the 99 % point of the normal distribution.
JITTER_SIGMA = math.log(8.5) / 2.326
# A lower bound of 2,000 shares takes 4.5 % off, so that the slowest proof of work has to be a little faster.
SLOWEST = {"matmul": 0.65, "pow": 0.75, "memory": 0.65}


@dataclass(frozen=True, slots=True)
class HonestPlay:
    """One honest proof.

    Args:
        circumstances: For the table.
        reason: Why it was rejected; None as it should be.
    """

    circumstances: str
    reason: RejectReason | None


def play_pure(rng: random.Random) -> HonestPlay:
    """Prove once with recorded stamps."""
    params = rng.choice(KINDS)
    is_slow, is_jittery = rng.choice(((True, False), (False, True), (True, True)))
    challenge = new_challenge(rng, params, device=_claiming(params))
    speed = rng.uniform(SLOWEST[challenge.kind.value], 1.0) if is_slow else rng.uniform(1.0, 1.4)
    player, work_ns = _work(challenge, speed)
    trace = _stamps(rng, work_ns) if is_jittery else ProofTrace(rtt_min_ns=0, last_byte_after_ns=work_ns)
    words = [challenge.kind.value, *["slow"] * is_slow, *["jittery"] * is_jittery]
    return HonestPlay(" ".join(words), examine(challenge, player, trace).reason)


def play_live(rng: random.Random, stage: Stage, params: ProofParams) -> HonestPlay:
    """Prove once over HTTP, with a real solver process."""
    challenge = new_challenge(rng, params)
    with proving_miner(stage.new_folder()) as miner:
        run = prove(miner.client(), challenge, stage.wave, stage.engine)
    return HonestPlay(f"{challenge.kind.value} live", run.verdict.reason)


def _claiming(params: ProofParams) -> DeviceClaim:
    rate = params.operations // SECONDS
    return DEVICE.model_copy(update=dict.fromkeys(CLAIM_FIELDS.values(), rate))


def _work(challenge: Challenge, speed: float) -> tuple[SignedWork, int]:
    """Do the proof; returns it with the nanoseconds it took a device of that speed, in claims."""
    rate = challenge.claimed_per_second * speed
    if isinstance(challenge.params, PowParams):
        work = solve_pow(challenge.params, challenge.seed, NumpyPowBackend(lanes=4096, calls=1))
        hashes = work.nonces[-1] + 1 - challenge.params.nonces.start
        return SignedWork(challenge, work), round(hashes * NS / rate)
    if isinstance(challenge.params, MemoryParams):
        prover = MemoryProver(challenge.params, NumpyMemoryBackend())
        prover.prepare(challenge.fill_seed)
        return SignedWork(challenge, prover.solve(challenge.seed)), round(challenge.params.operations * NS / rate)
    return SignedWork(challenge, honest_work(challenge)), round(challenge.params.operations * NS / rate)


def _stamps(rng: random.Random, work_ns: int) -> ProofTrace:
    pings = [RTT_NS + _jitter(rng) + _jitter(rng) for _ in range(PINGS)]
    elapsed = work_ns + RTT_NS + _jitter(rng) + _jitter(rng)
    return ProofTrace(rtt_min_ns=min(pings), last_byte_after_ns=elapsed)


def _jitter(rng: random.Random) -> int:
    return round(rng.lognormvariate(math.log(JITTER_MEDIAN_NS), JITTER_SIGMA))
