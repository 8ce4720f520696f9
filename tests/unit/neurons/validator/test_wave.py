"""Waves over real connections and a real stamping process: what passes, and what each cheat or failure is called."""

from __future__ import annotations

import dataclasses
import json
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from flask import Response

from challenges.hardware import HardwareTable
from challenges.matmul_messages import MatmulParams
from challenges.pow import PowCommitment, PowParams
from challenges.proofs import ProofParams
from challenges.timing import NS_PER_SECOND, fit_pow_params, pow_rate_lower_bound, rate_per_second
from neurons.base.access import Caller
from neurons.validator.challenges import Challenge
from neurons.validator.proof_trace import ProofTrace, signed_bytes
from neurons.validator.stamper import Stamper
from neurons.validator.verification import Verdict, VerificationEngine, judge
from neurons.validator.wave import Ask, Wave
from polarise.clients import MinerClient
from polarise.decode import decode_model
from polarise.errors import ErrorCode, ProofRejected, RejectReason, RequestRejected, Unavailable
from polarise.evidence import COUNT_MAX
from polarise.generations import Generations
from polarise.messages import CommitAnswer, CommitmentBody, OpenRequest, Position, PrepareRequest
from polarise.registry import STATEMENT_KIND as ENTRY_KIND
from polarise.registry import RegistryEntry
from polarise.signing import Purpose
from polarise.statement import SignedStatement, sign_statement
from tests.support.proving_miner import (
    CPU,
    FORGING,
    MINER,
    OTHER_VALIDATOR,
    SKIPPING,
    SLOW_HASHING,
    VALIDATOR,
    ProvingMiner,
    challenge_of,
    challenges_of,
    entry_of,
    proving_miner,
)


@pytest.fixture(scope="module")
def engine() -> Iterator[VerificationEngine]:
    with VerificationEngine(HardwareTable.load()) as engine:
        yield engine


@pytest.fixture(scope="module")
def wave() -> Iterator[Wave]:
    with Stamper() as stamper:
        yield Wave(stamper, validators=[VALIDATOR.public_key, OTHER_VALIDATOR.public_key])


@pytest.fixture
def miner(tmp_path: Path) -> Iterator[ProvingMiner]:
    with proving_miner(tmp_path) as miner:
        yield miner


def _ask(client: MinerClient, challenge: Challenge | None = None) -> Ask:
    entry = entry_of(client.endpoint).open(ENTRY_KIND, RegistryEntry)
    return Ask(entry, client, challenge or challenge_of(entry_of())[1])


def _prove(
    wave: Wave, miner: ProvingMiner, engine: VerificationEngine, challenge: Challenge | None = None
) -> tuple[Verdict, ProofTrace]:
    ask = _ask(miner.client(), challenge)
    wave.run([ask])
    if ask.rejected is not None:
        raise ask.rejected
    return engine.verify_resources(ask.challenge, ask.trace), ask.trace


def _rejection(wave: Wave, client: MinerClient, challenge: Challenge | None = None) -> ProofRejected:
    ask = _ask(client, challenge)
    wave.run([ask])
    assert ask.rejected is not None
    return ask.rejected


def test_honest_miner_passes(wave: Wave, miner: ProvingMiner, engine: VerificationEngine) -> None:
    verdict, trace = _prove(wave, miner, engine)
    assert verdict.verified
    assert verdict.score == 1_000_000
    assert verdict.measured_per_second > CPU.matmul_ops_per_second
    assert isinstance(trace.openings, tuple)
    assert len(trace.openings) == 32


def test_skipped_tiles_are_found(wave: Wave, tmp_path: Path, engine: VerificationEngine) -> None:
    """A fifth of the tiles is never multiplied; 32 of 48 are opened."""
    with proving_miner(tmp_path, program=SKIPPING) as miner:
        verdict, _ = _prove(wave, miner, engine)
    assert verdict.reason is RejectReason.TILE_MISMATCH
    assert not verdict.verified
    assert verdict.score == 0


