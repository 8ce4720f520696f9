"""Requests as bytes: what a client of ours would never send can be sent with these."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from polarise.http_signatures import IDEMPOTENCY_HEADER, sign_request
from polarise.signing import Identity


@dataclass(frozen=True)
class Answer:
    """One answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        """The body as an object."""
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value

    def assert_refused(self, status: int, code: str, field: str | None = None) -> dict[str, object]:
        """Check the one error shape, and return it."""
        shape = self.json
        assert (self.status, shape["code"], shape.get("field")) == (status, code, field), shape
        assert shape["status"] == "failure"
        assert set(shape) == {"status", "code", "message", "hint"} | ({"field"} if field else set())
        assert shape["message"]
        assert shape["hint"]
        return shape


def send(url: str, method: str, target: str, *, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
    """Send exactly this and read the answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port or 80, timeout=30)
    try:
        sent = {"Content-Length": str(len(body)), **(headers or {})}
        connection.putrequest(method, target, skip_host="Host" in sent, skip_accept_encoding=True)
        if body and "Content-Type" not in sent:
            sent["Content-Type"] = "application/json"
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, received, response.read())
    finally:
        connection.close()


def signed(
    url: str,
    node_key: str,
    who: Identity,
    method: str,
    target: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    now: datetime | None = None,
) -> Answer:
    """Send one properly signed request."""
    key = (headers or {}).get(IDEMPOTENCY_HEADER)
    signature = sign_request(who, method, url + target, body, audience=node_key, idempotency_key=key, now=now)
    return send(url, method, target, headers={**(headers or {}), **signature}, body=body)


def raw_exchange(url: str, sent: bytes, *, seconds: float = 20.0) -> bytes:
    """Send raw bytes on a fresh connection and return everything until the other side closes or is silent."""
    parts = urlsplit(url)
    received = b""
    with socket.create_connection((str(parts.hostname), parts.port or 80), timeout=seconds) as connection:
        connection.sendall(sent)
        try:
            while piece := connection.recv(65536):
                received += piece
                head, separator, rest = received.partition(b"\r\n\r\n")
                if separator and len(rest) >= _content_length(head):
                    break
        except TimeoutError:
            pass
    return received


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 1 << 60
