"""Cheats over real HTTP on loopback: the miner's server and challenge handler, the validator's client, round and checker.

Rules:
- `prove` and `prove_together` are the only places that know how a round is led; every cheat goes through them.
- A cheat replaces the prover behind the real handler (`Stage.miner`) or, where it is about the bytes of an answer, the
  answers themselves (`Stage.answering`). Nothing on the validator's side is replaced.
- The prover runs in the handler's process: the solver's process is shown to work elsewhere, and costs half a second.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flask import Response

from challenges.proofs import ProofParams, Prover, Work
from neurons.base.access import Caller
from neurons.miner.solver import SolverFailed, SolverProcess
from neurons.validator.budget import Budget
from neurons.validator.challenges import Challenge
from neurons.validator.proof_round import ProofRound, ProofTrace
from neurons.validator.verification import Verdict, VerificationEngine
from polarise.clients import MinerClient
from polarise.decode import decode_model
from polarise.errors import ProofRejected, SubnetError
from polarise.hardware import DeviceClaim
from polarise.messages import OpenRequest, SuccessAnswer
from polarise.signing import Identity
from polarise.statement import SignedStatement
from tests.adversaries.exam import Player
from tests.support.proving_miner import CPU, MINER, ProvingMiner, View, proving_miner

# Long enough for any honest play here; a cheat that lets time pass brings its own.
ROUND_SECONDS = 60.0

Provers = Callable[[ProofParams, str], Prover]
Solve = Callable[[bytes], Work]


@dataclass(frozen=True, slots=True)
class LiveRun:
    """What came of one proof over HTTP, with the stamps it rests on."""

    verdict: Verdict
    trace: ProofTrace


def prove(
    client: MinerClient,
    challenge: Challenge,
    engine: VerificationEngine,
    *,
    seconds: float = ROUND_SECONDS,
    round_: ProofRound | None = None,
) -> LiveRun:
    """Lead one proof as the validator does, and judge it.

    Args:
        client: The miner.
        challenge: What it is asked.
        engine: The validator's checker.
        seconds: What is left of this miner's time.
        round_: Who leads it; the plain round if left out.
    """
    trace = ProofTrace()
    try:
        (round_ or ProofRound()).run(client, challenge, trace, Budget(seconds))
        return LiveRun(engine.verify_resources(challenge, trace), trace)
    except ProofRejected as err:
        return LiveRun(Verdict.of(err), trace)


def prove_together(asked: Sequence[tuple[MinerClient, Challenge]], engine: VerificationEngine) -> list[LiveRun]:
    """Lead several proofs whose clocks start at the same moment, and judge them in their order."""
    window = _Window(len(asked))
    with ThreadPoolExecutor(len(asked)) as threads:
        traces = [ProofTrace() for _ in asked]
        rounds = [
            threads.submit(window.run, client, challenge, trace, Budget(ROUND_SECONDS))
            for (client, challenge), trace in zip(asked, traces, strict=True)
        ]
        errors = [future.exception() for future in rounds]
    return [
        LiveRun(_verdict_after(error, engine, challenge, trace), trace)
        for error, (_, challenge), trace in zip(errors, asked, traces, strict=True)
    ]


class Stage:
    """Where cheats are played live; a context manager.

    Cheats that need nothing special take turns on one miner, which spares each the start and end of a server.

    Args:
        folder: Empty; each miner gets a folder in it.
        engine: Checks the proofs of all miners played here.
    """

    def __init__(self, folder: Path, engine: VerificationEngine) -> None:
        self.engine = engine
        self._folders = (folder / str(index) for index in itertools.count())
        self._stack = contextlib.ExitStack()
        self._solve: Solve | None = None

    def __enter__(self) -> Stage:
        self._common = self._stack.enter_context(self.miner(self._prover))
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def new_folder(self) -> Path:
        """Make a folder for one miner."""
        folder = next(self._folders)
        folder.mkdir()
        return folder

    @contextlib.contextmanager
    def miner(
        self, provers: Provers, *, devices: tuple[DeviceClaim, ...] = (CPU,), identity: Identity = MINER
    ) -> Iterator[ProvingMiner]:
        """Serve a miner of its own, whose devices are proven by these provers."""
        with proving_miner(
            self.new_folder(), start_solver=lambda: LocalSolver(provers), devices=devices, identity=identity
        ) as miner:
            yield miner

    @contextlib.contextmanager
    def answering(self, answers: Player) -> Iterator[ProvingMiner]:
        """Let the common miner send these bytes; what else is changed in its views is put back at the end."""
        honest = dict(self._common.views)
        self._common.views.update(_views(answers))
        try:
            yield self._common
        finally:
            self._common.views.update(honest)

    def prove_with(self, challenge: Challenge, solve: Solve) -> LiveRun:
        """Lead one proof with the common miner, whose prover solves so."""
        self._solve = solve
        return prove(self._common.client(), challenge, self.engine)

    def prove_against(self, challenge: Challenge, answers: Player, *, seconds: float = ROUND_SECONDS) -> LiveRun:
        """Lead one proof with the common miner, which sends these bytes."""
        with self.answering(answers) as miner:
            return prove(miner.client(), challenge, self.engine, seconds=seconds)

    def _prover(self, params: ProofParams, _device: str) -> Prover:
        if self._solve is None:
            raise SubnetError(f"nobody proves {params} here")
        return SolvedBy(self._solve)


class SolvedBy:
    """A prover that needs no preparation and solves by one function of the seed."""

    def __init__(self, solve: Solve) -> None:
        self._solve = solve

    def prepare(self) -> None:
        """Need nothing."""

    def solve(
        self,
        seed: bytes,
        *,
        on_progress: Callable[[int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Work:
        """Do what it does."""
        return self._solve(seed)


class LocalSolver(SolverProcess):
    """The solver's three calls in the caller's thread; what it answers goes through JSON as between processes."""

    def __init__(self, provers: Provers) -> None:
        self._provers = provers
        self._prover: Prover | None = None
        self._work: Work | None = None

    def prepare(self, device: str, params: ProofParams) -> None:
        """Open the prover."""
        self._prover = self._provers(params, device)
        self._prover.prepare()

    def solve(self, seed: bytes, deadline_seconds: float) -> dict[str, object]:
        """Solve in this thread; nothing here takes long."""
        if self._prover is None:
            raise SolverFailed(f"not prepared, with {deadline_seconds:g} s left")
        self._work = self._prover.solve(seed)
        sent: dict[str, object] = json.loads(json.dumps(self._work.commitment.to_wire()))
        return sent

    def open(self, positions: Sequence[Sequence[int]]) -> list[dict[str, object]]:
        """Open what is asked."""
        if self._work is None:
            raise SolverFailed("not solved")
        sent: list[dict[str, object]] = json.loads(
            json.dumps([opening.to_wire() for opening in self._work.open(positions)])
        )
        return sent

    def close(self) -> None:
        """Hold nothing that has to be given back."""


class _Window(ProofRound):
    """Rounds that wait for each other once all are prepared and pinged."""

    def __init__(self, count: int) -> None:
        self._all_ready = threading.Barrier(count, timeout=ROUND_SECONDS)

    def _start(self, client: MinerClient, challenge: Challenge, trace: ProofTrace, budget: Budget) -> SignedStatement:
        self._all_ready.wait()
        return super()._start(client, challenge, trace, budget)


def _verdict_after(
    error: BaseException | None, engine: VerificationEngine, challenge: Challenge, trace: ProofTrace
) -> Verdict:
    if isinstance(error, ProofRejected):
        return Verdict.of(error)
    if error is not None:
        raise error
    return engine.verify_resources(challenge, trace)


def _views(answers: Player) -> dict[str, View]:
    def prepare(_caller: Caller, _body: bytes) -> SuccessAnswer:
        return SuccessAnswer()

    def start(_caller: Caller, _body: bytes) -> Response:
        return Response(answers.commit(), mimetype="application/json")

    def show(_caller: Caller, body: bytes) -> Response:
        asked = decode_model(OpenRequest, body).positions
        positions = [(position.round_index, position.tile_row, position.tile_column) for position in asked]
        return Response(answers.open(positions), mimetype="application/json")

    return {"/challenge/prepare": prepare, "/challenge/start": start, "/challenge/open": show}
