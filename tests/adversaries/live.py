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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from flask import Response

from challenges.proofs import ProofParams, Prover, Work
from neurons.base.access import Caller
from neurons.miner.solver import SolverFailed, SolverProcess
from neurons.validator.challenges import START_SLACK_SECONDS, Challenge
from neurons.validator.proof_trace import ProofTrace
from neurons.validator.stamper import Stamper
from neurons.validator.verification import Verdict, VerificationEngine
from neurons.validator.wave import Ask, Wave
from polarise.clients import MinerClient
from polarise.decode import decode_model
from polarise.errors import SubnetError
from polarise.hardware import DeviceClaim
from polarise.messages import OpenRequest, SuccessAnswer
from polarise.registry import STATEMENT_KIND as ENTRY_KIND
from polarise.registry import RegistryEntry
from polarise.signing import Identity
from tests.adversaries.exam import Player
from tests.support.proving_miner import CPU, MINER, ProvingMiner, View, entry_of, proving_miner

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
    wave: Wave,
    engine: VerificationEngine,
    *,
    slack_seconds: float = START_SLACK_SECONDS,
) -> LiveRun:
    """Lead one proof as the validator does, and judge it.

    Args:
        client: The miner.
        challenge: What it is asked.
        wave: Leads it.
        engine: The validator's checker.
        slack_seconds: How much longer than its slowest work a commitment is waited for; tests do not wait as long.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neurons.validator.challenges.START_SLACK_SECONDS", slack_seconds)
        (run,) = prove_together([(client, challenge)], wave, engine)
    return run


def prove_together(
    asked: Sequence[tuple[MinerClient, Challenge]], wave: Wave, engine: VerificationEngine
) -> list[LiveRun]:
    """Lead several proofs in one wave, and judge them in their order."""
    asks = [
        Ask(entry_of(client.endpoint).open(ENTRY_KIND, RegistryEntry), client, challenge) for client, challenge in asked
    ]
    wave.run(asks)
    return [LiveRun(_verdict(ask, engine), ask.trace) for ask in asks]


class Stage:
    """Where cheats are played live; a context manager.

    Cheats that need nothing special take turns on one miner, which spares each the start and end of a server.

    Args:
        folder: Empty; each miner gets a folder in it.
        engine: Checks the proofs of all miners played here.
    """

    def __init__(self, folder: Path, engine: VerificationEngine) -> None:
        self.engine = engine
        self._stamper = Stamper()
        self.wave = Wave(self._stamper)
        self._folders = (folder / str(index) for index in itertools.count())
        self._stack = contextlib.ExitStack()
        self._solve: Solve | None = None

    def __enter__(self) -> Stage:
        self._stack.enter_context(self._stamper)
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
        return prove(self._common.client(), challenge, self.wave, self.engine)

    def prove_against(self, challenge: Challenge, answers: Player) -> LiveRun:
        """Lead one proof with the common miner, which sends these bytes."""
        with self.answering(answers) as miner:
            return prove(miner.client(), challenge, self.wave, self.engine)

    def _prover(self, params: ProofParams, _device: str) -> Prover:
        if self._solve is None:
            raise SubnetError(f"nobody proves {params} here")
        return SolvedBy(self._solve)


class SolvedBy:
    """A prover that needs no preparation and solves by one function of the seed."""

    def __init__(self, solve: Solve) -> None:
        self._solve = solve

    def prepare(self, fill_seed: bytes = b"") -> None:
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

    def prepare(self, device: str, params: ProofParams, fill_seed: bytes = b"") -> None:
        """Open the prover."""
        self._prover = self._provers(params, device)
        self._prover.prepare(fill_seed)

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

    @property
    def pid(self) -> int:
        """No process's number."""
        return 0

    def has_ended(self, seconds: float) -> bool:
        """There is no process, so nothing of it is left however short one waits."""
        return seconds >= 0

    def close(self) -> None:
        """Hold nothing that has to be given back."""


def _verdict(ask: Ask, engine: VerificationEngine) -> Verdict:
    if ask.rejected is not None:
        return Verdict.of(ask.rejected)
    return engine.verify_resources(ask.challenge, ask.trace)


def _views(answers: Player) -> dict[str, View]:
    def prepare(_caller: Caller, _body: bytes) -> SuccessAnswer:
        return SuccessAnswer()

    def start(_caller: Caller, _body: bytes) -> Response:
        return Response(answers.commit(), mimetype="application/json")

    def show(_caller: Caller, body: bytes) -> Response:
        asked = decode_model(OpenRequest, body).positions
        positions = [position.numbers for position in asked]
        return Response(answers.open(positions), mimetype="application/json")

    return {"/challenge/prepare": prepare, "/challenge/start": start, "/challenge/open": show}
