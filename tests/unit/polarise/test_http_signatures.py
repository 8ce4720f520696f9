"""Signed requests: the eight tamperings, the window, and what else an attacker may put into the headers."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_message_signatures import HTTPMessageSigner, HTTPSignatureKeyResolver
from http_message_signatures import algorithms as rfc9421_algorithms

from polarise.canonical import canonical_bytes
from polarise.errors import ErrorCode, RequestRejected
from polarise.http_signatures import (
    AUDIENCE_HEADER,
    CERTIFICATE_HEADER,
    COVERED,
    IDEMPOTENCY_HEADER,
    TAG,
    WINDOW_SECONDS,
    HttpMessage,
    VerifiedRequest,
    sign_request,
    verify_request,
)
from polarise.signing import Identity, Purpose, SigningKey
from tests.unit.polarise.small_miner import identity

NODE, CALLER, OTHER = identity(1), identity(2), identity(3)
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
URL = "http://127.0.0.1:8080/containers/abc?follow=1"
BODY = b'{"memory":"2g"}'


def signed(body: bytes = BODY, *, who: Identity = CALLER, now: datetime = NOW) -> dict[str, str]:
    return sign_request(who, "POST", URL, body, audience=NODE.public_key, now=now)


def check(headers: dict[str, str], **changes: object) -> VerifiedRequest:
    """Verify the request, with one thing about it changed."""
    return verify_request(
        str(changes.get("method", "POST")),
        str(changes.get("url", URL)),
        headers,
        changes["body"] if isinstance(changes.get("body"), bytes) else BODY,  # type: ignore[arg-type]  # just checked
        audience=str(changes.get("audience", NODE.public_key)),
        now=NOW,
    )


def refusal(headers: dict[str, str], **changes: object) -> RequestRejected:
    with pytest.raises(RequestRejected) as refused:
        check(headers, **changes)
    assert refused.value.status == 401
    assert refused.value.field
    return refused.value


def test_a_signed_request_names_its_caller() -> None:
    request = check(signed())
    assert request.caller == CALLER.public_key
    assert request.created_unix_s == int(NOW.timestamp())
    assert len(request.nonce) == 32


def test_a_request_without_body_and_query_is_signed_too() -> None:
    url = "http://127.0.0.1:8080/token"
    headers = sign_request(CALLER, "GET", url, b"", audience=NODE.public_key, now=NOW)
    assert verify_request("GET", url, headers, b"", audience=NODE.public_key, now=NOW).caller == CALLER.public_key
    with pytest.raises(RequestRejected):
        verify_request("GET", url, headers, b"x", audience=NODE.public_key, now=NOW)


def test_header_names_have_no_case() -> None:
    assert check({name.lower(): value for name, value in signed().items()}).caller == CALLER.public_key
    assert check({name.title(): value for name, value in signed().items()}).caller == CALLER.public_key


def test_nonces_are_fresh() -> None:
    assert check(signed()).nonce != check(signed()).nonce


@pytest.mark.parametrize(
    "change",
    [
        {"method": "DELETE"},
        {"url": URL.replace("8080", "8081")},
        {"url": URL.replace("abc", "abe")},
        {"url": URL.replace("follow=1", "follow=0")},
        {"url": URL.partition("?")[0]},
        {"body": b'{"memory":"3g"}'},
        {"body": BODY + b" "},
        {"audience": OTHER.public_key},
    ],
)
def test_a_tampered_request_is_refused(change: dict[str, object]) -> None:
    assert refusal(signed(), **change).code is ErrorCode.BAD_SIGNATURE


def test_a_rewritten_audience_is_refused() -> None:
    """Signed for one node, relayed to another that rewrites the header."""
    headers = {**signed(), AUDIENCE_HEADER: OTHER.public_key}
    assert refusal(headers, audience=OTHER.public_key).code is ErrorCode.BAD_SIGNATURE


def with_key(key: str | None) -> dict[str, str]:
    return sign_request(CALLER, "POST", URL, BODY, audience=NODE.public_key, idempotency_key=key, now=NOW)


def test_an_idempotency_key_is_signed_with_the_request() -> None:
    assert check(with_key("once")).caller == CALLER.public_key
    assert check({name.lower(): value for name, value in with_key("once").items()}).caller == CALLER.public_key


@pytest.mark.parametrize("value", ["twice", "Once", "once0", "once, once", ""])
def test_a_swapped_idempotency_key_is_refused(value: str) -> None:
    """Who swaps it between caller and node would let another request's lease be the answer."""
    assert refusal({**with_key("once"), IDEMPOTENCY_HEADER: value}).code is ErrorCode.BAD_SIGNATURE