def test_commitment_for_another_seed_is_refused(wave: Wave, miner: ProvingMiner) -> None:
    """The proof of yesterday, signed anew."""

    def start(_caller: Caller, body: bytes) -> CommitAnswer:
        wire = json.loads(body)
        old = CommitmentBody(challenge_id=wire["challenge_id"], device="cpu", seed="0" * 64, proof={"roots": []})
        return CommitAnswer(commitment=sign_statement(MINER, "commitment", old))

    miner.views["/challenge/start"] = start
    assert _rejection(wave, miner.client()).reason is RejectReason.SEED_MISMATCH


def test_commitment_by_a_replaced_subkey_is_no_answer(miner: ProvingMiner) -> None:
    """Whoever holds the old subkey is not the miner; nothing of it is kept. By the newest one the same miner answers."""
    generations = Generations()
    generations.learn({(VALIDATOR.public_key, Purpose.STATEMENT): 9, (MINER.public_key, Purpose.REQUEST): 9})
    with Stamper() as stamper:
        wave = Wave(stamper, generations=generations)
        honest = _ask(miner.client())
        wave.run([honest])
        assert honest.rejected is None
        generations.learn({(MINER.public_key, Purpose.STATEMENT): 1})
        ask = _ask(miner.client())
        wave.run([ask])
    assert ask.rejected is not None
    assert ask.rejected.reason is RejectReason.MISSING
    assert "was replaced by 1" in ask.rejected.message
    assert ask.trace.commitment is None


def test_commitment_of_another_key_is_refused(wave: Wave, miner: ProvingMiner) -> None:
    def start(_caller: Caller, body: bytes) -> CommitAnswer:
        wire = json.loads(body)
        other = CommitmentBody(challenge_id=wire["challenge_id"], device="cpu", seed="0" * 64, proof={"roots": []})
        return CommitAnswer(commitment=sign_statement(VALIDATOR, "commitment", other))

    miner.views["/challenge/start"] = start
    assert _rejection(wave, miner.client()).reason is RejectReason.BAD_SIGNATURE


def test_certificate_with_a_number_beyond_json_is_refused(wave: Wave, miner: ProvingMiner) -> None:
    """Its canonical form does not exist, which must not become our own defect."""

    def start(_caller: Caller, body: bytes) -> Response:
        wire = json.loads(body)
        fields = CommitmentBody(challenge_id=wire["challenge_id"], device="cpu", seed="0" * 64, proof={"roots": []})
        statement = sign_statement(MINER, "commitment", fields).to_wire()
        statement["certificate"] = {**dict(statement["certificate"]), "counter": 2**60}  # type: ignore[arg-type]
        return Response(json.dumps({"commitment": statement}), mimetype="application/json")

    miner.views["/challenge/start"] = start
    assert _rejection(wave, miner.client()).reason in {RejectReason.BAD_SIGNATURE, RejectReason.MISSING}


