"""The solver: a process of its own per device and proof, the only one that imports torch.

It speaks one JSON object per line on stdin and stdout: prepare, solve, open; the end of stdin ends it. A solver that
hangs or dies takes nothing of the miner with it, and its memory is given back with it. It is the kernel's first choice
where the host's memory runs out. It gains no rights, and where the miner is root it has none. Its only argument is the compiled scan of the proof of work, where the node has one.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO

from challenges.draw import ChallengeKind
from challenges.proofs import ProofParams, Prover, Work, kind_of, open_prover, read_params, sizes_of
from neurons.miner.unprivileged import solver_environ
from polarise.errors import SubnetError

Provers = Callable[[ProofParams, str], Prover]

SOLVER_COMMAND = (sys.executable, "-m", "neurons.miner.solver")
READY_SECONDS = 60
# A memory is filled before it is ready; a validator waits as long.
FILL_SECONDS = 90
OPEN_SECONDS = 5
_PR_SET_NO_NEW_PRIVS = 38
# Of a process whose pipe has ended already.
ENDING_SECONDS = 1.0


class SolverFailed(SubnetError):
    """The solver died, hung or refused; the proof is lost, the miner goes on."""


class SolverProcess:
    """The miner's end of one solver.

    Args:
        command: How to start it; tests and cheats pass their own.
        user: Number of the user it runs as, alone in its group; None keeps this process's (`neurons.miner.unprivileged`).

    Raises:
        SolverFailed: This host has no room for another process.
    """

    def __init__(self, command: Sequence[str] = SOLVER_COMMAND, user: int | None = None) -> None:
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                env=solver_environ(user),
            )
        except OSError as err:
            raise SolverFailed(f"no process can be started: {err.strerror}") from err

    @property
    def pid(self) -> int:
        """Process id on this host."""
        return self._process.pid

    def prepare(self, device: str, params: ProofParams, fill_seed: bytes = b"") -> None:
        """Import, allocate and warm up, or fill the memory.

        Args:
            device: ``cpu`` or ``cuda:N``.
            params: Kind and sizes.
            fill_seed: What a memory proof fills from, 32 bytes.

        Raises:
            SolverFailed: It could not.
        """
        wanted = {"kind": kind_of(params).value, "sizes": sizes_of(params), "fill_seed": fill_seed.hex()}
        self._ask({"op": "prepare", "device": device, **wanted}, FILL_SECONDS if fill_seed else READY_SECONDS)

    def solve(self, seed: bytes, deadline_seconds: float) -> dict[str, object]:
        """Do the proof and return its commitment in wire form.

        Raises:
            SolverFailed: It could not, or not in time.
        """
        return _mapping(self._ask({"op": "solve", "seed": seed.hex()}, deadline_seconds)["commitment"])

    def open(self, positions: Sequence[Sequence[int]]) -> list[dict[str, object]]:
        """Return the openings in wire form, in the order of the positions.

        Raises:
            SolverFailed: It could not, or a position is outside the proof.
        """
        answer = self._ask({"op": "open", "positions": [list(position) for position in positions]}, OPEN_SECONDS)
        openings = answer["openings"]
        if not isinstance(openings, list):
            raise SolverFailed("the solver sent no openings")
        return [_mapping(opening) for opening in openings]

    def has_ended(self, seconds: float) -> bool:
        """Whether the process is gone, with all it held, after so many seconds at most."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """End the process and those it started, whatever they do."""
        self._kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _kill(self) -> None:
        # It leads a session of its own; once it is waited for, its number may be somebody else's.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _ask(self, request: Mapping[str, object], deadline_seconds: float) -> dict[str, object]:
        is_late = threading.Event()
        timer = threading.Timer(deadline_seconds, self._end_late, (is_late,))
        timer.daemon = True
        timer.start()
        try:
            line = self._exchange(json.dumps(request).encode() + b"\n")
        except (OSError, ValueError) as err:
            raise SolverFailed(f"the solver is gone: {err}") from err
        finally:
            timer.cancel()
        if not line:
            if is_late.is_set():
                raise SolverFailed(f"the solver took longer than {deadline_seconds:g} s to {request['op']}")
            raise SolverFailed(f"the solver ended during {request['op']} ({self._ending()})")
        answer = _mapping(json.loads(line))
        if "error" in answer:
            raise SolverFailed(str(answer["error"]))
        return answer

    def _end_late(self, is_late: threading.Event) -> None:
        is_late.set()
        self._kill()

    def _ending(self) -> str:
        """Say how the process ended, whose pipe has: by a signal's name, or its status."""
        try:
            status = self._process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            return "it closed its answers and runs on"
        return signal.Signals(-status).name if status < 0 else f"status {status}"

    def _exchange(self, request: bytes) -> bytes:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise SolverFailed("the solver has no pipes")
        stdin.write(request)
        stdin.flush()
        return stdout.readline()


def serve(requests: IO[bytes], answers: IO[bytes], open_prover: Provers = open_prover) -> None:
    """Answer requests until the stream ends; an error is an answer, not an end.

    Args:
        requests: One JSON object per line.
        answers: The same the other way.
        open_prover: Sizes and device -> prover; cheats pass one that skips work.
    """
    solver = _Solver(open_prover)
    for line in requests:
        try:
            answer = solver.answer(json.loads(line))
        except Exception as err:  # noqa: BLE001  the edge of this process: the miner gets the cause instead of a dead pipe
            answer = {"error": f"{type(err).__name__}: {err}"}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


class _Solver:
    def __init__(self, open_prover: Provers) -> None:
        self._open_prover = open_prover
        self._prover: Prover | None = None
        self._work: Work | None = None

    def answer(self, request: dict[str, object]) -> dict[str, object]:
        match request["op"]:
            case "prepare":
                return self._prepare(request)
            case "solve":
                return self._solve(bytes.fromhex(str(request["seed"])))
            case "open":
                return self._open(request["positions"])
        raise ValueError(f"unknown operation {request['op']!r}")

    def _prepare(self, request: dict[str, object]) -> dict[str, object]:
        params = read_params(ChallengeKind(str(request["kind"])), _mapping(request["sizes"]))
        # Both hold a card's memory, of which a memory proof takes nearly all: there is no room for two.
        self._prover = self._work = None
        self._prover = self._open_prover(params, str(request["device"]))
        self._prover.prepare(bytes.fromhex(str(request["fill_seed"])))
        return {"ready": True}

    def _solve(self, seed: bytes) -> dict[str, object]:
        if self._prover is None:
            raise ValueError("solve before prepare")
        self._work = self._prover.solve(seed)
        return {"commitment": self._work.commitment.to_wire()}

    def _open(self, positions: object) -> dict[str, object]:
        if self._work is None or not isinstance(positions, list):
            raise ValueError("open before solve")
        return {"openings": [opening.to_wire() for opening in self._work.open(positions)]}


def _mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise SolverFailed(f"the solver sent {type(value).__name__}, expected an object")
    return value


def _be_killed_first() -> None:
    """Where memory runs out, the kernel shall end this process, never a tenant's or the miner's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _gain_nothing() -> None:
    """Whatever this process starts, no file's mark gives it rights that it does not have."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def main(open_prover: Provers = open_prover) -> None:
    """Serve on stdin and stdout; whatever a library prints goes to stderr."""
    _be_killed_first()
    _gain_nothing()
    # A device's number is NVML's, which counts by bus; CUDA would put the fastest card first.
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, answers, open_prover)


if __name__ == "__main__":
    main(partial(open_prover, pow_library=Path(sys.argv[1])) if len(sys.argv) > 1 else open_prover)
