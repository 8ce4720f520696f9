"""A small HTTP/1.1 client for talking to nodes nobody has to trust.

Rules:
- One request per connection, and one deadline from the name lookup to the last byte, so that a slow drip ends too.
- The body is bounded and never decompressed; a redirect is an error; proxy variables are not looked at.
- With ``allow_private=False`` the address that was checked is the address that is connected to (no DNS rebinding).
- Plain HTTP goes to loopback only. With https the pin is compared after the handshake, and a request leaves only then.
- ``sent_ns`` is taken right *before* head and body go to the kernel in one write, ``first_byte_ns`` right after the
  first byte can be read, ``last_byte_ns`` when the body is complete; nothing is computed in between. A peer can send
  its first byte before its work is done, so whoever times work counts to ``last_byte_ns``. With https the handshake is
  over before ``sent_ns``, and a byte can be read when the record that holds it (at most 16 KiB) was decrypted.
- Every failure is `Unavailable`; a missed deadline is its subclass `DeadlineExceeded`, a broken answer `ConnectionLost`.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from polarise.addresses import Address, allowed_addresses, connect
from polarise.deadline import Deadline, Idle
from polarise.errors import ConnectionLost, PeerRefused, Unavailable
from polarise.http_wire import MAX_HEAD_BYTES, SocketReader, border, read_body, read_piece, request_head
from polarise.signing import Certificate
from polarise.tls import Pin, TlsPeer, connect_tls

MAX_BODY_BYTES = 1024 * 1024
CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Response:
    """One complete answer.

    Attributes:
        status: HTTP status, never 1xx or 3xx.
        headers: Names in lower case.
        body: At most ``max_bytes`` of the request.
        sent_ns: Monotonic clock right before the request's only write.
        first_byte_ns: Monotonic clock right after the first byte of the answer could be read.
        last_byte_ns: Monotonic clock after the last byte of the body was read.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent_ns: int
    first_byte_ns: int
    last_byte_ns: int


