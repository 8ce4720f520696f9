"""Is the answer right, and how fast was it: tiles, shares and blocks recomputed elsewhere, the rate from our stamps.

Rules:
- numpy and hashlib are all it takes; torch is never imported.
- Checkers are processes of their own (spawned at the first proof), so that no check ever stands in the way of a stamp. What goes to it and comes back are numbers, bytes and decoded JSON of our own making, no object of a peer.
- A checker that dies is our own failure: the proof is NOT_MEASURED, which costs the miner nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from challenges.averages import band_of, sample_of
from challenges.bands import Expectation, RateFlag, expect
from challenges.draw import ChallengeKind
from challenges.hardware import HardwareTable
from challenges.matmul import MatmulCommitment, MatmulParams, check_openings, openings_from_wire
from challenges.memory import MemoryCommitment, MemoryParams, block_openings_from_wire, check_block_openings
from challenges.pow import PowCommitment, PowParams, check_shares
from challenges.proofs import ProofParams
from challenges.timing import PPM, duration_ns, judge_rate, pow_rate_lower_bound, rate_per_second
from neurons.validator.challenges import Challenge
from neurons.validator.opening_files import CommitmentFile, OpeningFile
from neurons.validator.proof_trace import ProofCommitment, ProofTrace, check_commitment
from polarise.errors import ProofRejected, RejectReason
from polarise.evidence import COUNT_MAX
from polarise.rate_average import RateAverage, RateSample

CHECK_SECONDS_MAX = 120.0
# Usual rates by model and kind.
Averages = Mapping[tuple[str, str], RateAverage]
NO_AVERAGES: Averages = MappingProxyType({})
# In what the rate of each kind is counted.
UNITS: Mapping[str, str] = MappingProxyType(
    {ChallengeKind.POW: "hashes/s", ChallengeKind.MATMUL: "operations/s", ChallengeKind.MEMORY: "bytes/s"}
)
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one proof is worth.

    Attributes:
        reason: Why it lost points; None when it passed.
        message: One sentence for the miner's operator.
        got: What it sent or what was measured.
        expected: What it had to be.
        measured_per_second: The measured rate, for a proof of work its lower bound; 0 when the proof does not hold.
        score: min(measured, claimed) over claimed in millionths; 0 when the proof does not hold.
        flag: On which side of its band the rate lies; it costs nothing.
        sample: What the rate adds to its model's average; None where nothing.
        verify_ms: Time of the check.
    """

    reason: RejectReason | None
    message: str = ""
    got: str | None = None
    expected: str | None = None
    measured_per_second: int = 0
    score: int = 0
    verify_ms: float = 0.0
    flag: RateFlag | None = None
    sample: RateSample | None = None

    @property
    def verified(self) -> bool:
        """Whether the work was done and the claim was met."""
        return self.reason is None

    @classmethod
    def of(cls, error: ProofRejected) -> Verdict:
        """Turn a rejection into the verdict that is kept."""
        got, expected = (None if value is None else str(value)[:200] for value in (error.got, error.expected))
        return cls(error.reason, error.message[:400], got, expected)


class _Checked(NamedTuple):
    """What comes back from the checker; an exception would have to be pickled."""

    reason: str | None
    message: str
    got: str | None
    expected: str | None
    verify_ns: int