@pytest.mark.parametrize("path", ["/challenge/start", "/challenge/open"])
def test_answer_that_grows_in_its_canonical_form_is_not_kept(wave: Wave, miner: ProvingMiner, path: str) -> None:
    """``1e20`` is written with 21 digits there; evidence that fits in no bundle takes the verdicts with it."""
    _, challenge = challenge_of(entry_of())
    is_start = path == "/challenge/start"
    bound = challenge.commitment_bytes_max if is_start else challenge.openings_bytes_max
    numbers = "[" + ",".join(["1e20"] * (bound // 6)) + "]"

    def answer(_caller: Caller, _body: bytes) -> Response:
        fields = CommitmentBody(challenge_id=challenge.challenge_id, device="cpu", seed="0" * 64, proof={"roots": []})
        commitment = sign_statement(MINER, "commitment", fields).to_wire()
        wire = {"commitment": commitment} if is_start else {"status": "success", "openings": [{"roots": []}]}
        body = json.dumps(wire).replace("[]", numbers)
        assert len(body) <= bound
        return Response(body, mimetype="application/json")

    miner.views[path] = answer
    ask = _ask(miner.client(), challenge)
    wave.run([ask])
    assert ask.rejected is not None
    assert "canonical form has" in ask.rejected.message
    assert (ask.trace.commitment if is_start else ask.trace.openings) is None


def test_busy_device_that_shows_nothing_has_declined(wave: Wave, miner: ProvingMiner) -> None:
    """Whoever is asked in a window and answers 429 was not there then."""

    def busy(_caller: Caller, _body: bytes) -> Response:
        raise RequestRejected(ErrorCode.TOO_MANY_REQUESTS, "not now", status=429)

    miner.views["/challenge/prepare"] = busy
    rejected = _rejection(wave, miner.client())
    assert rejected.reason is RejectReason.DECLINED
    assert rejected.message.startswith("busy: ")


def test_device_that_proves_for_another_validator_is_occupied(wave: Wave, miner: ProvingMiner) -> None:
    _, first = challenge_of(entry_of())
    miner.client(OTHER_VALIDATOR).prepare(first.prepare_request(), deadline_seconds=30)
    assert _rejection(wave, miner.client()).reason is RejectReason.OCCUPIED


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/challenge/prepare", RejectReason.MISSING),
        ("/challenge/start", RejectReason.MISSING),
        ("/challenge/open", RejectReason.OPENING_LATE),
    ],
)
def test_unavailable_at_any_step_is_missing_or_late_once_the_positions_are_known(
    wave: Wave, miner: ProvingMiner, path: str, reason: RejectReason
) -> None:
    def away(_caller: Caller, _body: bytes) -> Response:
        raise Unavailable("out of memory")

    miner.views[path] = away
    assert _rejection(wave, miner.client()).reason is reason


@pytest.mark.parametrize(
    ("path", "reason"), [("/challenge/start", RejectReason.MISSING), ("/challenge/open", RejectReason.OPENING_LATE)]
)
def test_answer_one_byte_longer_than_its_sizes_allow_is_not_read(
    wave: Wave, miner: ProvingMiner, path: str, reason: RejectReason
) -> None:
    _, challenge = challenge_of(entry_of())
    is_start = path == "/challenge/start"
    bound = challenge.commitment_bytes_max if is_start else challenge.openings_bytes_max
    miner.views[path] = lambda _caller, _body: Response(b" " * (bound + 1), mimetype="application/json")
    rejected = _rejection(wave, miner.client(), challenge)
    assert (rejected.reason, str(bound) in rejected.message) == (reason, True)
    miner.views[path] = lambda _caller, _body: Response(b" " * bound, mimetype="application/json")
    assert str(bound) not in _rejection(wave, miner.client(), challenge_of(entry_of())[1]).message


def test_rejection_holds_nothing_of_what_was_sent(wave: Wave, miner: ProvingMiner) -> None:
    """Its traceback would hold the frames of the calls, and those a megabyte of each device that was rejected."""
    miner.views["/challenge/open"] = lambda _caller, _body: Response(b"[", mimetype="application/json")
    rejected = _rejection(wave, miner.client())
    assert rejected.reason is RejectReason.OPENING_LATE
    # Where it is raised again, its frames are new ones.
    assert (rejected.__traceback__, rejected.__cause__, rejected.__context__) == (None, None, None)


def test_refusal_after_prepare_is_missing_even_as_429(wave: Wave, miner: ProvingMiner) -> None:
    """Once the nonce is out, "busy" is no excuse: it would buy a second draw."""

    def refuse(_caller: Caller, _body: bytes) -> Response:
        raise RequestRejected(ErrorCode.TOO_MANY_REQUESTS, "busy", status=429)

    miner.views["/challenge/start"] = refuse
    assert _rejection(wave, miner.client()).reason is RejectReason.MISSING


