"""Signed HTTP requests (RFC 9421): who asks, for which node, with which body, and only once.

Rules:
- Covered: method, authority, path, query, content-digest, the audience and the certificate header; where the request has an
  `Idempotency-Key`, that header too: whoever could swap it would hand out the lease of another request.
- ``created`` may be 30 s off either way; the refusal says by how much the caller's clock is off.
- The caller signs with its request subkey and sends the node key's certificate of it along, so a node's allow-list
  holds node keys only.
- A nonce is used once; the caller of `verify_request` keeps them.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from http_message_signatures import (
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    InvalidSignature,
    VerifyResult,
)
from http_message_signatures import algorithms as rfc9421_algorithms
from http_message_signatures.exceptions import HTTPMessageSignaturesException

from polarise.canonical import canonical_bytes
from polarise.decode import decode_model
from polarise.errors import ErrorCode, RequestRejected
from polarise.signing import Certificate, Identity, Purpose, SignatureInvalid, Subkey

TAG = "polarise-request-1"
WINDOW_SECONDS = 30
AUDIENCE_HEADER = "Polarise-Audience"
CERTIFICATE_HEADER = "Polarise-Certificate"
IDEMPOTENCY_HEADER = "Idempotency-Key"
IDEMPOTENCY_KEY = re.compile(r"[A-Za-z0-9_\-]{1,64}")
MAX_HEADER_CHARS = 4096
COVERED = (
    "@method",
    "@authority",
    "@path",
    "@query",
    "content-digest",
    AUDIENCE_HEADER.lower(),
    CERTIFICATE_HEADER.lower(),
)


@dataclass
class HttpMessage:
    """The parts of a request that are signed; what the RFC 9421 library reads and writes."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VerifiedRequest:
    """A request whose signature holds.

    Attributes:
        caller: Node key of whoever signed.
        nonce: To be spent once, together with the key.
        created_unix_s: When the caller says it signed.
        counter: Generation of the request subkey it signed with; whether that one counts, the node decides.
    """

    caller: str
    nonce: str
    created_unix_s: int
    counter: int = 0


def sign_request(
    identity: Identity,
    method: str,
    url: str,
    body: bytes,
    *,
    audience: str,
    idempotency_key: str | None = None,
    now: datetime | None = None,
) -> dict[str, str]:
    """Return the headers that sign one request, with those that it signs.

    Args:
        identity: Who asks.
        method: Upper-case HTTP method.
        url: Absolute URL as it will be sent.
        body: Exact bytes of the body; empty for none.
        audience: Node key of the node that is meant to answer.
        idempotency_key: Value of the `Idempotency-Key` header; None sends none.
        now: Wall clock, for tests; defaults to now.
    """
    subkey = identity.subkey(Purpose.REQUEST)
    certificate = base64.b64encode(canonical_bytes(subkey.certificate.to_wire())).decode()
    message = HttpMessage(method, url, {AUDIENCE_HEADER: audience, CERTIFICATE_HEADER: certificate})
    if idempotency_key is not None:
        message.headers[IDEMPOTENCY_HEADER] = idempotency_key
    signer = HTTPMessageSigner(signature_algorithm=rfc9421_algorithms.ED25519, key_resolver=_OwnKey(subkey))
    signer.sign(
        message,
        key_id=subkey.key.public_key,
        created=now or datetime.now(UTC),
        nonce=secrets.token_hex(16),
        label="polarise",
        tag=TAG,
        covered_component_ids=_covered(message.headers),
        body=body,
    )
    return message.headers


