"""Miners that work on the clock instead of the proof: slow pings, an answer held back or begun early, a faster card behind."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from flask import Response

from challenges.hardware import HardwareTable
from challenges.timing import CLAIM_FLOOR_PPM, PPM, RTT_SHARE_MAX_PPM, fit_params
from neurons.base.access import Caller
from neurons.base.health import Health
from neurons.validator.challenges import Challenge
from neurons.validator.proof_trace import ProofTrace
from neurons.validator.verification import VerificationEngine, judge
from polarise.errors import RejectReason
from tests.adversaries.cheat import Cheat, Outcome
from tests.adversaries.exam import DEVICE, MATMUL, Positions, SignedWork, examine, new_challenge, vendor_table
from tests.adversaries.live import Stage, prove
from tests.adversaries.proofs import honest_work

NS = 1_000_000_000
# More than 2 % of a second, so that it is the share and not the 100 ms that binds.
PING_NS = 60_000_000
RATIO_MIN, RATIO_MAX = 0.5, CLAIM_FLOOR_PPM / PPM
# A ratio above this one passes with the whole of what slow pings can give.
RATIO_SAVED = RATIO_MAX * (1 - RTT_SHARE_MAX_PPM / PPM)
LIVE_SECONDS = 0.5
# A card that this machine's processor outdoes by far; the columns are those of hardware.csv.
TOY_CARD = """\
nvml_name,arch,compute_capability,sms,boost_mhz,vram_gb,nvml_total_mib,mem_bw_gbs,fp32_tflops,tensor16_dense_tflops,\
int8_dense_tops,tdp_w,sha256_hashcat_ghs,sha256_per_sm_clk,source_specs,source_tensor
A Toy,Toy,1.0,1,1,1,1,1,0.000001,0.000001,0.000001,1,,,a test,a test
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowPings(Cheat):
    """A miner below the floor that delays its pings, so that more is taken off its time."""

    def play_pure(self, rng: random.Random) -> Outcome:
        """Have 0.5 to 0.6 of the claim: what is below 0.6·49/50 stays below the floor."""
        challenge = taking(rng, seconds=1.0)
        ratio = rng.uniform(RATIO_MIN, RATIO_MAX)
        elapsed_ns = round(NS / ratio)
        trace = ProofTrace(rtt_min_ns=PING_NS, last_byte_after_ns=elapsed_ns)
        verdict = examine(challenge, SignedWork(challenge, honest_work(challenge)), trace)
        measured = verdict.measured_per_second * elapsed_ns / (challenge.params.operations * NS)
        assert measured <= 50 / 49, f"slow pings gave {measured - 1}"
        return Outcome(verdict.reason in self.reasons, verdict.reason, measured - 1)

    def play_live(self, rng: random.Random, stage: Stage) -> Outcome:
        """Have 0.55 of the claim in half a second: pings of 100 ms, taken off whole, would make 0.69 of it."""
        ping_seconds, ratio = 0.1, 0.55
        challenge = taking(rng, seconds=LIVE_SECONDS * ratio)
        work = honest_work(challenge)

        def slow_ping(_caller: Caller, _body: bytes) -> Response:
            time.sleep(ping_seconds)
            return Health({}).healthz()

        with stage.answering(Holding(SignedWork(challenge, work), LIVE_SECONDS)) as miner:
            miner.views["/healthz"] = slow_ping
            run = prove(miner.client(), challenge, stage.wave, stage.engine)
        return self.outcome(run.verdict.reason)


