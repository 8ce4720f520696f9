"""Miners that hold less memory than they claim, or other memory, and answer the memory proof all the same.

What is recomputed is really recomputed, and counted; only time is a model: the card's bandwidth by its vendor for what is
read, a link's rate for what lies elsewhere, and for what is made anew a kernel as much faster than the fastest known one
as is thought possible, all of them at work at once. Every doubt is the miner's.

Over HTTP the time is real, and this processor's: who makes units anew takes as long as that takes here, and claims three
times the rate; memory behind a link waits as much longer than the claim as the link is slower than the card.
"""

from __future__ import annotations

import functools
import random
import time
from abc import abstractmethod
from dataclasses import dataclass

from challenges import draw
from challenges.hardware import PPM, GpuModel
from challenges.memory import (
    MemoryCommitment,
    MemoryParams,
    block_openings_from_wire,
    check_block_openings,
    check_pass_roots,
    first_pass_key,
    next_pass_key,
)
from challenges.memory_backends import NumpyMemoryBackend
from challenges.memory_fit import FASTER_KERNEL_PPM, fill_ratio_ppm, hashes_for, unit_bytes_hashed_per_second
from challenges.memory_messages import BLOCK_BYTES, UNIT_BYTES, UNITS_PER_BLOCK
from challenges.memory_solver import MemoryBackend, MemoryProver, MemoryWork, solve_memory
from challenges.proofs import Prover
from challenges.timing import judge_rate, rate_per_second
from polarise import merkle
from polarise.errors import ProofRejected, RejectReason
from tests.adversaries.cheat import Cheat, Outcome
from tests.adversaries.exam import DEVICE, new_challenge, vendor_table
from tests.adversaries.live import Stage, prove
from tests.adversaries.odds import caught_by_openings
from tests.adversaries.partial_memory import (
    FilledOnce,
    InventingBackend,
    LinkedBackend,
    PartBackend,
    Passing,
    missing_count,
)

CARD = "NVIDIA H200"
# Units as dear as on the card of the play, and few of them: nothing in the check depends on how many there are.
HELD = MemoryParams(blocks=20, hashes=hashes_for(vendor_table().models[CARD]), passes=2, openings=3)
# The same for a clock that is real: passes that are long beside a request, and short beside what is made anew.
HELD_LIVE = MemoryParams(blocks=64, hashes=HELD.hashes, passes=4, openings=8)
SAMPLED = MemoryParams(blocks=64, hashes=1, passes=4, openings=8)
# PCIe 5.0 with sixteen lanes, without its overhead: no card of the table has more.
LINK_BYTES_PER_SECOND = 64_000_000_000


