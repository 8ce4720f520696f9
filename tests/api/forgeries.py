"""One signed request, and what a forger can change about it: each change by itself, everything else as it was signed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from polarise.http_signatures import (
    AUDIENCE_HEADER,
    CERTIFICATE_HEADER,
    IDEMPOTENCY_HEADER,
    WINDOW_SECONDS,
    sign_request,
)
from polarise.signing import Identity
from tests.support.http import Answer, send
from tests.support.identities import identity

FORGER = identity("forger")


@dataclass(frozen=True)
class Sent:
    """A request as it goes out.

    Attributes:
        url: Base URL of the daemon.
        key: Its node key.
        who: Who signed.
        method: HTTP method.
        target: Path and query.
        headers: The signature's.
        body: Bytes.
    """

    url: str
    key: str
    who: Identity
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    def go(self) -> Answer:
        """Send it."""
        return send(self.url, self.method, self.target, headers=self.headers, body=self.body)

    def with_header(self, name: str, value: str) -> Sent:
        """Return it with another value of a header."""
        return replace(self, headers={**self.headers, name: value})

    def with_input(self, pattern: str, new: str) -> Sent:
        """Return it with something else in what the signature says of itself."""
        old = self.headers["Signature-Input"]
        changed = re.sub(pattern, new, old, count=1)
        assert changed != old
        return self.with_header("Signature-Input", changed)

    def signed_for(self, target: str) -> Sent:
        """Return it signed for another target."""
        return replace(self, target=target).signed_at(0)

    def signed_at(self, seconds: float) -> Sent:
        """Return it signed so long from now."""
        now = datetime.now(UTC) + timedelta(seconds=seconds)
        headers = sign_request(self.who, self.method, self.url + self.target, self.body, audience=self.key, now=now)
        return replace(self, headers=headers)


def sound(url: str, key: str, who: Identity, method: str, target: str, *, seconds_ahead: float = 0) -> Sent:
    """Return a request as its caller signs it."""
    return Sent(url, key, who, method, target, {}).signed_at(seconds_ahead)


def _seen_before(request: Sent) -> Sent:
    assert request.go().status == 200
    return request


def _a_second_later(request: Sent) -> str:
    found = re.search(r"created=(\d+)", request.headers["Signature-Input"])
    assert found is not None
    return f"created={int(found[1]) + 1}"


def _of_another_authority(request: Sent) -> Sent:
    return request.with_header("Host", f"localhost:{urlsplit(request.url).port}")


def _of_the_forger(header: str) -> Callable[[Sent], Sent]:
    def change(request: Sent) -> Sent:
        forged = sign_request(FORGER, request.method, request.url + request.target, b"", audience=request.key)
        return request.with_header(header, forged[header])

    return change


# What was changed -> the code it is refused with, and the change.
FORGERIES: Mapping[str, tuple[str, Callable[[Sent], Sent]]] = {
    "method": ("BAD_SIGNATURE", lambda request: replace(request, method="HEAD")),
    "path": ("BAD_SIGNATURE", lambda request: replace(request.signed_for("/status"), target=request.target)),
    "query": ("BAD_SIGNATURE", lambda request: replace(request, target=request.target + "?x=1")),
    "body": ("BAD_SIGNATURE", lambda request: replace(request, body=b"{}")),
    "authority": ("BAD_SIGNATURE", _of_another_authority),
    "audience": ("BAD_SIGNATURE", lambda request: request.with_header(AUDIENCE_HEADER, FORGER.public_key)),
    "created too long ago": ("CLOCK_SKEW", lambda request: request.signed_at(-WINDOW_SECONDS - 2)),
    "created too far ahead": ("CLOCK_SKEW", lambda request: request.signed_at(WINDOW_SECONDS + 2)),
    "created rewritten": (
        "BAD_SIGNATURE",
        lambda request: request.with_input(r"created=\d+", _a_second_later(request)),
    ),
    "idempotency key": ("BAD_SIGNATURE", lambda request: request.with_header(IDEMPOTENCY_HEADER, "another")),
    "nonce seen before": ("NONCE_REUSED", _seen_before),
    "nonce rewritten": ("BAD_SIGNATURE", lambda request: request.with_input('nonce="', 'nonce="0')),
    "nothing covered": ("BAD_SIGNATURE", lambda request: request.with_input(r"\([^)]*\)", "()")),
    "path not covered": ("BAD_SIGNATURE", lambda request: request.with_input('"@path" ', "")),
    "key of another": (
        "BAD_SIGNATURE",
        lambda request: request.with_input(r'keyid="[0-9a-f]{64}"', f'keyid="{"a" * 64}"'),
    ),
    "certificate of another": ("BAD_SIGNATURE", _of_the_forger(CERTIFICATE_HEADER)),
    "signature of another": ("BAD_SIGNATURE", _of_the_forger("Signature")),
}