@dataclass(frozen=True, slots=True)
class Holding:
    """Answers when some time has passed."""

    inner: SignedWork
    seconds: float

    def commit(self) -> bytes:
        """Wait with the answer in hand."""
        time.sleep(self.seconds)
        return self.inner.commit()

    def open(self, positions: Positions) -> bytes:
        """Open at once."""
        return self.inner.open(positions)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBack(Cheat):
    """A miner that begins its answer at once and ends it when it is done, as if only the beginning counted."""

    def play_pure(self, rng: random.Random) -> Outcome:
        """Send the first byte after a tenth of the claimed time, the last one too late by the least of 1 %."""
        challenge = taking(rng, seconds=1.0)
        ratio = rng.uniform(0.1, RATIO_MAX * 0.99)
        trace = ProofTrace(rtt_min_ns=0, first_byte_after_ns=NS // 10, last_byte_after_ns=round(NS / ratio))
        return self.outcome(examine(challenge, SignedWork(challenge, honest_work(challenge)), trace).reason)

    def play_live(self, rng: random.Random, stage: Stage) -> Outcome:
        """Send the first byte at once and the rest after five times the claimed time."""
        challenge = taking(rng, seconds=LIVE_SECONDS / 5)
        player = SignedWork(challenge, honest_work(challenge))
        body = player.commit()

        def early(_caller: Caller, _body: bytes) -> Response:
            return Response(_in_two(body, LIVE_SECONDS), mimetype="application/json")

        with stage.answering(player) as miner:
            miner.views["/challenge/start"] = early
            run = prove(miner.client(), challenge, stage.wave, stage.engine)
        return self.outcome(run.verdict.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class FasterThanPossible(Cheat):
    """A miner that relays to more or bigger cards than the one it names."""

    def play_pure(self, rng: random.Random) -> Outcome:
        """Name a card of the table and answer with the honest rate of two to eight of them."""
        card = rng.choice(sorted(vendor_table().models.values(), key=lambda model: model.nvml_name))
        cards = rng.randrange(2, 9)
        device = DEVICE.model_copy(
            update={
                "kind": "gpu",
                "name": card.nvml_name,
                "memory_bytes": card.memory_bytes,
                "matmul_ops_per_second": card.matmul_rate_expected,
            }
        )
        params = fit_params(card.matmul_rate_expected, 5, memory_bytes=card.memory_bytes)
        # Only the rate is judged: a relay's tiles are right.
        challenge = new_challenge(rng, params, device=device)
        trace = ProofTrace(rtt_min_ns=0, last_byte_after_ns=round(challenge.expected_seconds * NS / cards))
        return self.outcome(judge(challenge, vendor_table(), trace).reason)

    def play_live(self, rng: random.Random, stage: Stage) -> Outcome:
        """Name a card slower than this machine."""
        toy = DEVICE.model_copy(update={"kind": "gpu", "name": "A Toy"})
        challenge = new_challenge(rng, device=toy)
        with (
            VerificationEngine(HardwareTable.parse(TOY_CARD)) as engine,
            stage.answering(SignedWork(challenge, honest_work(challenge))) as miner,
        ):
            run = prove(miner.client(), challenge, stage.wave, engine)
        return self.outcome(run.verdict.reason)


def taking(rng: random.Random, *, seconds: float) -> Challenge:
    """Return a challenge that takes a device of its claim so many seconds."""
    rate = round(MATMUL.operations / seconds)
    return new_challenge(rng, device=DEVICE.model_copy(update={"matmul_ops_per_second": rate}))


def _in_two(body: bytes, seconds: float) -> Iterator[bytes]:
    yield body[:1]
    time.sleep(seconds)
    yield body[1:]


CHEATS: tuple[Cheat, ...] = (
    SlowPings(
        name="inflated pings",
        how="has 0.5 to 0.6 of its claim and delays its pings, so that the rest is taken for the link's delay",
        reasons=(RejectReason.CLAIM_NOT_MET,),
        predicted=(RATIO_SAVED - RATIO_MIN) / (RATIO_MAX - RATIO_MIN),
        predicted_live=1.0,
        formula="(0.6·49/50 - 0.5) / 0.1; gain <= 1/49",
    ),
    HeldBack(
        name="answer held back",
        how="sends the first byte early and the last one when the work is done",
        reasons=(RejectReason.CLAIM_NOT_MET,),
    ),
    FasterThanPossible(
        name="faster than possible",
        how="names one card and answers with the rate of two to eight of them",
        reasons=(RejectReason.TOO_FAST,),
    ),
)