@dataclass(frozen=True, slots=True)
class Played:
    """What a cheat did.

    Args:
        work: The proof.
        time_ns: How long the card took by the model.
    """

    work: MemoryWork
    time_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryCheat(Cheat):
    """A miner whose memory is not what it should be, on a card that claims exactly what the table expects of it.

    Args:
        params: Sizes of the proof.
    """

    params: MemoryParams = SAMPLED

    @abstractmethod
    def prove(self, rng: random.Random, model: GpuModel, fill_seed: bytes, seed: bytes) -> Played:
        """Do what the cheat does instead of the proof."""

    @abstractmethod
    def stand_in(self, rng: random.Random) -> LiveCheat:
        """Return what proves so over HTTP."""

    def play_live(self, rng: random.Random, stage: Stage) -> Outcome:
        """Play once as a miner over HTTP on loopback."""
        cheat = self.stand_in(rng)
        device = DEVICE.model_copy(update={"memory_bytes_per_second": cheat.claimed_per_second})
        challenge = new_challenge(rng, cheat.params, device=device)
        with stage.miner(lambda _params, _device: cheat.prover, devices=(device,)) as miner:
            run = prove(miner.client(), challenge, stage.wave, stage.engine)
        return self.outcome(run.verdict.reason)

    def model(self, rng: random.Random) -> GpuModel:
        """Return the card it is played on."""
        return vendor_table().models[CARD]

    def play_pure(self, rng: random.Random) -> Outcome:
        """Prove, open, and let the rate be judged."""
        model, fill_seed, seed = self.model(rng), rng.randbytes(32), rng.randbytes(32)
        played = self.prove(rng, model, fill_seed, seed)
        return self.outcome(self._verdict(rng, model, fill_seed, seed, played))

    def _verdict(
        self, rng: random.Random, model: GpuModel, fill_seed: bytes, seed: bytes, played: Played
    ) -> RejectReason | None:
        try:
            commitment = MemoryCommitment.from_wire(played.work.commitment.to_wire())
            check_pass_roots(self.params, commitment)
            positions = draw.draw_positions(
                rng.randbytes(32),
                "GPU-0",
                draw.ChallengeKind.MEMORY,
                b"".join(commitment.roots),
                bounds=self.params.bounds,
                count=self.params.openings,
            )
            sent = [opening.to_wire() for opening in played.work.open(positions)]
            openings = block_openings_from_wire(self.params, sent)
            check_block_openings(self.params, fill_seed, seed, commitment, positions, openings)
        except ProofRejected as err:
            return err.reason
        rate = rate_per_second(self.params.operations, played.time_ns)
        return judge_rate(rate, model.memory_rate_expected, model.memory_bytes_per_second).reason