@pytest.mark.parametrize("name", [IDEMPOTENCY_HEADER, IDEMPOTENCY_HEADER.lower(), IDEMPOTENCY_HEADER.upper()])
def test_an_idempotency_key_that_is_added_or_taken_away_is_refused(name: str) -> None:
    added = refusal({**with_key(None), name: "once"})
    assert added.code is ErrorCode.BAD_SIGNATURE
    assert "idempotency-key" in added.message
    taken = {header: value for header, value in with_key("once").items() if header != IDEMPOTENCY_HEADER}
    assert refusal(taken).code is ErrorCode.BAD_SIGNATURE


@pytest.mark.parametrize("part", ["created=1767268800", 'nonce="', f'tag="{TAG}"', 'keyid="'])
def test_changed_parameters_are_refused(part: str) -> None:
    headers = signed()
    assert part in headers["Signature-Input"]
    changed = part.replace("1767268800", "1767268801") if "created" in part else part + "0"
    changed = f'tag="{TAG}x"' if "tag" in part else changed
    headers["Signature-Input"] = headers["Signature-Input"].replace(part, changed)
    assert refusal(headers).code is ErrorCode.BAD_SIGNATURE


def test_another_digest_is_refused() -> None:
    headers = signed()
    headers["Content-Digest"] = signed(b"other")["Content-Digest"]
    assert refusal(headers).code is ErrorCode.BAD_SIGNATURE
    assert refusal(headers, body=b"other").code is ErrorCode.BAD_SIGNATURE


def test_another_callers_certificate_is_refused() -> None:
    headers = {**signed(), CERTIFICATE_HEADER: signed(who=OTHER)[CERTIFICATE_HEADER]}
    assert refusal(headers).code is ErrorCode.BAD_SIGNATURE


def test_a_certificate_that_claims_another_issuer_is_refused() -> None:
    """The caller certifies its own key in somebody else's name."""
    wire = json.loads(base64.b64decode(signed()[CERTIFICATE_HEADER]))
    wire["issuer"] = OTHER.public_key
    headers = {**signed(), CERTIFICATE_HEADER: base64.b64encode(canonical_bytes(wire)).decode()}
    assert refusal(headers).field == CERTIFICATE_HEADER


@pytest.mark.parametrize("purpose", [Purpose.STATEMENT, Purpose.NODE, Purpose.LOG])
def test_a_subkey_of_another_purpose_is_refused(purpose: Purpose) -> None:
    certificate = CALLER.subkey(purpose).certificate
    header = base64.b64encode(canonical_bytes(certificate.to_wire())).decode()
    assert refusal({**signed(), CERTIFICATE_HEADER: header}).field == CERTIFICATE_HEADER


@pytest.mark.parametrize("header", ["", "!!", "e30=", "bnVsbA==", "\u00e9", "AAAA", "A" * 5000, "W10="])
def test_a_broken_certificate_header_is_refused(header: str) -> None:
    assert refusal({**signed(), CERTIFICATE_HEADER: header}).field == CERTIFICATE_HEADER


@pytest.mark.parametrize("name", ["Signature", "Signature-Input"])
def test_an_unsigned_request_says_what_to_do(name: str) -> None:
    headers = signed()
    del headers[name]
    refused = refusal(headers)
    assert refused.code is ErrorCode.NOT_AUTHENTICATED
    assert "token" in refused.hint