class VerificationEngine:
    """Gives verdicts on proofs; use it as a context manager, which ends its process.

    Args:
        hardware: What vendors say of their cards.
        workers: How many checkers work at once; so many threads may ask.
    """

    def __init__(self, hardware: HardwareTable, *, workers: int = 1) -> None:
        self._hardware = hardware
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    def verify_resources(
        self, challenge: Challenge, trace: ProofTrace, *, owner_key: str = "", averages: Averages = NO_AVERAGES
    ) -> Verdict:
        """Check a complete proof and compare the rate with the claim.

        Args:
            challenge: What the miner was asked.
            trace: What it answered; commitment, stamps and, where the kind has them, openings are there.
            owner_key: The miner's owner, whose samples count together; empty where nothing is to be learned.
            averages: Usual rates before this epoch.
        """
        if trace.commitment is None or (challenge.has_openings and trace.openings is None):
            raise ValueError("a proof without commitment or openings has its verdict already")
        kept = trace.commitment
        commitment = check_commitment(challenge, kept.read() if isinstance(kept, CommitmentFile) else kept)
        checked = self._check(challenge, commitment, trace)
        verify_ms = round(checked.verify_ns / 1e6, 2)
        if checked.reason is not None:
            return Verdict(
                RejectReason(checked.reason), checked.message, checked.got, checked.expected, verify_ms=verify_ms
            )
        expectation = expected_of(challenge, self._hardware)
        trace.average = averages.get((expectation.model or "", challenge.kind.value))
        return judge(challenge, self._hardware, trace, owner_key=owner_key, verify_ms=verify_ms)

    def close(self) -> None:
        """End the checker."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> VerificationEngine:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _ensure(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                # Read by numpy's BLAS when a checker imports it: its tiles are too small to share, and threads that
                # wait for each other cost more than they save as soon as a host is busy.
                for name in ONE_THREAD:
                    os.environ.setdefault(name, "1")
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self.workers, context, initializer=_live_with_parent)
            return self._pool

    def _check(self, challenge: Challenge, commitment: ProofCommitment, trace: ProofTrace) -> _Checked:
        try:
            return (
                self._ensure()
                .submit(
                    check_answer,
                    challenge.params,
                    challenge.seed,
                    commitment,
                    trace.positions,
                    trace.openings,
                    challenge.fill_seed,
                )
                .result(CHECK_SECONDS_MAX)
            )
        except (BrokenExecutor, TimeoutError) as err:
            self.close()
            message = f"this validator's checker failed ({type(err).__name__})"
            return _Checked(RejectReason.NOT_MEASURED, message, None, None, 0)


def check_answer(
    params: ProofParams,
    seed: bytes,
    commitment: ProofCommitment,
    positions: tuple[tuple[int, ...], ...],
    openings: object,
    fill_seed: bytes = b"",
) -> _Checked:
    """Check every share, or decode and check all openings, of one proof; runs in the checker, and in `validator replay`.

    At n = 16384 with 32 openings about 0.1 s of one core, at 2,000 shares 1.3 ms; of a memory 0.13 s at k = 8, 0.95 s at 66.

    Args:
        params: Sizes of the proof.
        seed: The validator's seed.
        commitment: As `check_commitment` decoded it.
        positions: As drawn; none for a proof of work.
        openings: As the miner sent them, or the file they lie in; untrusted. None for a proof of work.
        fill_seed: What the memory was to be filled from; empty for other kinds.
    """
    began = time.monotonic_ns()
    try:
        sent = openings.read() if isinstance(openings, OpeningFile) else openings
        _check_answer(params, seed, commitment, positions, sent, fill_seed)
    except ProofRejected as err:
        verdict = Verdict.of(err)
        return _Checked(err.reason, verdict.message, verdict.got, verdict.expected, time.monotonic_ns() - began)
    return _Checked(None, "", None, None, time.monotonic_ns() - began)


def _check_answer(
    params: ProofParams,
    seed: bytes,
    commitment: ProofCommitment,
    positions: tuple[tuple[int, ...], ...],
    openings: object,
    fill_seed: bytes,
) -> None:
    match params, commitment:
        case MemoryParams(), MemoryCommitment():
            blocks = block_openings_from_wire(params, openings)
            check_block_openings(params, fill_seed, seed, commitment, positions, blocks)
        case MatmulParams(), MatmulCommitment():
            check_openings(params, seed, commitment, positions, openings_from_wire(params, openings))
        case PowParams(), PowCommitment():
            check_shares(params, seed, commitment)
        case _:
            raise TypeError(f"{type(commitment).__name__} does not answer {type(params).__name__}")


def judge(
    challenge: Challenge, hardware: HardwareTable, trace: ProofTrace, *, owner_key: str = "", verify_ms: float = 0.0
) -> Verdict:
    """Compare the rate of a proof that holds with the claim, with what its card can do at all, and with its like."""
    if trace.last_byte_after_ns is None or trace.rtt_min_ns is None:
        raise ValueError("a proof without stamps has no rate")
    # To the last byte: a miner could send the first one before its work is done.
    work_ns = duration_ns(0, trace.last_byte_after_ns, trace.rtt_min_ns)
    device, claimed = challenge.device, challenge.claimed_per_second
    expectation = expected_of(challenge, hardware)
    band = band_of(expectation, trace.average)
    rate = judge_rate(_rate(challenge.params, work_ns), claimed, expectation.peak, band)
    verdict = Verdict(
        rate.reason,
        measured_per_second=rate.measured,
        score=rate.counted * PPM // claimed,
        verify_ms=verify_ms,
        flag=rate.flag,
        sample=sample_of(expectation, owner_key, rate) if owner_key else None,
    )
    if rate.reason is None:
        return verdict
    is_slow = rate.reason is RejectReason.CLAIM_NOT_MET
    unit = UNITS[challenge.kind]
    return replace(
        verdict,
        message="the measured rate is below 0.6 of the claim" if is_slow else "faster than a card of this name can be",
        got=f"{rate.measured} {unit}",
        expected=f">= {claimed * 6 // 10} {unit}" if is_slow else f"a {device.name}",
    )


def expected_of(challenge: Challenge, hardware: HardwareTable) -> Expectation:
    """Return what the device should measure in this kind of proof."""
    model = hardware.find(challenge.device.name) if challenge.device.kind == "gpu" else None
    return expect(model, challenge.kind, challenge.claimed_per_second)


def _rate(params: ProofParams, work_ns: int) -> int:
    """Return what counts as measured; no more than a message can carry, for pings can be slower than a tiny proof."""
    if isinstance(params, PowParams):
        return min(pow_rate_lower_bound(params, work_ns), COUNT_MAX)
    return min(rate_per_second(params.operations, work_ns), COUNT_MAX)


def _live_with_parent() -> None:
    """Leave Ctrl-C to the daemon, and end when the daemon is killed: the pool's own pipes would keep us for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), name="parent-watch", daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
