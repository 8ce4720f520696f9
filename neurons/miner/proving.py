"""Which device proves which challenge at this moment, and how far each is; the one lock of all proofs.

Rules:
- A challenge counts as long as it stands under its device; whoever removes it, and nobody else, gives back what it has.
- Each step is left once, by one request.
- The same validator's next challenge takes the place of its earlier one. Another validator's does so only while that one
  still gets ready and was ordered later: of two orders the earlier one excuses from the other, and never the other way.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from dataclasses import dataclass

from challenges.proofs import ProofParams
from neurons.miner.solver import SolverProcess
from polarise.errors import ErrorCode, RequestRejected
from polarise.statement import SignedStatement


class Step(enum.Enum):
    """How far a challenge is."""

    PREPARING = enum.auto()
    READY = enum.auto()
    SOLVING = enum.auto()
    COMMITTED = enum.auto()
    OPENING = enum.auto()


@dataclass(eq=False)
class RunningProof:
    """One challenge at work.

    Attributes:
        challenge_id: The validator's name for it.
        validator_key: Whose it is.
        device: UUID of the device.
        device_index: Its place in the registry entry.
        params: What is asked for.
        fill_seed: What the memory of a memory proof is filled from; empty for other kinds.
        turn: Place of its order among all; see `neurons.miner.orders.OrderBook.turn`.
        orders: The validator's orders for it, in the order they came.
        step: How far it is.
        solver: Its process; None before it is started.
        timer: Ends it when the validator does not go on.
        began_unix_ms: When the work began, by the wall clock.
        began_ns: The same by the monotonic clock.
        displaced_by: The other validator's challenge that took its place.
    """

    challenge_id: str
    validator_key: str
    device: str
    device_index: int
    params: ProofParams
    fill_seed: bytes = b""
    turn: tuple[bool, int, str] = (True, 0, "")
    orders: tuple[SignedStatement, ...] = ()
    step: Step = Step.PREPARING
    solver: SolverProcess | None = None
    timer: threading.Timer | None = None
    began_unix_ms: int = 0
    began_ns: int = 0
    displaced_by: RunningProof | None = None


class Taken(Exception):
    """A device proves for another validator, which was first.

    Args:
        occupant: Its challenge.
    """

    def __init__(self, occupant: RunningProof) -> None:
        self.occupant = occupant
        super().__init__(f"the device {occupant.device} is proving something else")


class Proving:
    """All challenges at work on one node."""

    def __init__(self) -> None:
        self._running: dict[str, RunningProof] = {}
        self._lock = threading.Lock()

    def devices(self) -> frozenset[str]:
        """Return the devices that prove, or are about to."""
        with self._lock:
            return frozenset(self._running)

    def all(self) -> list[RunningProof]:
        """Return every challenge at work."""
        with self._lock:
            return list(self._running.values())

    def claim(self, running: RunningProof) -> RunningProof | None:
        """Put a challenge under its device, and return the earlier one whose place it took.

        Raises:
            Taken: The device proves for another validator.
        """
        with self._lock:
            earlier = self._running.get(running.device)
            if earlier is not None and earlier.validator_key != running.validator_key:
                if earlier.step is not Step.PREPARING or earlier.turn < running.turn:
                    raise Taken(earlier)
                earlier.displaced_by = running
            self._running[running.device] = running
        return earlier

    def equip(self, running: RunningProof, solver: SolverProcess) -> None:
        """Give a challenge its solver.

        Raises:
            RequestRejected: CONFLICT (409), it no longer counts; the solver is the caller's to end.
        """
        with self._lock:
            self._require(running)
            running.solver = solver

    def set_timer(self, running: RunningProof, seconds: float, end: Callable[[RunningProof], object]) -> None:
        """Let a challenge end after so many seconds; replaces the timer before, and does nothing where it has ended."""
        timer = threading.Timer(seconds, end, (running,))
        timer.daemon = True
        with self._lock:
            if self._running.get(running.device) is not running:
                return
            if running.timer is not None:
                running.timer.cancel()
            running.timer = timer
            timer.start()

    def go_on(self, running: RunningProof, expected: Step, to: Step, otherwise: str) -> SolverProcess:
        """Take a challenge from one step to the next; returns its solver.

        Raises:
            RequestRejected: CONFLICT (409), it no longer counts, or is at another step, as ``otherwise`` says.
        """
        with self._lock:
            self._require(running)
            if running.step is not expected or running.solver is None:
                raise conflict(otherwise)
            running.step = to
            return running.solver

    def find(self, challenge_id: str, validator_key: str) -> RunningProof:
        """Return a validator's challenge.

        Raises:
            RequestRejected: NOT_FOUND (404).
        """
        for running in self.all():
            if (running.challenge_id, running.validator_key) == (challenge_id, validator_key):
                return running
        raise RequestRejected(
            ErrorCode.NOT_FOUND,
            "no such challenge is prepared for you",
            hint="POST /challenge/prepare first",
            field="challenge_id",
            status=404,
        )

    def drop(self, running: RunningProof) -> bool:
        """Free the device; returns False when the challenge no longer counted."""
        with self._lock:
            if self._running.get(running.device) is not running:
                return False
            del self._running[running.device]
        return True

    def _require(self, running: RunningProof) -> None:
        if self._running.get(running.device) is not running:
            raise superseded()


def conflict(message: str) -> RequestRejected:
    """Return the answer to a request that comes at the wrong step."""
    return RequestRejected(
        ErrorCode.CONFLICT, message, hint="prepare, start, open: each once", field="challenge_id", status=409
    )


def superseded() -> RequestRejected:
    """Return the answer to a request for a challenge that no longer counts."""
    return conflict("a later challenge of yours took this one's place, or its time was over")