class HttpClient:
    """Requests to one node; holds no connection.

    Args:
        base_url: ``https://host:port`` or ``http://host:port`` without a path.
        allow_private: Whether loopback, private and link-local addresses may be connected to.
        pin: Whose certificate is expected with https.

    Raises:
        Unavailable: The URL is not usable, or it is https and nobody said whose certificate is expected.
    """

    def __init__(self, base_url: str, *, allow_private: bool = True, pin: Pin | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self._allow_private = allow_private
        self._pin = pin
        self._host, self._port, self._authority, self._is_tls = _parse_base_url(self.base_url)
        if self._is_tls and pin is None:
            raise Unavailable(f"{base_url[:100]}: whose certificate is expected there is not known")

    @property
    def tls_peer(self) -> TlsPeer | None:
        """Who must be at the other end of a TLS connection, for whoever connects by itself; None for plain HTTP."""
        return TlsPeer(self._pin, self._host) if self._is_tls and self._pin is not None else None

    def shown_word(self, timeout_seconds: float) -> Certificate | None:
        """Connect, and return the node's word for the TLS key that is shown; None for plain HTTP, where none is.

        Raises:
            PeerRefused: It does not fit the pin.
            Unavailable: No connection.
        """
        if not self._is_tls:
            return None
        with border(self.base_url), contextlib.ExitStack() as stack:
            return self._connect(stack, Deadline(timeout_seconds))[1]

    def check_address(self, timeout_seconds: float) -> None:
        """Look the host up and judge its addresses as every request does.

        Raises:
            AddressRefused: Only public addresses are allowed, and this one is not.
            Unavailable: There is no such name.
        """
        with border(self.base_url):
            self._allowed(timeout_seconds)

    def addresses(self, timeout_seconds: float) -> tuple[tuple[str, int], ...]:
        """Return the addresses, judged, for whoever connects by itself.

        Raises:
            AddressRefused: Only public addresses are allowed, and this one is not.
            Unavailable: There is no such name.
        """
        with border(self.base_url):
            found = self._allowed(timeout_seconds)
        return tuple((address.host, address.port) for address in found)

    def wire(self, method: str, target: str, *, headers: Mapping[str, str] | None = None, body: bytes = b"") -> bytes:
        """Return the bytes that `request` would send, for whoever sends them by itself.

        Raises:
            Unavailable: Something would break out of its line.
        """
        with border(self.base_url):
            return request_head(method, target, self._authority, headers or {}, body) + body

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_seconds: float = 30.0,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> Response:
        """Send one request and read the whole answer.

        Args:
            method: Upper-case method.
            target: Path and query as they are sent, percent-encoded.
            headers: Further headers; Host, Content-Length and Connection are ours.
            body: Body, empty for none.
            timeout_seconds: For everything together.
            max_bytes: Bound of the answer's body.

        Raises:
            DeadlineExceeded: The answer was not complete in time.
            Unavailable: No connection, no answer, a redirect, or an answer larger than ``max_bytes``.
        """
        deadline = Deadline(timeout_seconds)
        with border(self.base_url), contextlib.ExitStack() as stack:
            wire = request_head(method, target, self._authority, headers or {}, body) + body
            exchange = self._exchange(stack, method, wire, deadline)
            content = read_body(exchange.response, max_bytes)
            last_byte_ns = time.monotonic_ns()
        return Response(
            exchange.response.status,
            exchange.headers,
            content,
            exchange.sent_ns,
            exchange.first_byte_ns,
            last_byte_ns,
        )

    def stream(
        self,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 30.0,
        idle_seconds: float = 600.0,
        seconds_max: float | None = None,
    ) -> ByteStream:
        """GET an answer whose body is read as it comes.

        Args:
            target: Path and query.
            headers: As in `request`.
            timeout_seconds: Until the head of the answer is complete.
            idle_seconds: Longest silence between two pieces of the body.
            seconds_max: For the whole body, however steadily it drips; None for no end.

        Raises:
            Unavailable: As `request`.
        """
        with border(self.base_url), contextlib.ExitStack() as stack:
            wire = request_head("GET", target, self._authority, headers or {}, b"")
            exchange = self._exchange(stack, "GET", wire, Deadline(timeout_seconds))
            exchange.reader.patience = Idle(idle_seconds, seconds_max)
            return ByteStream(self.base_url, exchange, stack.pop_all())

    def _exchange(self, stack: contextlib.ExitStack, method: str, wire: bytes, deadline: Deadline) -> _Exchange:
        """Connect, send, stamp and parse the head; what has to be closed goes onto ``stack``."""
        sock, _ = self._connect(stack, deadline)
        sock.settimeout(deadline.left_seconds())
        sent_ns = time.monotonic_ns()
        sock.sendall(wire)
        sock.settimeout(deadline.left_seconds())
        first = sock.recv(1)
        first_byte_ns = time.monotonic_ns()
        if not first:
            raise ConnectionLost(f"{self.base_url} closed the connection without an answer")
        reader = SocketReader(sock, deadline, MAX_HEAD_BYTES, first)
        response = http.client.HTTPResponse(cast(socket.socket, reader), method=method)
        stack.callback(response.close)
        response.begin()
        reader.limit_bytes = None
        if response.status // 100 not in {2, 4, 5}:
            raise Unavailable(f"{self.base_url} answered {response.status}; redirects are not followed")
        received = {name.lower(): value for name, value in response.getheaders()}
        return _Exchange(response, reader, received, sent_ns, first_byte_ns)

    def _connect(self, stack: contextlib.ExitStack, deadline: Deadline) -> tuple[socket.socket, Certificate | None]:
        """Connect and, with https, see who is there."""
        sock = connect(self._host, self._port, deadline, allow_private=self._allow_private, is_plain=not self._is_tls)
        stack.callback(_close, sock)
        if self._pin is None or not self._is_tls:
            return sock, None
        sock.settimeout(deadline.left_seconds())
        try:
            wrapped, word = connect_tls(sock, self._pin, self._host)
        except PeerRefused as err:
            raise PeerRefused(f"{self.base_url}: {err.message}") from err
        stack.callback(_close, wrapped)
        return wrapped, word

    def _allowed(self, timeout_seconds: float) -> list[Address]:
        return allowed_addresses(
            self._host,
            self._port,
            Deadline(timeout_seconds),
            allow_private=self._allow_private,
            is_plain=not self._is_tls,
        )


class ByteStream:
    """The body of one answer as it comes: iterate it, and close it or use ``with``.

    `close` may be called from another thread; the iteration then just ends.
    """

    def __init__(self, name: str, exchange: _Exchange, stack: contextlib.ExitStack) -> None:
        self.status: int = exchange.response.status
        self.headers: Mapping[str, str] = exchange.headers
        self._name = name
        self._exchange = exchange
        self._stack = stack
        self._is_closed = False
        self._reading = threading.Lock()

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._is_closed:
            raise StopIteration
        try:
            with border(self._name), self._reading:
                chunk = read_piece(self._exchange.response, CHUNK_BYTES)
        except Unavailable:
            if not self._is_closed:
                self.close()
                raise
            chunk = b""
        if not chunk:
            self.close()
            raise StopIteration
        return chunk

    def read_rest(self, max_bytes: int, timeout_seconds: float) -> bytes:
        """Read what is left, for example a refusal, and close.

        Raises:
            Unavailable: As `HttpClient.request`.
        """
        self._exchange.reader.patience = Deadline(timeout_seconds)
        with self, border(self._name):
            return read_body(self._exchange.response, max_bytes)

    def close(self) -> None:
        """End the stream; a second call does nothing."""
        self._is_closed = True
        self._exchange.reader.hang_up()
        # Woken by the hang-up, a reader in another thread lets go at once; only then may its files be closed.
        with self._reading:
            self._stack.close()


@dataclass(frozen=True, slots=True)
class _Exchange:
    response: http.client.HTTPResponse
    reader: SocketReader
    headers: Mapping[str, str]
    sent_ns: int
    first_byte_ns: int


def _parse_base_url(base_url: str) -> tuple[str, int, str, bool]:
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port
    except ValueError as err:
        raise Unavailable(f"{base_url[:100]!r} is not a URL: {err}") from err
    rest = (parts.path, parts.query, parts.fragment, parts.username, parts.password)
    is_tls = parts.scheme == "https"
    if not (is_tls or parts.scheme == "http") or not host or any(rest) or not re.fullmatch(r"[\x21-\x7e]+", base_url):
        raise Unavailable(f"{base_url[:100]!r} is not of the form https://host:port or, on loopback, http://host:port")
    return host, port or (443 if is_tls else 80), parts.netloc, is_tls


def _close(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.close()
