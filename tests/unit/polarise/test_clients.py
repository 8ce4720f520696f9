"""`MinerClient` against a small working miner, and against one that lies."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from polarise.answers import printable, refusal_of
from polarise.clients import MinerClient
from polarise.errors import AnswerInvalid, ErrorCode, RequestRejected, Unavailable
from polarise.messages import AllocateRequest, MatmulSizes, OpenRequest, Position, PrepareRequest, StartRequest
from polarise.receipt import Receipt
from polarise.ssh_keys import generate_key_pair
from polarise.statement import SignedStatement, sign_statement
from tests.support.identities import public_key_line
from tests.unit.polarise.small_miner import SmallMiner, Wire, identity

MINER, RENTER, STRANGER = identity(1), identity(2), identity(3)


@pytest.fixture
def miner() -> Iterator[SmallMiner]:
    with SmallMiner(MINER).running() as running:
        yield running


def client(miner: SmallMiner, who: int = 2) -> MinerClient:
    return MinerClient(miner.endpoint, MINER.public_key, identity(who), timeout_seconds=5)


@pytest.mark.parametrize("key", ["", "a" * 65, "a b", "a\r\nX: y", "ä"])
def test_an_unusable_idempotency_key_is_never_sent(miner: SmallMiner, key: str) -> None:
    with pytest.raises(RequestRejected, match="not a usable key") as caught:
        client(miner).allocate(AllocateRequest(), idempotency_key=key)
    assert caught.value.field == "Idempotency-Key"
    assert miner.seen == []


def test_a_lease_from_beginning_to_end(miner: SmallMiner) -> None:
    renter = client(miner)
    _, line = generate_key_pair()
    answer = renter.allocate(AllocateRequest(memory="2g", cpu_count=2, ssh_public_key=line), idempotency_key="once")
    assert miner.ssh_keys[answer.container_id] == line
    assert miner.seen[-1][2]["Idempotency-Key"] == "once"
    assert [view.container_id for view in renter.containers()] == [answer.container_id]
    assert renter.container(answer.container_id).status == "ACTIVE"
    assert renter.renew(answer.container_id, 7200).expires_at == "2026-01-01T02:00:00+00:00"
    renter.set_ssh_key(answer.container_id, generate_key_pair()[1])
    assert miner.ssh_keys[answer.container_id] != line
    assert renter.new_password(answer.container_id).ssh_password == "fresh-password"
    with renter.logs(answer.container_id, follow=True) as chunks:
        assert b"".join(chunks) == b"one\ntwo\n"
    assert miner.seen[-1][1].endswith("?follow=1")
    renter.terminate(answer.container_id)
    assert renter.containers() == ()


def test_token_status_and_ping(miner: SmallMiner) -> None:
    renter = client(miner)
    assert renter.token().token == "a.b.c"
    assert renter.status().node_key == MINER.public_key
    assert 0 < renter.ping() < 5_000_000_000


def test_a_proof_from_prepare_to_open(miner: SmallMiner) -> None:
    validator, name = client(miner), "0" * 32
    prepare = PrepareRequest(
        challenge_id=name, kind="matmul", device="cpu", sizes=MatmulSizes(n=64, rounds=1, tile=16, openings=1)
    )
    validator.prepare(prepare, deadline_seconds=5)
    timed = validator.start(
        StartRequest(challenge_id=name, epoch=0, beacon="0" * 64, nonce="0" * 64), deadline_seconds=5
    )
    assert timed.sent_ns < timed.first_byte_ns <= timed.last_byte_ns
    assert timed.answer.commitment.signer == MINER.public_key
    position = Position(round_index=0, tile_row=0, tile_column=0)
    opened = validator.open(OpenRequest(challenge_id=name, positions=(position,)), deadline_seconds=5)
    assert opened.openings == ({"round": 0},)


def test_another_tenants_container_does_not_exist(miner: SmallMiner) -> None:
    container_id = client(miner).allocate(AllocateRequest()).container_id
    with pytest.raises(RequestRejected) as refused:
        client(miner, who=3).terminate(container_id)
    assert (refused.value.code, refused.value.status) == (ErrorCode.NOT_FOUND, 404)
    assert refused.value.hint == "see GET /containers"
    with pytest.raises(RequestRejected):
        client(miner, who=3).logs(container_id)


@pytest.mark.parametrize("container_id", ["../images/x", "", "ABCDEF012345", "abc", "0" * 65, "0" * 12 + "\n"])
def test_an_id_that_is_none_never_leaves(miner: SmallMiner, container_id: str) -> None:
    with pytest.raises(RequestRejected, match="not a container id"):
        client(miner).container(container_id)
    assert miner.seen == []


def test_a_miner_with_another_key_refuses_the_audience_and_is_found_out(miner: SmallMiner) -> None:
    wrong = MinerClient(miner.endpoint, STRANGER.public_key, RENTER, timeout_seconds=5)
    with pytest.raises(RequestRejected) as refused:
        wrong.containers()
    assert (refused.value.code, refused.value.status) == (ErrorCode.BAD_SIGNATURE, 401)
    with pytest.raises(AnswerInvalid, match="is node"):
        wrong.status()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ssh_host", "127.0.0.2"),
        ("ssh_port", 2223),
        ("ssh_user", "other"),
        ("container_id", "f" * 64),
        ("host_key", public_key_line("another host")),
        ("host_key_fingerprint", "SHA256:x"),
        ("devices", ["GPU-1"]),
        ("private_network", {"name": "a", "address": "10.202.0.2"}),
        ("expires_at", "2026-01-01T01:00:01Z"),
        ("expires_at", "tomorrow"),
        ("expires_at", "2026-01-01T01:00:00"),
    ],
)
def test_an_answer_that_differs_from_its_receipt_is_refused(miner: SmallMiner, name: str, value: object) -> None:
    miner.tamper = lambda _, wire: {**wire, name: value}
    with pytest.raises(AnswerInvalid, match=name):
        client(miner).allocate(AllocateRequest())


def test_lease_of_another_isolation_than_asked_for_is_refused(miner: SmallMiner) -> None:
    """The small miner gives standard ones whatever is asked for."""
    with pytest.raises(AnswerInvalid, match="the lease is standard, asked for strict"):
        client(miner).allocate(AllocateRequest(isolation="strict"))


def test_lease_without_the_private_network_that_was_asked_for_is_refused(miner: SmallMiner) -> None:
    with pytest.raises(AnswerInvalid, match="private network None, asked for mine"):
        client(miner).allocate(AllocateRequest(private_network="mine"))


def test_limits_that_differ_from_the_receipt_are_refused(miner: SmallMiner) -> None:
    def tamper(_: str, wire: Wire) -> Wire:
        limits = wire["limits"]
        assert isinstance(limits, dict)
        return {**wire, "limits": {**limits, "memory_bytes": limits["memory_bytes"] + 1}}

    miner.tamper = tamper
    with pytest.raises(AnswerInvalid, match="limits"):
        client(miner).allocate(AllocateRequest())


def resigned(wire: Wire, number: int, **changes: object) -> Wire:
    """The same answer with a receipt that somebody else signed, or that says something else."""
    statement = SignedStatement.model_validate_json(json.dumps(wire["receipt"]))
    receipt = Receipt.model_validate_json(json.dumps({**statement.body, **changes}))
    return {**wire, **changes, "receipt": sign_statement(identity(number), "receipt", receipt).to_wire()}


def test_a_receipt_of_another_signer_or_renter_is_refused(miner: SmallMiner) -> None:
    miner.tamper = lambda _, wire: resigned(wire, 3)
    with pytest.raises(AnswerInvalid, match="signed by"):
        client(miner).allocate(AllocateRequest())
    miner.tamper = lambda _, wire: {**resigned(wire, 1, renter_key=STRANGER.public_key), "renter_key": None}
    with pytest.raises(AnswerInvalid):
        client(miner).allocate(AllocateRequest())


def test_a_signed_receipt_made_out_to_somebody_else_is_refused(miner: SmallMiner) -> None:
    def tamper(_: str, wire: Wire) -> Wire:
        changed = resigned(wire, 1, renter_key=STRANGER.public_key)
        del changed["renter_key"]
        return changed

    miner.tamper = tamper
    with pytest.raises(AnswerInvalid, match="renter_key"):
        client(miner).allocate(AllocateRequest())


@pytest.mark.parametrize("host_key", ["ssh-ed25519 AAAA", "x\ny", public_key_line("host") + " comment"])
def test_a_signed_host_key_that_is_none_is_refused(miner: SmallMiner, host_key: str) -> None:
    """Even signed: it would be written into known_hosts."""
    miner.tamper = lambda _, wire: resigned(wire, 1, host_key=host_key)
    with pytest.raises(AnswerInvalid):
        client(miner).allocate(AllocateRequest())


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "a b", "a\nb", "", "a,b"])
def test_a_receipt_with_a_host_that_ssh_would_misread_is_no_receipt(miner: SmallMiner, host: str) -> None:
    container_id = client(miner).allocate(AllocateRequest()).container_id
    body = {**miner.leases[container_id].model_dump(mode="json"), "ssh_host": host}
    with pytest.raises(ValueError, match="ssh_host"):
        Receipt.model_validate_json(json.dumps(body))


def test_a_renewal_of_another_container_is_refused(miner: SmallMiner) -> None:
    renter = client(miner)
    first, second = (renter.allocate(AllocateRequest()).container_id for _ in range(2))
    renewed = json.loads(renter.renew(second, 60).model_dump_json())
    miner.tamper = lambda _, wire: renewed
    with pytest.raises(AnswerInvalid, match="container_id"):
        renter.renew(first, 60)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"nonsense", b'{"token": 1, "expires_at": "x"}', b'{"a":1,"a":2}'])
def test_an_answer_of_another_shape_is_invalid_and_not_our_fault(miner: SmallMiner, body: bytes) -> None:
    miner.refuse["/token"] = (200, {}, body)
    with pytest.raises(AnswerInvalid, match="no TokenAnswer"):
        client(miner).token()


def test_unavailable_carries_retry_after(miner: SmallMiner) -> None:
    body = json.dumps({"status": "failure", "code": "UNAVAILABLE", "message": "docker is down", "hint": ""}).encode()
    miner.refuse["/token"] = (503, {"Retry-After": "17"}, body)
    with pytest.raises(Unavailable, match="docker is down") as away:
        client(miner).token()
    assert away.value.retry_after_seconds == 17


@pytest.mark.parametrize(("header", "seconds"), [(None, 5), ("0", 1), ("99999", 3600), ("soon", 5), ("9" * 5000, 5)])
def test_retry_after_is_bounded(header: str | None, seconds: int) -> None:
    error = refusal_of(503, header, b"")
    assert isinstance(error, Unavailable)
    assert error.retry_after_seconds == seconds


@pytest.mark.parametrize("body", [b"", b"[1]", b"<html>", b'{"code": 7, "message": null, "hint": {}, "field": []}'])
def test_a_refusal_of_any_shape_is_still_a_refusal(body: bytes) -> None:
    error = refusal_of(418, None, body)
    assert isinstance(error, RequestRejected)
    assert (error.code, error.status) == (ErrorCode.INTERNAL, 418)
    assert error.message


def test_a_peers_words_cannot_steer_the_terminal() -> None:
    error = refusal_of(400, None, json.dumps({"code": "CONFLICT", "message": "\x1b[2Jgone\n" + "x" * 999}).encode())
    assert isinstance(error, RequestRejected)
    assert error.code is ErrorCode.CONFLICT
    assert error.message.startswith("?[2Jgone?x")
    assert len(error.message) == 500
    assert printable(None) == ""