def verify_request(
    method: str, url: str, headers: Mapping[str, str], body: bytes, *, audience: str, now: datetime
) -> VerifiedRequest:
    """Check a signed request; spends nothing and trusts no allow-list.

    Raises:
        RequestRejected: 401 with NOT_AUTHENTICATED, BAD_SIGNATURE or CLOCK_SKEW and the header's name as field.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    if "signature" not in lowered or "signature-input" not in lowered:
        raise RequestRejected(
            ErrorCode.NOT_AUTHENTICATED,
            "the request is neither signed nor carries a bearer token",
            hint="sign it (RFC 9421) or get a token: python main.py renter token",
            field="Signature",
            status=401,
        )
    if lowered.get(AUDIENCE_HEADER.lower()) != audience:
        raise _bad("the request is meant for another node", f"send {AUDIENCE_HEADER}: {audience}", AUDIENCE_HEADER)
    certificate = _certificate(lowered.get(CERTIFICATE_HEADER.lower(), ""))
    result = _verify(HttpMessage(method, url, dict(headers)), certificate.subject, body)
    created = _checked_created(result, now)
    if result.nonce is None or not 8 <= len(result.nonce) <= 64:
        raise _bad("the signature has no usable nonce", "send a random nonce of 8 to 64 characters", "Signature-Input")
    return VerifiedRequest(certificate.issuer, result.nonce, created, certificate.counter)


def _covered(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return what the signature of a request with these headers must cover."""
    has_key = IDEMPOTENCY_HEADER.lower() in {name.lower() for name in headers}
    return (*COVERED, IDEMPOTENCY_HEADER.lower()) if has_key else COVERED


def _verify(message: HttpMessage, subject: str, body: bytes) -> VerifyResult:
    verifier = _Verifier(signature_algorithm=rfc9421_algorithms.ED25519, key_resolver=_CallersKey(subject))
    try:
        required = _covered(message.headers)
        results = verifier.verify(message, max_age=None, expect_tag=TAG, require_components=required, body=body)
    except (InvalidSignature, HTTPMessageSignaturesException, ValueError, KeyError) as err:
        raise _bad(
            f"the signature does not hold: {err}", "sign the request exactly as it is sent", "Signature"
        ) from err
    if len(results) != 1:
        raise _bad(f"{len(results)} signatures, expected one", "sign the request once", "Signature")
    return results[0]


def _checked_created(result: VerifyResult, now: datetime) -> int:
    created = result.parameters.get("created")
    if not isinstance(created, int):
        raise _bad("the signature has no creation time", "send the created parameter", "Signature-Input")
    ahead = created - int(now.timestamp())
    if abs(ahead) > WINDOW_SECONDS:
        direction = "ahead" if ahead > 0 else "behind"
        raise RequestRejected(
            ErrorCode.CLOCK_SKEW,
            f"your clock is {abs(ahead)} s {direction}, or the request is old; {WINDOW_SECONDS} s are allowed",
            hint="set your clock (NTP) and sign the request anew",
            field="Signature-Input",
            status=401,
        )
    return created


def _certificate(header: str) -> Certificate:
    if not header or len(header) > MAX_HEADER_CHARS:
        raise _bad("the certificate header is missing or too long", f"send {CERTIFICATE_HEADER}", CERTIFICATE_HEADER)
    try:
        certificate = decode_model(Certificate, base64.b64decode(header, validate=True))
        certificate.check(issuer=certificate.issuer, purpose=Purpose.REQUEST)
    except (ValueError, RequestRejected, SignatureInvalid) as err:
        raise _bad(f"the certificate does not hold: {err}", "certify your request key", CERTIFICATE_HEADER) from err
    return certificate


def _bad(message: str, hint: str, header: str) -> RequestRejected:
    return RequestRejected(ErrorCode.BAD_SIGNATURE, message, hint=hint, field=header, status=401)


class _Verifier(HTTPMessageVerifier):
    """The library's verifier with a window so wide that `_checked_created` answers first, and says by how much."""

    max_clock_skew = timedelta(days=36500)


class _OwnKey(HTTPSignatureKeyResolver):
    def __init__(self, subkey: Subkey) -> None:
        self._subkey = subkey

    def resolve_private_key(self, key_id: str) -> Ed25519PrivateKey:
        return self._subkey.key.private


class _CallersKey(HTTPSignatureKeyResolver):
    def __init__(self, subject: str) -> None:
        self._subject = subject

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey:
        if key_id != self._subject:
            raise HTTPMessageSignaturesException("keyid is not the certified request key")
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(self._subject))