@dataclass(frozen=True, slots=True)
class LiveCheat:
    """A cheat at the miner's end of a real round.

    Args:
        params: What it is asked.
        prover: What answers.
        claimed_per_second: What it claims; so little, where time is not what catches it, that no machine is too slow.
    """

    params: MemoryParams
    prover: Prover
    claimed_per_second: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldsPart(MemoryCheat):
    """A card with less memory than it claims, which makes the rest in every pass.

    Args:
        share: Of the memory that is not there.
    """

    params: MemoryParams = HELD
    share: float

    def prove(self, rng: random.Random, model: GpuModel, fill_seed: bytes, seed: bytes) -> Played:
        """Give right answers, late."""
        backend = PartBackend(self.share)
        backend.fill(self.params, fill_seed)
        work = solve_memory(self.params, fill_seed, seed, backend)
        return Played(work, card_time_ns(model, self.params, backend.hashes_count))

    def stand_in(self, rng: random.Random) -> LiveCheat:
        """Claim three times the rate at which this processor can make what is missing."""
        params = HELD_LIVE
        hashes = params.passes * missing_count(params, self.share) * UNITS_PER_BLOCK * params.hashes
        claimed = 3 * params.operations * 10**9 // max(hashes * _hash_ps() // 1000, 1)
        return LiveCheat(params, MemoryProver(params, PartBackend(self.share)), claimed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invents(MemoryCheat):
    """A card with less memory than it claims, which invents digests in time.

    Args:
        share: Of the memory that is not there.
    """

    share: float

    def prove(self, rng: random.Random, model: GpuModel, fill_seed: bytes, seed: bytes) -> Played:
        """Give some wrong answers."""
        backend = InventingBackend(self.share)
        backend.fill(self.params, fill_seed)
        return Played(solve_memory(self.params, fill_seed, seed, backend), card_time_ns(model, self.params, 0))

    def stand_in(self, rng: random.Random) -> LiveCheat:
        """Invent in a real round."""
        return LiveCheat(self.params, MemoryProver(self.params, InventingBackend(self.share)))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory(MemoryCheat):
    """A card whose missing memory is the host's, behind the fastest link; all is filled, and all of it is read.

    Args:
        share: Of the memory that is the host's.
    """

    share: float

    def model(self, rng: random.Random) -> GpuModel:
        """Return any card."""
        return rng.choice(list(vendor_table().models.values()))

    def prove(self, rng: random.Random, model: GpuModel, fill_seed: bytes, seed: bytes) -> Played:
        """Give right answers at the link's rate."""
        backend = NumpyMemoryBackend()
        backend.fill(self.params, fill_seed)
        work = solve_memory(self.params, fill_seed, seed, backend)
        over_link = missing_count(self.params, self.share) * BLOCK_BYTES * self.params.passes
        link_ns = over_link * 10**9 // LINK_BYTES_PER_SECOND
        return Played(work, max(card_time_ns(model, self.params, 0, read=1.0 - self.share), link_ns))

    def stand_in(self, rng: random.Random) -> LiveCheat:
        """Wait for the link as much longer than the claim says as it is slower than the card."""
        claimed = self.params.operations * 10 // 3
        share_of_card = missing_count(self.params, self.share) / self.params.blocks
        slower = share_of_card * self.model(rng).memory_rate_expected / LINK_BYTES_PER_SECOND
        backend = LinkedBackend(0.3 * slower / self.params.passes)
        return LiveCheat(self.params, MemoryProver(self.params, backend), claimed)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedMemory(MemoryCheat):
    """One memory that stands for two: filled for one proof, it answers another."""

    def prove(self, rng: random.Random, model: GpuModel, fill_seed: bytes, seed: bytes) -> Played:
        """Answer the second proof from the first one's memory."""
        backend = FilledOnce()
        backend.fill(self.params, rng.randbytes(32))
        backend.fill(self.params, fill_seed)
        return Played(solve_memory(self.params, fill_seed, seed, backend), card_time_ns(model, self.params, 0))

    def stand_in(self, rng: random.Random) -> LiveCheat:
        """Keep in a real round what was filled before it."""
        backend = FilledOnce()
        backend.fill(self.params, rng.randbytes(32))
        return LiveCheat(self.params, MemoryProver(self.params, backend))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysGuessed(MemoryCheat):
    """No memory: every unit is made once, before the clock, and read under the keys of a nonce that is guessed."""

    def prove(self, rng: random.Random, model: GpuModel, fill_seed: bytes, seed: bytes) -> Played:
        """Show the passes of another seed."""
        backend = NumpyMemoryBackend()
        backend.fill(self.params, fill_seed)
        guessed = solve_memory(self.params, fill_seed, rng.randbytes(32), backend)
        return Played(guessed, card_time_ns(model, self.params, 0))

    def stand_in(self, rng: random.Random) -> LiveCheat:
        """Show the passes of another seed in a real round."""
        guessed = rng.randbytes(32)
        return LiveCheat(
            self.params,
            Passing(self.params, lambda fill, _seed, backend: solve_memory(self.params, fill, guessed, backend)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysUnchained(MemoryCheat):
    """No memory: every unit is made once after the start, and read under the keys of all passes at the same time."""

    def prove(self, rng: random.Random, model: GpuModel, fill_seed: bytes, seed: bytes) -> Played:
        """Take a root that nobody knows yet for the root of nothing."""
        backend = NumpyMemoryBackend()
        backend.fill(self.params, fill_seed)
        work = self._unchained(fill_seed, seed, backend)
        return Played(work, card_time_ns(model, self.params, self.params.fill_hashes))

    def stand_in(self, rng: random.Random) -> LiveCheat:
        """Do so in a real round."""
        return LiveCheat(self.params, Passing(self.params, self._unchained))

    def _unchained(self, fill_seed: bytes, seed: bytes, backend: MemoryBackend) -> MemoryWork:
        keys = [first_pass_key(fill_seed, seed)]
        while len(keys) < self.params.passes:
            keys.append(next_pass_key(keys[-1], merkle.EMPTY_ROOT))
        return work_under(self.params, keys, backend)


def card_time_ns(model: GpuModel, params: MemoryParams, hashes_count: int, *, read: float = 1.0) -> int:
    """Return how long a card takes to read all passes while it hashes, whichever takes longer.

    Args:
        model: The card.
        params: Sizes of the proof.
        hashes_count: How many hashes it makes between start and commitment.
        read: Share of the bytes that its own memory gives it.
    """
    read_ns = round(params.operations * read) * 10**9 // model.memory_rate_expected
    hashed_per_second = unit_bytes_hashed_per_second(model) * FASTER_KERNEL_PPM // PPM
    return max(read_ns, hashes_count * UNIT_BYTES * 10**9 // hashed_per_second)


def slow_down(model: GpuModel, params: MemoryParams, share: float) -> float:
    """Return the formula's word for a card that makes a share anew: max(1, f·rho)."""
    rho = fill_ratio_ppm(model, params.hashes, kernel_ppm=FASTER_KERNEL_PPM) / PPM
    return max(1.0, missing_count(params, share) / params.blocks * rho)


def work_under(params: MemoryParams, keys: list[bytes], backend: MemoryBackend) -> MemoryWork:
    """Do all passes under these keys, whatever the roots are."""
    trees = tuple(backend.pass_tree(key, params.blocks) for key in keys)
    return MemoryWork(params, tuple(keys), trees, backend)


@functools.cache
def _hash_ps() -> int:
    """Return the processor time of one hash here, in picoseconds: a busy machine makes a clock late, not this."""
    params = MemoryParams(blocks=8, hashes=8, passes=1, openings=1)
    began_ns = time.thread_time_ns()
    NumpyMemoryBackend().fill(params, bytes(32))
    return (time.thread_time_ns() - began_ns) * 1000 // params.fill_hashes


def _invented_count(params: MemoryParams, share: float) -> int:
    return params.passes * missing_count(params, share)


_DIGESTS = SAMPLED.passes * SAMPLED.blocks
_INVENTED = _invented_count(SAMPLED, 0.1)

CHEATS: tuple[Cheat, ...] = (
    HoldsPart(
        name="half of the memory",
        how="holds half of the units and makes the others anew in each pass, 64 times as dear as reading them",
        reasons=(RejectReason.CLAIM_NOT_MET,),
        share=0.5,
    ),
    HoldsPart(
        name="95 % of the memory",
        how="lacks one unit in twenty and makes those anew in each pass, which takes three passes' time",
        reasons=(RejectReason.CLAIM_NOT_MET,),
        share=0.05,
    ),
    Invents(
        name="digests of missing memory",
        how="holds 90 % of the memory and invents the digests of the rest",
        reasons=(RejectReason.BLOCK_MISMATCH,),
        share=0.1,
        predicted=caught_by_openings(_DIGESTS, _INVENTED, SAMPLED.openings),
        formula=f"1 - C(T-m, s) / C(T, s), T={_DIGESTS} m={_INVENTED} s={SAMPLED.openings}",
    ),
    HostMemory(
        name="host's memory for the card's",
        how="has half of the memory behind the fastest link there is, on any card",
        reasons=(RejectReason.CLAIM_NOT_MET,),
        share=0.5,
    ),
    SharedMemory(
        name="one memory for two proofs",
        how="fills memory for one proof and answers a second one from it",
        reasons=(RejectReason.BLOCK_MISMATCH,),
    ),
    KeysGuessed(
        name="pass keys guessed",
        how="reads everything under the keys of a guessed nonce before the clock runs",
        reasons=(RejectReason.BLOCK_MISMATCH,),
        formula="1 - 2**-256 for a key of 256 bits",
    ),
    KeysUnchained(
        name="all passes at once",
        how="makes every unit once and reads it under the keys of all passes, each but the first made without the root before",
        reasons=(RejectReason.BLOCK_MISMATCH,),
        predicted=caught_by_openings(_DIGESTS, _DIGESTS - SAMPLED.blocks, SAMPLED.openings),
        formula=f"1 - C(B, s) / C(T, s), B={SAMPLED.blocks} T={_DIGESTS} s={SAMPLED.openings}",
    ),
)
