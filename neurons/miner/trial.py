"""One proof of a node against itself: a real solver process, checked and judged as a validator does it.

The time is that of `solve`, on this machine and without any network.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field, replace
from enum import StrEnum

from challenges.bands import Expectation, expect
from challenges.draw import ChallengeKind, draw_positions
from challenges.hardware import HardwareTable
from challenges.matmul import MatmulCommitment, check_openings, check_roots_shape, openings_from_wire
from challenges.matmul_messages import MatmulParams
from challenges.memory import (
    MemoryCommitment,
    MemoryParams,
    block_openings_from_wire,
    check_block_openings,
    check_pass_roots,
)
from challenges.pow import PowCommitment, check_shares
from challenges.pow_messages import PowParams
from challenges.proofs import ProofParams, kind_of
from challenges.timing import RateVerdict, judge_rate, pow_rate_lower_bound, rate_per_second
from neurons.miner.failure import Failure, failure_of, failure_of_proof
from neurons.miner.hardware import device_name
from neurons.miner.solver import SolverFailed, SolverProcess
from polarise.errors import ProofRejected
from polarise.hardware import DeviceClaim


class Basis(StrEnum):
    """What a measured rate is compared with."""

    ENTRY = "the registry entry"
    TABLE = "the table of cards"
    MEASURED = "what join would claim now"


class Size(StrEnum):
    """How much a trial asks for."""

    SMALL = "small"
    REAL = "real"


@dataclass(frozen=True, slots=True)
class Subject:
    """One device under test.

    Attributes:
        device: The device with its claims; claims of 1 where the basis is what is measured now.
        index: Its place among the host's devices.
        basis: Where the claims are from.
    """

    device: DeviceClaim
    index: int
    basis: Basis


@dataclass(frozen=True, slots=True)
class Trial:
    """One proof, and what came of it.

    Attributes:
        subject: The device.
        kind: Which proof.
        size: How much was asked for.
        params: What was asked for; None where nothing could be.
        claimed: The claim per second that a real one is compared with; 0 for a small one.
        work_ns: Time of the work; 0 where there was no commitment.
        check_ns: Time of the check.
        expectation: What the device should measure; None for a small one.
        rate: The verdict on the rate; None for a small one, and where the proof does not hold.
        failure: Why the proof does not hold; None where it does.
    """

    subject: Subject
    kind: ChallengeKind
    size: Size
    params: ProofParams | None
    claimed: int = 0
    work_ns: int = 0
    check_ns: int = 0
    expectation: Expectation | None = None
    rate: RateVerdict | None = None
    failure: Failure | None = None

    @property
    def is_passed(self) -> bool:
        """Whether the proof holds, and the rate of a real one is accepted."""
        return self.failure is None and (self.size is Size.SMALL or (self.rate is not None and self.rate.is_accepted))


@dataclass(slots=True)
class Attempt:
    """A trial on its way: prepare, solve, open, judge, each once and while nothing has failed.

    Attributes:
        subject: The device.
        params: What is asked for.
        size: How much that is.
        claimed: The claim per second.
        solver: Its process; None before it is started.
        failure: Why it goes no further.
    """

    subject: Subject
    params: ProofParams
    size: Size
    claimed: int = 0
    solver: SolverProcess | None = None
    failure: Failure | None = None
    _seed: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _fill_seed: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _proof: dict[str, object] | None = None
    _positions: tuple[tuple[int, ...], ...] = ()
    _openings: list[dict[str, object]] | None = None
    _work_ns: int = 0

    def prepare(self, solver: SolverProcess) -> None:
        """Take a solver and warm it up for this device.

        Raises:
            SolverFailed: It could not.
        """
        self.solver = solver
        name = device_name(self.subject.device, self.subject.index)
        solver.prepare(name, self.params, self._fill_seed if isinstance(self.params, MemoryParams) else b"")

    def solve(self, deadline_seconds: float) -> None:
        """Do the work, and take its time.

        Raises:
            SolverFailed: It could not, or not in time.
        """
        began_ns = time.monotonic_ns()
        self._proof = self._equipped().solve(self._seed, deadline_seconds)
        self._work_ns = time.monotonic_ns() - began_ns

    def open(self) -> None:
        """Draw positions now that the commitment is there, as a validator does, and have them opened.

        Raises:
            SolverFailed: It could not.
            ProofRejected: The commitment has not the form of its kind.
        """
        match self.params:
            case PowParams():
                return
            case MatmulParams() as params:
                check_roots_shape(params, MatmulCommitment.from_wire(self._proof))
            case MemoryParams() as params:
                check_pass_roots(params, MemoryCommitment.from_wire(self._proof))
        self._positions = draw_positions(
            secrets.token_bytes(32),
            self.subject.device.uuid,
            kind_of(self.params),
            json.dumps(self._proof).encode(),
            bounds=self.params.bounds,
            count=self.params.openings,
        )
        self._openings = self._equipped().open(self._positions)

    def judge(self, hardware: HardwareTable) -> Trial:
        """Check the proof, compare its rate with the claim, and say what came of it."""
        began_ns = time.monotonic_ns()
        if self.failure is None:
            try:
                self._check()
            except ProofRejected as err:
                self.failure = failure_of_proof(err)
        check_ns = time.monotonic_ns() - began_ns
        kind, device = kind_of(self.params), self.subject.device
        trial = Trial(self.subject, kind, self.size, self.params, self.claimed, self._work_ns, check_ns)
        if self.failure is not None or self.size is Size.SMALL:
            return replace(trial, failure=self.failure)
        expectation = expect(hardware.find(device.name) if device.kind == "gpu" else None, kind, self.claimed)
        rate = judge_rate(self._measured(), self.claimed, expectation.peak, expectation.band)
        return replace(trial, expectation=expectation, rate=rate)

    def fail(self, err: SolverFailed | ProofRejected) -> None:
        """Go no further."""
        device = self.subject.device
        self.failure = failure_of(str(err), device) if isinstance(err, SolverFailed) else failure_of_proof(err)

    def _equipped(self) -> SolverProcess:
        if self.solver is None:
            raise ValueError("solve or open before prepare")
        return self.solver

    def _check(self) -> None:
        """Call what the validator's checker calls."""
        match self.params:
            case MatmulParams() as params:
                commitment = MatmulCommitment.from_wire(self._proof)
                openings = openings_from_wire(params, self._openings)
                check_openings(params, self._seed, commitment, self._positions, openings)
            case PowParams() as params:
                check_shares(params, self._seed, PowCommitment.from_wire(self._proof))
            case MemoryParams() as params:
                roots = MemoryCommitment.from_wire(self._proof)
                blocks = block_openings_from_wire(params, self._openings)
                check_block_openings(params, self._fill_seed, self._seed, roots, self._positions, blocks)

    def _measured(self) -> int:
        if isinstance(self.params, PowParams):
            return pow_rate_lower_bound(self.params, self._work_ns)
        return rate_per_second(self.params.operations, self._work_ns)
