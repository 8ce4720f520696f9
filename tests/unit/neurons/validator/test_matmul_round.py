"""The proof over a real connection: what passes, and what each kind of cheat or failure is called."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Response

from challenges.hardware import HardwareTable
from neurons.base.access import Caller
from neurons.validator.challenges import MatmulChallenge
from neurons.validator.matmul_round import MatmulRound, ProofTrace
from neurons.validator.verification import Verdict, VerificationEngine
from polarise.clients import MinerClient
from polarise.errors import ErrorCode, ProofRejected, RejectReason, RequestRejected, Unavailable
from polarise.messages import CommitAnswer, CommitmentBody
from polarise.statement import sign_statement
from tests.support.proving_miner import (
    CPU,
    MINER,
    SKIPPING,
    VALIDATOR,
    ProvingMiner,
    challenge_of,
    entry_of,
    proving_miner,
)


@pytest.fixture(scope="module")
def engine() -> Iterator[VerificationEngine]:
    with VerificationEngine(HardwareTable.load()) as engine:
        yield engine


@pytest.fixture
def miner(tmp_path: Path) -> Iterator[ProvingMiner]:
    with proving_miner(tmp_path) as miner:
        yield miner


def _prove(miner: ProvingMiner, engine: VerificationEngine) -> tuple[Verdict, ProofTrace]:
    _, challenge = challenge_of(entry_of())
    trace = ProofTrace()
    MatmulRound().run(miner.client(), challenge, trace)
    return engine.verify_resources(challenge, trace), trace


def _rejection(client: MinerClient, challenge: MatmulChallenge | None = None) -> ProofRejected:
    with pytest.raises(ProofRejected) as caught:
        MatmulRound().run(client, challenge or challenge_of(entry_of())[1], ProofTrace())
    return caught.value


def test_honest_miner_passes(miner: ProvingMiner, engine: VerificationEngine) -> None:
    verdict, trace = _prove(miner, engine)
    assert verdict.verified
    assert verdict.score == 1_000_000
    assert verdict.measured_ops_per_second > CPU.matmul_ops_per_second
    assert trace.openings is not None
    assert len(trace.openings) == 32


def test_skipped_tiles_are_found(tmp_path: Path, engine: VerificationEngine) -> None:
    """A fifth of the tiles is never multiplied; 32 of 48 are opened."""
    with proving_miner(tmp_path, program=SKIPPING) as miner:
        verdict, _ = _prove(miner, engine)
    assert verdict.reason is RejectReason.TILE_MISMATCH
    assert not verdict.verified
    assert verdict.score == 0


def test_commitment_for_another_seed_is_refused(miner: ProvingMiner) -> None:
    """The proof of yesterday, signed anew."""

    def start(_caller: Caller, body: bytes) -> CommitAnswer:
        wire = json.loads(body)
        old = CommitmentBody(challenge_id=wire["challenge_id"], device="cpu", seed="0" * 64, proof={"roots": []})
        return CommitAnswer(commitment=sign_statement(MINER, "commitment", old))

    miner.views["/challenge/start"] = start
    assert _rejection(miner.client()).reason is RejectReason.SEED_MISMATCH


def test_commitment_of_another_key_is_refused(miner: ProvingMiner) -> None:
    def start(_caller: Caller, body: bytes) -> CommitAnswer:
        wire = json.loads(body)
        other = CommitmentBody(challenge_id=wire["challenge_id"], device="cpu", seed="0" * 64, proof={"roots": []})
        return CommitAnswer(commitment=sign_statement(VALIDATOR, "commitment", other))

    miner.views["/challenge/start"] = start
    assert _rejection(miner.client()).reason is RejectReason.BAD_SIGNATURE


def test_certificate_with_a_number_beyond_json_is_refused(miner: ProvingMiner) -> None:
    """Its canonical form does not exist, which must not become our own defect."""

    def start(_caller: Caller, body: bytes) -> Response:
        wire = json.loads(body)
        fields = CommitmentBody(challenge_id=wire["challenge_id"], device="cpu", seed="0" * 64, proof={"roots": []})
        statement = sign_statement(MINER, "commitment", fields).to_wire()
        statement["certificate"] = {**dict(statement["certificate"]), "counter": 2**60}  # type: ignore[arg-type]
        return Response(json.dumps({"commitment": statement}), mimetype="application/json")

    miner.views["/challenge/start"] = start
    assert _rejection(miner.client()).reason in {RejectReason.BAD_SIGNATURE, RejectReason.MISSING}


def test_busy_device_is_not_measured(miner: ProvingMiner) -> None:
    """A second challenge while the first is prepared is answered 429, which is neutral."""
    _, first = challenge_of(entry_of())
    miner.client().prepare(first.prepare_request(), deadline_seconds=30)
    rejected = _rejection(miner.client())
    assert rejected.reason is RejectReason.NOT_MEASURED
    assert rejected.message.startswith("BUSY")


@pytest.mark.parametrize("path", ["/challenge/prepare", "/challenge/start", "/challenge/open"])
def test_unavailable_at_any_step_is_missing(miner: ProvingMiner, path: str) -> None:
    def away(_caller: Caller, _body: bytes) -> Response:
        raise Unavailable("out of memory")

    miner.views[path] = away
    assert _rejection(miner.client()).reason is RejectReason.MISSING


def test_refusal_after_prepare_is_missing_even_as_429(miner: ProvingMiner) -> None:
    """Once the nonce is out, "busy" is no excuse: it would buy a second draw."""

    def refuse(_caller: Caller, _body: bytes) -> Response:
        raise RequestRejected(ErrorCode.TOO_MANY_REQUESTS, "busy", status=429)

    miner.views["/challenge/start"] = refuse
    assert _rejection(miner.client()).reason is RejectReason.MISSING


def test_late_openings_are_refused(miner: ProvingMiner, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(_caller: Caller, _body: bytes) -> Response:
        released.wait(10)
        return Response("{}", mimetype="application/json")

    monkeypatch.setattr("neurons.validator.matmul_round.OPEN_SECONDS", 0.2)
    miner.views["/challenge/open"] = hang
    reason = _rejection(miner.client()).reason
    released.set()
    assert reason is RejectReason.OPENING_LATE


@pytest.mark.parametrize(
    "body", [b"no json", b"[]", b'{"commitment": 1}', b'{"a":1,"a":1}', b"{" + b" " * (2 << 20) + b"}", b"[" * 100_000]
)
def test_garbage_instead_of_a_commitment_is_missing(miner: ProvingMiner, body: bytes) -> None:
    miner.views["/challenge/start"] = lambda _caller, _body: Response(body, mimetype="application/json")
    assert _rejection(miner.client()).reason is RejectReason.MISSING


def test_wrong_number_of_openings_is_rejected(miner: ProvingMiner, engine: VerificationEngine) -> None:
    miner.views["/challenge/open"] = lambda _caller, _body: Response('{"openings": [{}]}', mimetype="application/json")
    verdict, _ = _prove(miner, engine)
    assert verdict.reason is RejectReason.WRONG_COUNT


def _dripping(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(200):
        connection.sendall(b" ")
        time.sleep(0.02)


def _closing(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("behave", [_dripping, _closing])
def test_connection_that_drips_or_closes_is_missing(
    behave: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurons.validator.matmul_round.PREPARE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                try:
                    behave(connection)
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        client = MinerClient(f"http://127.0.0.1:{port}", MINER.public_key, VALIDATOR, timeout_seconds=1)
        assert _rejection(client).reason is RejectReason.MISSING
        thread.join()


def test_checker_that_died_costs_the_miner_nothing(miner: ProvingMiner) -> None:
    _, challenge = challenge_of(entry_of())
    trace = ProofTrace()
    MatmulRound().run(miner.client(), challenge, trace)
    with VerificationEngine(HardwareTable.load()) as engine:
        assert engine.verify_resources(challenge, trace).verified
        pool = engine._pool
        assert pool is not None
        for process in pool._processes.values():
            process.kill()
            process.join()
        reason = engine.verify_resources(challenge, trace).reason
        assert reason is RejectReason.NOT_MEASURED
        assert engine.verify_resources(challenge, trace).verified
