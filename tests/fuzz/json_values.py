"""Targets: JSON as it comes over the wire, lines of logs, events, and the texts people write."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import cast

from neurons.agent.container_message import container_draft
from neurons.base.tokens import Token, TokenIssuer, TokenSecret
from polarise.answers import MAX_ANSWER_BYTES, MAX_REFUSAL_BYTES, decoded, refusal_of, unix_ms
from polarise.canonical import JsonValue
from polarise.decode import MAX_BODY_BYTES, decode_json
from polarise.envelope import Event, open_line
from polarise.errors import RequestRejected, Unavailable
from polarise.http_client import Response
from polarise.http_signatures import sign_request, verify_request
from polarise.ingress import Draft, Hop, Sender, dispatch, place, receive, unix_ns
from polarise.ledger_messages import ListAnswer
from polarise.line import MAX_LINE_BYTES, decode_line, encode_line
from polarise.messages import ContainerList
from polarise.payloads import KIND_RULES, check_container_kind, check_payload
from polarise.quantities import parse_size
from polarise.rented import sign_consent
from tests.fuzz.target import Target, plain, text_of
from tests.support.identities import identity

ME, NODE = identity("caller"), identity("node").public_key
NOW = datetime(2026, 1, 1, tzinfo=UTC)
URL = "http://node:8080/containers?a=b"
STREAM = "0" * 64 + "/system"
HOP = Hop("agent", "1", "node")
UUID = "00000000-0000-4000-8000-000000000000"
TOKENS = TokenIssuer([TokenSecret("s" * 32)], 2**40, NODE)

MESSAGES: tuple[Mapping[str, JsonValue], ...] = (
    {"kind": "training.epoch", "payload": {"epoch": 3, "loss": 0.25, "nan": "nan", "big": 2**60}},
    {
        "message_id": UUID,
        "client_id": UUID,
        "action_id": UUID,
        "type": "BAI_APP_STATUS",
        "tstamp": "1700000000000",
        "date": 1_700_000_000_000_000_000,
        "visited": [{"svc": "bff", "tstamp": 1_700_000_000, "version": "1"}],
        "authenticated": "true",
        "status": "CANCELLED",
        "message": "by the user",
    },
    {
        "kind": "command.submit",
        "type": "CMD_SUBMIT",
        "cause": {"message_id": UUID, "hash": "0" * 64},
        "payload": {"command": "cancel", "args": {"target_action_id": UUID}},
    },
    {"kind": "telemetry.sample", "payload": {"eventType": "host_metrics", "timestamp": 1, "gpuUsage": None,
                                             "memoryUsage": 1.5, "temperature": 40, "gpus": [{"index": 0}]}},
)  # fmt: skip


def messages() -> list[bytes]:
    """What clients send."""
    return [json.dumps(message).encode() for message in MESSAGES]


def lines() -> list[bytes]:
    """What logs hold."""
    return [_placed(receive(raw)) for raw in messages()]


def _placed(draft: Draft) -> bytes:
    return place(dispatch(draft, Sender(UUID), HOP, 1_700_000_000_123_456_789), STREAM, 7)


def _received(raw: bytes) -> object:
    """Receive a message as a hop does; what came in must be able to go on."""
    draft = receive(raw)
    try:
        line = _placed(draft)
    except RequestRejected:
        return draft  # with its envelope it is longer than a line may be
    return open_line(line)


def _checked_payload(raw: bytes) -> None:
    value = decode_json(raw)
    if isinstance(value, Mapping):
        for rule in KIND_RULES:
            with contextlib.suppress(RequestRejected):
                check_payload(rule.prefix.rstrip("."), cast(Mapping[str, object], value))


def _kind(raw: bytes) -> None:
    check_container_kind(text_of(raw))


def _answer(raw: bytes) -> object:
    status, _, body = raw.partition(b" ")
    response = Response(int(status) if status in {b"200", b"400", b"503"} else 200, {}, body, 0, 0, 0)
    return decoded(ContainerList, response) if b"containers" in body else decoded(ListAnswer, response)


def _refusal(raw: bytes) -> object:
    head, _, body = raw.partition(b" ")
    return str(refusal_of(503 if head == b"503" else 400, text_of(head), body))


def _verified(raw: bytes) -> object:
    """Verify a request whose headers are the lines of the input."""
    pairs = (line.partition(": ") for line in raw.decode("latin-1").split("\n"))
    headers = {name: value for name, _, value in pairs}
    return verify_request("POST", URL, headers, b"{}", audience=NODE, now=NOW)


def _signed_headers() -> list[bytes]:
    headers = sign_request(ME, "POST", URL, b"{}", audience=NODE, now=NOW)
    return ["\n".join(f"{name}: {value}" for name, value in headers.items()).encode("latin-1")]


TARGETS = (
    Target(
        "polarise.decode.decode_json",
        plain(decode_json),
        lambda: [*messages(), b"[1,2.5,null,true]", b'"text"', b"-0"],
        (RequestRejected,),
        MAX_BODY_BYTES,
        encode=lambda value: json.dumps(value).encode(),
    ),
    Target(
        "polarise.line.decode_line",
        plain(decode_line),
        lambda: [*lines(), b'{"a":1e+21,"b":0.1,"c":"\xc3\xa9"}'],
        (RequestRejected,),
        MAX_LINE_BYTES,
        is_canonical=True,
        encode=lambda value: encode_line(cast(dict[str, JsonValue], value)),
    ),
    Target(
        "polarise.envelope.open_line",
        plain(open_line),
        lines,
        (RequestRejected,),
        MAX_LINE_BYTES,
        is_canonical=True,
        encode=lambda value: cast(Event, value).to_line(),
    ),
    Target(
        "polarise.ingress.receive",
        plain(_received),
        messages,
        (RequestRejected,),
        MAX_LINE_BYTES,
        covers=("polarise.ingress.draft_of",),
    ),
    Target(
        "polarise.payloads.check_payload",
        plain(_checked_payload),
        lambda: [json.dumps(message.get("payload", {})).encode() for message in MESSAGES],
        (RequestRejected,),
        MAX_BODY_BYTES,
    ),
    Target(
        "polarise.payloads.check_container_kind", plain(_kind), lambda: [b"training.epoch"], (RequestRejected,), 4096
    ),
    Target(
        "neurons.agent.container_message.container_draft",
        plain(lambda raw: container_draft(raw, "0" * 32)),
        lambda: [
            b'{"message_id":"' + UUID.encode() + b'","kind":"a.b","date":"1700000000000000000","payload":{"a":1}}',
            b'{"kind":"training.epoch","dropped":3,"payload":{"epoch":1}}',
        ],
        (RequestRejected,),
        MAX_LINE_BYTES,
    ),
    Target(
        "polarise.ingress.unix_ns",
        plain(lambda raw: unix_ns(text_of(raw))),
        lambda: [b"1", b"1700000000000", b"1700000000000000000"],
        (ValueError,),
        4096,
    ),
    Target(
        "polarise.quantities.parse_size",
        plain(lambda raw: parse_size(text_of(raw))),
        lambda: [b"2g", b"512 MiB", b"1.5t", b"7"],
        (ValueError,),
        32,
    ),
    Target(
        "polarise.answers.unix_ms",
        plain(lambda raw: unix_ms(text_of(raw))),
        lambda: [b"2026-01-01T00:00:00+00:00", b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:59.999999-23:59"],
        (),
        4096,
    ),
    Target(
        "polarise.answers.decoded",
        plain(_answer),
        lambda: [
            b'200 {"containers":[]} ',
            b'200 {"children":[],"next":null}',
            b'200 {"children":[{"name":"a","entry":null}],"next":"a"}',
        ],
        (RequestRejected, Unavailable),
        MAX_ANSWER_BYTES,
        covers=("polarise.answers.raise_for_status",),
    ),
    Target(
        "polarise.answers.refusal_of",
        plain(_refusal),
        lambda: [b'5 {"status":"failure","code":"NOT_FOUND","message":"m","hint":"h","field":"f"}', b"503 {}"],
        (),
        MAX_REFUSAL_BYTES,
    ),
    Target(
        "polarise.http_signatures.verify_request",
        plain(_verified),
        _signed_headers,
        (RequestRejected,),
        64 * 1024,
    ),
    Target(
        "neurons.base.tokens.TokenIssuer.check",
        plain(lambda raw: TOKENS.check(raw.decode("latin-1"))),
        lambda: [TOKENS.issue(ME.public_key, consent).encode() for consent in (None, sign_consent(ME, "0" * 64, 0, 1))],
        (RequestRejected,),
        64 * 1024,
        encode=lambda value: TOKENS.issue(
            cast(Token, value).key, cast(Token, value).consent, cast(Token, value).counter
        ).encode(),
    ),
)
