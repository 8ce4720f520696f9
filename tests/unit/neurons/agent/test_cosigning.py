"""Validators cosign what they read: a real agent, real HTTP, the validator's real reader and witness."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flask import Flask, Response, request

from neurons.miner.status import read_status, render
from polarise.canonical import JsonValue, canonical_bytes
from polarise.checkpoint import (
    Checkpoint,
    SignedCheckpoint,
    check_cosignatures,
    cosign,
    open_checkpoint,
    sign_checkpoint,
)
from polarise.cli import main as polarise_main
from polarise.cosignature import MOST, CosignatureRequest, SizedCosignature, witness_name, witness_verifier
from polarise.errors import ErrorCode, RejectReason, RequestRejected
from polarise.merkle import consistency_proof, leaf_hash, root
from polarise.notes import Ed25519Verifier, NoteInvalid
from polarise.signing import Identity, Purpose
from polarise.sse import MEDIA_TYPE, Frame
from polarise.stream import SYSTEM, origin_of
from tests.support.http import signed as send_signed
from tests.unit.neurons.agent.agent_process import IDENTITY, LEASE, NODE_KEY
from tests.unit.neurons.agent.served_agent import (
    AUDITOR,
    OTHER,
    OWNER,
    RENTER_ID,
    SECOND_VALIDATOR,
    THIRD_VALIDATOR,
    VALIDATOR,
    Market,
    reading,
    serve,
)
from tlog.witness import AddCheckpoint
from utils.clock import SystemClock

STATUS: dict[str, JsonValue] = {"kind": "action.status", "payload": {"status": "RUNNING"}}
ORIGIN = origin_of(NODE_KEY, SYSTEM)
LOG_SUBKEY = IDENTITY.subkey(Purpose.LOG)
LOG = Ed25519Verifier(ORIGIN, LOG_SUBKEY.key.public_key)


def newest_of(market: Market) -> SignedCheckpoint:
    note = market.reader(VALIDATOR).checkpoint(SYSTEM).checkpoint
    assert note is not None
    return open_checkpoint(note.encode(), LOG)


def cosignature_of(who: Identity, signed: SignedCheckpoint, *, ago_seconds: int = 0) -> SizedCosignature:
    now = SystemClock().wall_unix_ms() // 1000 - ago_seconds
    signature = cosign(signed.note.text, witness_name(who.public_key), who.subkey(Purpose.WITNESS).key, now)
    return SizedCosignature(size=signed.checkpoint.size, line=signature.line())


def request_of(who: Identity, *cosignatures: SizedCosignature) -> CosignatureRequest:
    return CosignatureRequest(certificate=who.subkey(Purpose.WITNESS).certificate, cosignatures=cosignatures)


def test_a_log_that_was_read_is_cosigned_and_the_miner_says_so(market: Market, tmp_path: Path) -> None:
    market.agent.client.append([STATUS] * 5)
    assert "none cosigned yet" in render(read_status_of(market))
    with reading(tmp_path, market.url) as validator:
        evidence = validator.read()
    assert evidence.verdict.reason is None
    answer = market.reader(OTHER).checkpoint(SYSTEM, witnesses="1")
    assert answer.checkpoint is not None
    signed = open_checkpoint(answer.checkpoint.encode(), LOG)
    assert signed.checkpoint.size == evidence.size
    verifier = witness_verifier(VALIDATOR.subkey(Purpose.WITNESS).certificate, VALIDATOR.public_key)
    check_cosignatures(signed, [verifier], 1)
    shown = render(read_status_of(market))
    assert f"the first {evidence.size} cosigned by 1" in shown
    assert f"validator {VALIDATOR.public_key[:12]}  up to {evidence.size}  at 20" in shown


def read_status_of(market: Market) -> dict[str, list[dict[str, object]]]:
    (market.agent.node_dir / "journal.sqlite").touch()
    return read_status(market.agent.node_dir)


def test_status_of_a_miner_whose_agent_is_away_says_that(market: Market) -> None:
    market.agent.kill()
    assert "log: the agent does not answer" in render(read_status_of(market))
    market.agent.start()


def test_a_cosigned_proof_verifies_offline_and_not_with_one_byte_flipped(
    market: Market, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [done] = market.agent.client.append([STATUS])
    assert done.seq is not None
    with reading(tmp_path, market.url) as validator:
        validator.read()
        vkey = validator.vkey
    raw = market.reader(AUDITOR).proof(SYSTEM, done.seq, witnesses="1").encode()
    file = tmp_path / "line.tlog-proof"
    key = ["--key", LOG_SUBKEY.key.public_key]
    file.write_bytes(raw)
    assert polarise_main(["verify", str(file), *key, "--witness", vkey]) == 0
    cosigned_at = raw.index(witness_name(VALIDATOR.public_key).encode())
    # In the signature itself, and in the text that it covers.
    for place in (cosigned_at + 100, raw.index(ORIGIN.encode()) + 5):
        file.write_bytes(raw[:place] + (b"B" if raw[place : place + 1] != b"B" else b"C") + raw[place + 1 :])
        assert polarise_main(["verify", str(file), *key, "--witness", vkey]) == 7
    file.write_bytes(raw)
    with reading(tmp_path, market.url, SECOND_VALIDATOR) as other:
        stranger = other.vkey
    assert polarise_main(["verify", str(file), *key, "--witness", stranger]) == 7
    both = ["--witness", vkey, "--witness", stranger]
    assert polarise_main(["verify", str(file), *key, *both]) == 7
    assert polarise_main(["verify", str(file), *key, *both, "--witnesses-min", "1"]) == 0
    capsys.readouterr()


def test_validators_that_read_at_different_times_meet_at_one_checkpoint(market: Market, tmp_path: Path) -> None:
    people = (VALIDATOR, SECOND_VALIDATOR, THIRD_VALIDATOR)
    with contextlib.ExitStack() as stack:
        validators = [stack.enter_context(reading(tmp_path, market.url, who)) for who in people]
        for _ in range(2):
            for validator in validators:
                market.agent.client.append([STATUS] * 3)
                assert validator.read().verdict.reason is None
        keys = [validator.vkey for validator in validators]
        verifiers = [validator.witness.verifier for validator in validators]
    answer = market.reader(AUDITOR).checkpoint(SYSTEM, witnesses="3")
    most = market.reader(AUDITOR).checkpoint(SYSTEM, witnesses=MOST)
    assert answer.checkpoint is not None
    assert most == answer
    check_cosignatures(open_checkpoint(answer.checkpoint.encode(), LOG), verifiers, 3)
    with pytest.raises(RequestRejected) as caught:
        market.reader(AUDITOR).checkpoint(SYSTEM, witnesses="4")
    assert (caught.value.status, caught.value.field) == (404, "witnesses")
    file = tmp_path / "first.tlog-proof"
    file.write_bytes(market.reader(AUDITOR).proof(SYSTEM, 0, witnesses="3").encode())
    named = [word for key in keys for word in ("--witness", key)]
    assert polarise_main(["verify", str(file), "--key", LOG_SUBKEY.key.public_key, *named]) == 0


def test_a_proof_is_never_under_a_checkpoint_that_lacks_its_line(market: Market, tmp_path: Path) -> None:
    with reading(tmp_path, market.url) as validator:
        market.agent.client.append([STATUS])
        size = validator.read().size
    market.agent.client.append([STATUS] * 3)
    reader = market.reader(AUDITOR)
    assert len(reader.proof(SYSTEM, size - 1, witnesses="1").checkpoint) > len(reader.proof(SYSTEM, size).checkpoint)
    for witnesses in ("1", MOST):
        with pytest.raises(RequestRejected) as caught:
            reader.proof(SYSTEM, size, witnesses=witnesses)
        assert caught.value.code is ErrorCode.NOT_FOUND


@pytest.mark.parametrize("witnesses", ["-1", "x", "100", "01", "%20", "most1"])
def test_a_wrong_number_of_witnesses_is_refused_by_name(market: Market, witnesses: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        market.reader(VALIDATOR).checkpoint(SYSTEM, witnesses=witnesses)
    assert (caught.value.code, caught.value.field) == (ErrorCode.INVALID_FIELD, "witnesses")


def test_what_was_cosigned_survives_a_kill_of_the_agent_and_a_restart_of_the_witness(
    market: Market, tmp_path: Path
) -> None:
    market.agent.client.append([STATUS])
    with reading(tmp_path, market.url) as validator:
        first = validator.read().size
    market.agent.kill()
    market.agent.start()
    answer = market.reader(OTHER).checkpoint(SYSTEM, witnesses="1")
    assert answer.checkpoint is not None
    assert open_checkpoint(answer.checkpoint.encode(), LOG).checkpoint.size == first
    market.agent.client.append([STATUS])
    with reading(tmp_path, market.url) as validator:
        second = validator.read().size
        seen = validator.witness.latest(ORIGIN)
    assert second > first
    assert market.agent.client.info(SYSTEM).cosigned[0].size == second
    assert seen is not None


def test_an_old_cosignature_sent_again_changes_nothing(market: Market) -> None:
    reader = market.reader(VALIDATOR)
    market.agent.client.append([STATUS])
    early = cosignature_of(VALIDATOR, newest_of(market))
    market.agent.client.append([STATUS])
    newest = newest_of(market)
    late = cosignature_of(VALIDATOR, newest)
    reader.cosign(SYSTEM, request_of(VALIDATOR, early, late))
    reader.cosign(SYSTEM, request_of(VALIDATOR, late))
    for old in (early, cosignature_of(VALIDATOR, newest, ago_seconds=60)):
        with pytest.raises(RequestRejected) as caught:
            reader.cosign(SYSTEM, request_of(VALIDATOR, old))
        assert (caught.value.status, caught.value.code) == (409, ErrorCode.STALE_CHECKPOINT)
    (kept,) = market.agent.client.info(SYSTEM).cosigned
    assert (kept.validator_key, kept.size) == (VALIDATOR.public_key, late.size)


def test_what_is_not_the_caller_s_own_over_this_log_is_refused(market: Market) -> None:
    market.agent.client.append([STATUS])
    market.agent.client.open_stream(LEASE, RENTER_ID.public_key)
    newest = newest_of(market)
    good = cosignature_of(VALIDATOR, newest)
    checkpoint = newest.checkpoint
    of_another_log = sign_checkpoint(Checkpoint("another/log", checkpoint.size, checkpoint.root), LOG_SUBKEY.key)
    of_another_tree = sign_checkpoint(Checkpoint(ORIGIN, checkpoint.size, bytes(32)), LOG_SUBKEY.key)
    statement = VALIDATOR.subkey(Purpose.STATEMENT).certificate
    other = request_of(SECOND_VALIDATOR, cosignature_of(SECOND_VALIDATOR, newest))
    refused = [
        (other, 422, "certificate"),
        (request_of(VALIDATOR, good).model_copy(update={"certificate": statement}), 422, "certificate"),
        (request_of(VALIDATOR, cosignature_of(SECOND_VALIDATOR, newest)), 422, "cosignatures.line"),
        (request_of(VALIDATOR, cosignature_of(VALIDATOR, of_another_log)), 422, "cosignatures.line"),
        (request_of(VALIDATOR, cosignature_of(VALIDATOR, of_another_tree)), 422, "cosignatures.line"),
        (request_of(VALIDATOR, cosignature_of(VALIDATOR, newest, ago_seconds=-400)), 422, "cosignatures.line"),
        (request_of(VALIDATOR, good.model_copy(update={"size": good.size + 10**6})), 422, "cosignatures.size"),
        (request_of(VALIDATOR, good.model_copy(update={"line": good.line + good.line})), 422, "cosignatures.line"),
        (request_of(VALIDATOR, good.model_copy(update={"line": "nothing\n"})), 422, "cosignatures.line"),
        # One that does not hold, and none of the request is kept.
        (request_of(VALIDATOR, good, good.model_copy(update={"line": good.line[:-9] + "AAAAAAA=\n"})), 422, "*"),
    ]
    for asked, status, name in refused:
        with pytest.raises(RequestRejected) as caught:
            market.reader(VALIDATOR).cosign(SYSTEM, asked)
        assert (caught.value.status, caught.value.field) == (status, caught.value.field if name == "*" else name)
    for stream_id in ("0" * 32, LEASE):
        with pytest.raises(RequestRejected) as caught:
            market.reader(VALIDATOR).cosign(stream_id, request_of(VALIDATOR, good))
        assert caught.value.status == (404 if stream_id != LEASE else 422)
    assert market.agent.client.info(SYSTEM).cosigned == ()


def test_oversized_and_malformed_bodies_are_refused(market: Market) -> None:
    market.agent.client.append([STATUS])
    target = f"/streams/{SYSTEM}/cosignature"
    good = request_of(VALIDATOR, cosignature_of(VALIDATOR, newest_of(market))).to_wire()
    (one,) = json.loads(canonical_bytes(good))["cosignatures"]
    for body, status, code in (
        (b"", 400, "INVALID_FIELD"),
        (b"[]", 400, "INVALID_FIELD"),
        (canonical_bytes({**good, "cosignatures": []}), 400, "INVALID_FIELD"),
        (canonical_bytes({**good, "cosignatures": [one] * 5}), 400, "INVALID_FIELD"),
        (canonical_bytes({**good, "cosignatures": [{**one, "line": "x" * 401}]}), 400, "INVALID_FIELD"),
        (canonical_bytes({**good, "cosignatures": [{**one, "size": -1}]}), 400, "INVALID_FIELD"),
        (canonical_bytes({**good, "more": 1}), 400, "UNKNOWN_FIELD"),
        (b" " * 65537, 413, "BODY_TOO_LARGE"),
    ):
        answer = send_signed(market.url, NODE_KEY, VALIDATOR, "POST", target, body=body)
        assert (answer.status, answer.json["code"]) == (status, code), body[:80]


def test_only_a_validator_may_cosign(market: Market) -> None:
    market.agent.client.append([STATUS])
    newest = newest_of(market)
    for who in (OWNER, RENTER_ID, AUDITOR):
        with pytest.raises(RequestRejected) as caught:
            market.reader(who).cosign(SYSTEM, request_of(who, cosignature_of(who, newest)))
        assert (caught.value.status, caught.value.code) == (403, ErrorCode.NOT_PERMITTED)


def test_a_miner_that_takes_no_cosignatures_loses_no_points(tmp_path: Path) -> None:
    signer = TwoFaced()
    supervisor, url = serve(signer.app())
    with reading(tmp_path, url) as validator:
        assert validator.read().verdict.reason is None
        assert validator.witness.latest(ORIGIN) is not None
    assert supervisor.stop(15)


# An adversary: a miner that signs one history for whoever reads, and another for the witness.


def lines_of(*words: str) -> list[bytes]:
    return [f'{{"n":"{word}"}}'.encode() for word in words]


@dataclass
class TwoFaced:
    """Streams ``lines``, the first ``streamed`` of them, and proves consistency of all, well, badly or not at all."""

    lines: list[bytes] = field(default_factory=lambda: lines_of(*"abcdef"))
    streamed: int | None = None
    is_mute: bool = False
    breaks_proofs: bool = False

    def note(self, lines: list[bytes]) -> bytes:
        return sign_checkpoint(Checkpoint(ORIGIN, len(lines), root(lines)), LOG_SUBKEY.key).raw

    def app(self) -> Flask:
        flask = Flask("two-faced")

        def stream() -> Response:
            first, lines = int(request.args["from"]), self.lines[: self.streamed]
            frames = [Frame("certificate", LOG_SUBKEY.certificate.model_dump_json().encode())]
            frames += [Frame("line", line, str(seq)) for seq, line in enumerate(lines)][first:]
            frames.append(Frame("checkpoint", self.note(lines)))
            return Response(b"".join(frame.encode() for frame in frames), mimetype=MEDIA_TYPE)

        def checkpoint(_stream_id: str) -> dict[str, object] | tuple[dict[str, object], int]:
            old, size = int(request.args.get("old", 0)), int(request.args.get("size", len(self.lines)))
            if self.is_mute or not old <= size <= len(self.lines):
                refusal = {"status": "failure", "code": "INVALID_FIELD", "message": "no such size", "hint": "-"}
                return {**refusal, "field": "old"}, 400
            hashes = [leaf_hash(line) for line in self.lines[:size]]
            proof = [value.hex() for value in consistency_proof(hashes, old)] if 0 < old < size else []
            if self.breaks_proofs and proof:
                proof[0] = "00" * 32
            certificate = LOG_SUBKEY.certificate.model_dump(mode="json")
            note = self.note(self.lines[:size]).decode()
            return {"status": "success", "certificate": certificate, "checkpoint": note, "consistency": proof}

        flask.add_url_rule("/telemetry/stream", view_func=stream)
        flask.add_url_rule("/streams/<_stream_id>/checkpoint", view_func=checkpoint)
        return flask


@pytest.mark.parametrize("is_mute", [False, True], ids=["answers", "refuses proofs"])
@pytest.mark.parametrize("shown", ["aXc", "aXcdef", "aXcdefgh"], ids=["before", "at", "behind what was read"])
def test_a_history_shown_to_the_witness_alone_is_a_fork_with_both_notes(
    tmp_path: Path, shown: str, is_mute: bool
) -> None:
    miner = TwoFaced()
    supervisor, url = serve(miner.app())
    other = lines_of(*shown)
    with reading(tmp_path, url) as validator:
        validator.witness.follow(LOG)
        validator.witness.add_checkpoint(AddCheckpoint(0, (), miner.note(other)).encode(), 1_790_000_000)
        miner.is_mute = is_mute
        evidence = validator.read()
        kept = validator.witness.evidence(ORIGIN)
    assert evidence.verdict.reason is RejectReason.LOG_FORK
    assert evidence.fork is not None
    assert {miner.note(other).decode(), miner.note(miner.lines).decode()} == set(evidence.fork)
    assert [{note.decode() for note in pair} for pair in kept] == [set(evidence.fork)]
    for note in evidence.fork:
        open_checkpoint(note.encode(), LOG)
    assert supervisor.stop(15)


def test_a_bad_proof_of_an_honest_log_costs_the_cosignature_and_nothing_else(tmp_path: Path) -> None:
    """The lines we keep say that nothing was rewritten, whatever the miner answered."""
    miner = TwoFaced(lines=lines_of(*"abc"))
    supervisor, url = serve(miner.app())
    with reading(tmp_path, url) as validator:
        validator.read()
        miner.lines = lines_of(*"abcdef")
        for miner.breaks_proofs, miner.is_mute in ((True, False), (False, True)):
            assert validator.read().verdict.reason is None
            seen = validator.witness.latest(ORIGIN)
            assert seen is not None
            assert open_checkpoint(seen, LOG).checkpoint.size == 3
        miner.is_mute = False
        validator.read()
        seen = validator.witness.latest(ORIGIN)
        assert seen is not None
        assert open_checkpoint(seen, LOG).checkpoint.size == 6
        assert validator.witness.evidence(ORIGIN) == []
    assert supervisor.stop(15)


def test_a_log_that_goes_on_to_what_the_witness_was_shown_is_honest(tmp_path: Path) -> None:
    """Somebody asked the witness about eight lines while this validator had read six."""
    miner = TwoFaced(lines=lines_of(*"abcdefgh"), streamed=6)
    supervisor, url = serve(miner.app())
    with reading(tmp_path, url) as validator:
        validator.witness.follow(LOG)
        validator.witness.add_checkpoint(AddCheckpoint(0, (), miner.note(miner.lines)).encode(), 1_790_000_000)
        evidence = validator.read()
        assert (evidence.size, evidence.verdict.reason) == (6, None)
        assert validator.witness.evidence(ORIGIN) == []
        seen = validator.witness.latest(ORIGIN)
        assert seen is not None
        assert open_checkpoint(seen, LOG).checkpoint.size == 8
    assert supervisor.stop(15)


def test_a_cosignature_of_the_wrong_key_does_not_verify() -> None:
    signed = sign_checkpoint(Checkpoint(ORIGIN, 1, root([b"x"])), LOG_SUBKEY.key)
    (line,) = [cosignature_of(VALIDATOR, signed).signature()]
    cosigned = SignedCheckpoint(signed.checkpoint, signed.note.with_signatures([line]))
    for who, holds in ((VALIDATOR, True), (SECOND_VALIDATOR, False)):
        verifier = witness_verifier(who.subkey(Purpose.WITNESS).certificate, who.public_key)
        with contextlib.nullcontext() if holds else pytest.raises(NoteInvalid):
            check_cosignatures(cosigned, [verifier], 1)