@pytest.mark.parametrize("value", ["", "garbage", "polarise=:AAAA:", "polarise=()", "\u00e9", "x" * 100_000])
@pytest.mark.parametrize("name", ["Signature", "Signature-Input", "Content-Digest"])
def test_broken_signature_headers_are_refused(name: str, value: str) -> None:
    refused = refusal({**signed(), name: value})
    assert refused.code is ErrorCode.BAD_SIGNATURE
    assert len(refused.message) < 1000


@pytest.mark.parametrize("seconds", [0, WINDOW_SECONDS, -WINDOW_SECONDS])
def test_thirty_seconds_off_are_accepted(seconds: int) -> None:
    assert check(signed(now=NOW + timedelta(seconds=seconds))).caller == CALLER.public_key


@pytest.mark.parametrize(
    ("seconds", "words"), [(31, "31 s ahead"), (-31, "31 s behind"), (47, "your clock is 47 s ahead")]
)
def test_thirty_one_seconds_off_are_refused_with_the_difference(seconds: int, words: str) -> None:
    refused = refusal(signed(now=NOW + timedelta(seconds=seconds)))
    assert refused.code is ErrorCode.CLOCK_SKEW
    assert words in refused.message


def test_the_clock_is_judged_only_after_the_signature() -> None:
    """An unsigned `created` teaches a stranger nothing."""
    headers = signed(now=NOW + timedelta(days=2))
    headers["Signature"] = signed()["Signature"]
    assert refusal(headers).code is ErrorCode.BAD_SIGNATURE


class _Key(HTTPSignatureKeyResolver):
    def __init__(self, key: SigningKey) -> None:
        self._key = key

    def resolve_private_key(self, key_id: str) -> Ed25519PrivateKey:
        return self._key.private


def hand_made(
    covered: tuple[str, ...], *, nonce: str | None = "0" * 32, tag: str = TAG, label: str = "a"
) -> dict[str, str]:
    """A request signed with the right key but not by our rules."""
    subkey = CALLER.subkey(Purpose.REQUEST)
    certificate = base64.b64encode(canonical_bytes(subkey.certificate.to_wire())).decode()
    message = HttpMessage("POST", URL, {AUDIENCE_HEADER: NODE.public_key, CERTIFICATE_HEADER: certificate})
    HTTPMessageSigner(signature_algorithm=rfc9421_algorithms.ED25519, key_resolver=_Key(subkey.key)).sign(
        message,
        key_id=subkey.key.public_key,
        created=NOW,
        nonce=nonce,
        label=label,
        tag=tag,
        covered_component_ids=covered,
        body=BODY,
    )
    return message.headers


def test_the_hand_made_request_is_right_but_for_what_is_changed() -> None:
    assert check(hand_made(COVERED)).caller == CALLER.public_key


@pytest.mark.parametrize("left_out", COVERED[:4] + COVERED[5:])
def test_every_component_must_be_covered(left_out: str) -> None:
    covered = tuple(component for component in COVERED if component != left_out)
    assert refusal(hand_made(covered)).code is ErrorCode.BAD_SIGNATURE


def test_empty_coverage_is_refused() -> None:
    headers = hand_made(())
    assert refusal(headers).code is ErrorCode.BAD_SIGNATURE
    del headers["Content-Digest"]
    assert refusal(headers).code is ErrorCode.BAD_SIGNATURE


@pytest.mark.parametrize("nonce", [None, "", "short", "x" * 65])
def test_a_nonce_is_required(nonce: str | None) -> None:
    assert refusal(hand_made(COVERED, nonce=nonce)).code is ErrorCode.BAD_SIGNATURE


def test_two_signatures_or_a_foreign_tag_are_refused() -> None:
    first, second = hand_made(COVERED, label="a"), hand_made(COVERED, label="b")
    both = {**first, **{name: f"{first[name]}, {second[name]}" for name in ("Signature", "Signature-Input")}}
    assert refusal(both).code is ErrorCode.BAD_SIGNATURE
    assert refusal(hand_made(COVERED, tag="other")).code is ErrorCode.BAD_SIGNATURE