def test_whose_turn_to_get_ready_does_not_come_was_not_measured(
    wave: Wave, miner: ProvingMiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many that are slow to get ready must not let what others prepared grow old."""
    monkeypatch.setattr("neurons.validator.wave.THREADS_MAX", 1)
    monkeypatch.setattr("neurons.validator.challenges.PREPARE_SECONDS", 0.3)
    monkeypatch.setattr("neurons.validator.wave.PREPARE_TURN_SECONDS", 0.2)
    released = threading.Event()

    def hang(_caller: Caller, _body: bytes) -> Response:
        released.wait(10)
        return Response("{}", mimetype="application/json")

    miner.views["/challenge/prepare"] = hang
    asks = [_ask(miner.client(), challenge_of(entry_of())[1]) for _ in range(3)]
    wave.run(asks)
    released.set()
    reasons = Counter(ask.rejected.reason for ask in asks if ask.rejected is not None)
    assert reasons == {RejectReason.MISSING: 1, RejectReason.NOT_MEASURED: 2}


def test_commitment_that_waits_too_long_for_its_questions_was_not_measured(
    wave: Wave, miner: ProvingMiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The miner may have forgotten its tiles by then; it has seen no question, so that it gains nothing."""
    monkeypatch.setattr("neurons.validator.wave.OPEN_TURN_SECONDS", 0.0)
    asked: list[bytes] = []

    def note(_caller: Caller, body: bytes) -> Response:
        asked.append(body)
        return Response("{}", mimetype="application/json")

    miner.views["/challenge/open"] = note
    ask = _ask(miner.client())
    wave.run([ask])
    assert ask.rejected is not None
    assert (ask.rejected.reason, asked) == (RejectReason.NOT_MEASURED, [])
    # An auditor draws them from the commitment all the same.
    assert isinstance(ask.trace.commitment, SignedStatement)
    assert ask.trace.positions == ask.challenge.positions(signed_bytes(ask.trace.commitment))


def test_late_openings_are_refused(wave: Wave, miner: ProvingMiner, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(_caller: Caller, _body: bytes) -> Response:
        released.wait(10)
        return Response("{}", mimetype="application/json")

    monkeypatch.setattr("neurons.validator.wave.OPEN_SECONDS", 0.2)
    miner.views["/challenge/open"] = hang
    reason = _rejection(wave, miner.client()).reason
    released.set()
    assert reason is RejectReason.OPENING_LATE


@pytest.mark.parametrize(
    "body", [b"no json", b"[]", b'{"commitment": 1}', b'{"a":1,"a":1}', b"{" + b" " * (2 << 20) + b"}", b"[" * 100_000]
)
def test_garbage_instead_of_a_commitment_is_missing(wave: Wave, miner: ProvingMiner, body: bytes) -> None:
    miner.views["/challenge/start"] = lambda _caller, _body: Response(body, mimetype="application/json")
    assert _rejection(wave, miner.client()).reason is RejectReason.MISSING


def test_wrong_number_of_openings_is_rejected(wave: Wave, miner: ProvingMiner, engine: VerificationEngine) -> None:
    miner.views["/challenge/open"] = lambda _caller, _body: Response('{"openings": [{}]}', mimetype="application/json")
    verdict, _ = _prove(wave, miner, engine)
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
    wave: Wave, behave: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurons.validator.challenges.PREPARE_SECONDS", 0.3)
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
        assert _rejection(wave, client).reason is RejectReason.MISSING
        thread.join()


def test_checker_that_died_costs_the_miner_nothing(wave: Wave, miner: ProvingMiner) -> None:
    ask = _ask(miner.client())
    wave.run([ask])
    challenge, trace = ask.challenge, ask.trace
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


def _prove_shares(wave: Wave, miner: ProvingMiner, engine: VerificationEngine) -> tuple[Verdict, ProofTrace]:
    return _prove(wave, miner, engine, challenges_of(entry_of())[1])


def test_honest_proof_of_work_passes_and_ends_at_its_commitment(
    wave: Wave, miner: ProvingMiner, engine: VerificationEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="neurons.validator"):
        verdict, trace = _prove_shares(wave, miner, engine)
    assert verdict.verified
    assert verdict.score == 1_000_000
    assert (trace.positions, trace.openings) == ((), None)
    sent, answered = (record for record in caplog.records if record.name.startswith("neurons.validator"))
    assert (sent.message, answered.message) == ("proof sent", "proof answered")
    fields = vars(sent)
    assert (fields["kind"], fields["device"]) == ("pow", "cpu")
    assert fields["sizes"] == {"shares": 195, "difficulty": 256, "slot": 0}
    assert vars(answered)["kind"] == "pow"
    # Nothing is left running: the device is free for its next proof at once.
    assert _prove(wave, miner, engine)[0].verified


def test_what_counts_of_a_proof_of_work_is_its_lower_bound() -> None:
    _, challenge, _ = challenges_of(entry_of())
    trace = ProofTrace(rtt_min_ns=0, last_byte_after_ns=NS_PER_SECOND)
    assert isinstance(challenge.params, PowParams)
    verdict = judge(challenge, HardwareTable.load(), trace)
    assert verdict.measured_per_second == pow_rate_lower_bound(challenge.params, NS_PER_SECOND)
    assert verdict.measured_per_second < rate_per_second(challenge.params.operations, NS_PER_SECOND)


@pytest.mark.parametrize(("above", "reason"), [(0, None), (1, RejectReason.TOO_FAST)])
def test_more_hashes_than_the_card_can_make_are_not_believed(above: int, reason: RejectReason | None) -> None:
    """1.15 of what the card's integer lanes can do, in one nanosecond's steps."""
    model = HardwareTable.load().models["NVIDIA H200"]
    expected, peak = model.pow_rate_expected, model.pow_rate_peak
    card = CPU.model_copy(update={"kind": "gpu", "name": "NVIDIA H200", "pow_hashes_per_second": expected})
    params = fit_pow_params(expected, 1)
    challenge = dataclasses.replace(challenges_of(entry_of())[1], device=card, params=params)
    fastest_ns = next(
        ns
        for ns in range(pow_rate_lower_bound(params, 1) * 100 // (peak * 115), NS_PER_SECOND)
        if pow_rate_lower_bound(params, ns) * 100 <= peak * 115
    )
    trace = ProofTrace(rtt_min_ns=0, last_byte_after_ns=fastest_ns - above)
    assert judge(challenge, HardwareTable.load(), trace).reason is reason


def test_rate_beyond_what_evidence_can_hold_is_cut() -> None:
    """An answer that comes at once; the figure must not break the bundle."""
    _, *challenges = challenges_of(entry_of())
    huge_params: tuple[ProofParams, ...] = (
        PowParams(shares=2000, difficulty=1 << 30),
        MatmulParams(n=1024, rounds=100),
    )
    for challenge, params in zip(challenges, huge_params, strict=True):
        huge = dataclasses.replace(challenge, params=params)
        trace = ProofTrace(rtt_min_ns=90_000_000, last_byte_after_ns=1)
        assert judge(huge, HardwareTable.load(), trace).measured_per_second == COUNT_MAX


def test_hashing_below_the_claim_is_claim_not_met(wave: Wave, tmp_path: Path, engine: VerificationEngine) -> None:
    with proving_miner(tmp_path, program=SLOW_HASHING) as miner:
        verdict, _ = _prove_shares(wave, miner, engine)
    assert verdict.reason is RejectReason.CLAIM_NOT_MET
    assert 0 < verdict.measured_per_second < CPU.pow_hashes_per_second * 6 // 10
    assert verdict.expected == ">= 30000 hashes/s"


def test_forged_shares_are_found(wave: Wave, tmp_path: Path, engine: VerificationEngine) -> None:
    with proving_miner(tmp_path, program=FORGING) as miner:
        verdict, _ = _prove_shares(wave, miner, engine)
    assert verdict.reason is RejectReason.SHARE_INVALID
    assert verdict.score == 0


@pytest.mark.parametrize(
    ("nonces", "reason"),
    [
        (range(194), RejectReason.WRONG_COUNT),
        (range(196), RejectReason.WRONG_COUNT),
        ([*range(194), 193], RejectReason.MALFORMED),
        ([*range(194), 1 << 48], RejectReason.MALFORMED),
    ],
)
def test_shares_in_another_form_are_refused_before_they_are_hashed(
    wave: Wave, miner: ProvingMiner, nonces: Sequence[int], reason: RejectReason
) -> None:
    _, challenge, _ = challenges_of(entry_of())

    def start(_caller: Caller, _body: bytes) -> CommitAnswer:
        body = CommitmentBody(
            challenge_id=challenge.challenge_id,
            device="cpu",
            seed=challenge.seed.hex(),
            proof=PowCommitment(tuple(nonces)).to_wire(),
        )
        return CommitAnswer(commitment=sign_statement(MINER, "commitment", body))

    miner.views["/challenge/start"] = start
    assert _rejection(wave, miner.client(), challenge).reason is reason


def test_nothing_is_opened_of_a_proof_of_work(miner: ProvingMiner) -> None:
    """Neither before nor after its commitment."""
    _, challenge, _ = challenges_of(entry_of())
    client = miner.client()
    position = Position(round_index=0, tile_row=0, tile_column=0)
    request = OpenRequest(challenge_id=challenge.challenge_id, positions=(position,))
    client.prepare(challenge.prepare_request(), deadline_seconds=30)
    for step in ("prepared", "committed"):
        with pytest.raises(RequestRejected, match="no openings") as caught:
            client.open(request, deadline_seconds=5)
        assert (caught.value.status, caught.value.code) == (409, ErrorCode.CONFLICT)
        if step == "prepared":
            client.start(challenge.start_request(), deadline_seconds=10)


def test_device_proves_one_thing_at_a_time_whatever_its_kind(wave: Wave, miner: ProvingMiner) -> None:
    _, first, second = challenges_of(entry_of())
    other = miner.client(OTHER_VALIDATOR)
    other.prepare(first.prepare_request(), deadline_seconds=30)
    assert _rejection(wave, miner.client(), second).reason is RejectReason.OCCUPIED
    other.start(first.start_request(), deadline_seconds=10)
    other.prepare(second.prepare_request(), deadline_seconds=30)
    assert _rejection(wave, miner.client(), challenges_of(entry_of())[1]).reason is RejectReason.OCCUPIED


@pytest.mark.parametrize(
    ("kind", "sizes", "status", "field"),
    [
        ("pow", {"shares": 15, "difficulty": 1, "slot": 0}, 422, "sizes"),
        ("pow", {"shares": 4096, "difficulty": 2**50, "slot": 0}, 422, "sizes"),
        ("matmul", {"n": 63, "rounds": 1, "tile": 64, "openings": 1}, 422, "sizes"),
        ("matmul", {"n": 64, "rounds": 1, "tile": 64, "openings": 257}, 422, "sizes"),
        ("matmul", {"n": 8256, "rounds": 1, "tile": 64, "openings": 1}, 422, "sizes"),
        ("pow", {"n": 64, "rounds": 1, "tile": 64, "openings": 1}, 400, "sizes.shares"),
        ("matmul", {"n": 64, "rounds": 1, "tile": 64}, 400, "sizes.openings"),
        ("pow", {"shares": True, "difficulty": 1, "slot": 0}, 400, "sizes.shares"),
        ("pow", {"shares": -1, "difficulty": 1, "slot": 0}, 400, "sizes.shares"),
        ("pow", [], 400, "sizes"),
        ("memory", {}, 400, "sizes.blocks"),
        ("vram", {}, 400, "kind"),
    ],
)
def test_sizes_out_of_bounds_are_refused_by_name(
    miner: ProvingMiner, kind: str, sizes: object, status: int, field: str
) -> None:
    wire = {"challenge_id": "0" * 32, "kind": kind, "device": "cpu", "sizes": sizes}
    with pytest.raises(RequestRejected) as caught:
        miner.handler.prepare(decode_model(PrepareRequest, json.dumps(wire).encode()), VALIDATOR.public_key)
    assert (caught.value.status, caught.value.field) == (status, field)
