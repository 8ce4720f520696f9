"""All proofs of a node against itself, in the order that tells most.

Rules:
- First each kind on each device alone with small sizes: what cannot work at all is found in a second. A kind that a device
  has no solver for is left out.
- Then each kind with the sizes that a validator would ask of the claim, on all devices at once, as in its round: devices
  that share a power supply or processors show it.
- What is not claimed is not asked for in real sizes, as in a round.
- Checks begin when no device works any more. A solver that fails ends its own trial, and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import MappingProxyType

from challenges.draw import ChallengeKind
from challenges.hardware import HardwareTable
from challenges.matmul_messages import MatmulParams
from challenges.memory_fit import fit_cpu_memory_params, fit_gpu_memory_params
from challenges.memory_messages import MemoryParams
from challenges.pow_messages import PowParams
from challenges.proofs import ProofParams, kind_of
from challenges.timing import WorkTooSmall, fit_params, fit_pow_params
from neurons.miner.failure import failure_of, failure_of_proof
from neurons.miner.hardware import CLAIM_FIELDS, claimable_rate
from neurons.miner.solver import SolverFailed, SolverProcess
from neurons.miner.trial import Attempt, Basis, Size, Subject, Trial
from polarise.errors import ProofRejected

# In the order in which a validator asks; with the sizes of the small trial.
SMALL: Mapping[ChallengeKind, ProofParams] = MappingProxyType(
    {
        ChallengeKind.POW: PowParams(shares=64, difficulty=256),
        ChallengeKind.MATMUL: MatmulParams(n=256, rounds=2),
        ChallengeKind.MEMORY: MemoryParams(blocks=16, hashes=1, passes=2, openings=8),
    }
)
NAMES: Mapping[ChallengeKind, str] = MappingProxyType(
    {
        ChallengeKind.POW: "proof of work",
        ChallengeKind.MATMUL: "matmul proof",
        ChallengeKind.MEMORY: "memory proof",
    }
)
TICK_SECONDS = 0.5
TELL_EVERY_TICKS = 10


class TrialRunner:
    """Runs all trials of a node.

    Args:
        hardware: What vendors say of their cards.
        seconds: How long a real proof should take a device that holds its claim.
        proof_seconds_max: A solver that works longer is ended, as in a challenge.
        start_solver: Makes a solver process, as in a challenge.
        on_progress: Called with a line when something begins, and every five seconds of waiting.
        on_tick: Called twice a second while devices work.
    """

    def __init__(
        self,
        hardware: HardwareTable,
        *,
        seconds: int,
        proof_seconds_max: float,
        start_solver: Callable[[], SolverProcess],
        on_progress: Callable[[str], None] = lambda _line: None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._hardware = hardware
        self._seconds = seconds
        self._proof_seconds_max = proof_seconds_max
        self._start_solver = start_solver
        self._on_progress = on_progress
        self._on_tick = on_tick

    def run(self, subjects: Sequence[Subject]) -> list[Trial]:
        """Run the small trials one by one, then the real ones of each kind on all devices at once."""
        trials: list[Trial] = []
        for subject in subjects:
            for params in SMALL.values():
                trials += self._together([Attempt(subject, params, Size.SMALL)])
        for kind in SMALL:
            attempts: list[Attempt] = []
            # What fails at small sizes has been told, and would only fail later.
            for subject in [trial.subject for trial in trials if trial.kind is kind and trial.is_passed]:
                made = self._real(subject, kind)
                if isinstance(made, Trial):
                    trials.append(made)
                elif made is not None:
                    attempts.append(made)
            trials += self._together(attempts)
        return trials

    def _real(self, subject: Subject, kind: ChallengeKind) -> Attempt | Trial | None:
        """Choose the sizes that a validator would ask for, or say why it would not; None where nothing is claimed."""
        device = subject.device
        claimed = int(getattr(device, CLAIM_FIELDS[kind]))
        try:
            if subject.basis is Basis.MEASURED:
                self._on_progress(f"{device.name} ({device.uuid}): {NAMES[kind]}, measured as join does it")
                claimed = claimable_rate(device, subject.index, kind, self._start_solver)
            if not claimed:
                return None
            params = self._fitted(kind, subject, claimed)
        except SolverFailed as err:
            return Trial(subject, kind, Size.REAL, None, claimed, failure=failure_of(str(err), device))
        except WorkTooSmall as err:
            return Trial(subject, kind, Size.REAL, err.params, claimed, failure=failure_of_proof(err))
        return Attempt(subject, params, Size.REAL, claimed)

    def _fitted(self, kind: ChallengeKind, subject: Subject, claimed: int) -> ProofParams:
        if kind is ChallengeKind.POW:
            return fit_pow_params(claimed, self._seconds, slot=subject.index)
        memory_bytes = subject.device.memory_bytes
        if kind is ChallengeKind.MATMUL:
            return fit_params(claimed, self._seconds, memory_bytes=memory_bytes or None)
        if subject.device.kind == "cpu":
            return fit_cpu_memory_params(claimed, self._seconds, memory_bytes=memory_bytes)
        model = self._hardware.find(subject.device.name)
        return fit_gpu_memory_params(model, memory_bytes, claimed, self._seconds)

    def _together(self, attempts: Sequence[Attempt]) -> Iterator[Trial]:
        if not attempts:
            return
        with ThreadPoolExecutor(len(attempts), thread_name_prefix="trial") as threads:
            try:
                for step in (self._prepare, self._solve):
                    self._wait_for(attempts, [threads.submit(_go_on, step, attempt) for attempt in attempts])
                for attempt in attempts:
                    _go_on(Attempt.open, attempt)
            finally:
                # Before the threads are waited for: after Ctrl-C they would wait for their solvers.
                for attempt in attempts:
                    if attempt.solver is not None:
                        attempt.solver.close()
        for attempt in attempts:
            yield attempt.judge(self._hardware)

    def _wait_for(self, attempts: Sequence[Attempt], futures: Sequence[Future[None]]) -> None:
        ticks = 0
        while pending := [future for future in futures if not future.done()]:
            wait(pending, TICK_SECONDS)
            self._on_tick()
            ticks += 1
            if ticks % TELL_EVERY_TICKS == 0:
                names = ", ".join(_text(attempt) for attempt in attempts)
                self._on_progress(f"{names} … {ticks * TICK_SECONDS:g} s")
        for future in futures:
            future.result()

    def _prepare(self, attempt: Attempt) -> None:
        self._on_progress(_text(attempt))
        attempt.prepare(self._start_solver())

    def _solve(self, attempt: Attempt) -> None:
        attempt.solve(self._proof_seconds_max)


def _go_on(step: Callable[[Attempt], None], attempt: Attempt) -> None:
    """Take the next step of an attempt that has not failed."""
    if attempt.failure is not None:
        return
    try:
        step(attempt)
    except (SolverFailed, ProofRejected) as err:
        attempt.fail(err)


def _text(attempt: Attempt) -> str:
    device = attempt.subject.device
    return f"{device.name} ({device.uuid}): {NAMES[kind_of(attempt.params)]}, {attempt.size} sizes"
