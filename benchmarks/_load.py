"""Callers of an HTTP API for benchmarks: each keeps a connection or opens one per request, and notes how long each answer takes."""

from __future__ import annotations

import http.client
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

SECONDS_MAX = 60.0
# What makes one request: method, path, headers.
Maker = Callable[[], tuple[str, str, dict[str, str]]]


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of callers found.

    Attributes:
        rate: Answers a second, all callers together.
        p50_ms: Median time of an answer, connection included where each request opens one.
        p99_ms: The ninety-ninth of a hundred.
        failures: Answers with another status than 200, and broken connections.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    failures: int


def connection(url: str) -> http.client.HTTPConnection:
    """Return a connection of a caller that checks no pin: what is measured is the server."""
    parts = urlsplit(url)
    host, port = str(parts.hostname), int(parts.port or 0)
    if parts.scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection(host, port, timeout=SECONDS_MAX, context=context)
    return http.client.HTTPConnection(host, port, timeout=SECONDS_MAX)


def load(url: str, makers: Sequence[Maker], count: int, *, is_kept: bool) -> Load:
    """Have as many callers as there are makers send ``count`` requests each, as fast as they are answered.

    Args:
        url: Base URL.
        makers: One per caller.
        count: Requests of each.
        is_kept: Whether a caller keeps its connection.
    """
    times: list[float] = []
    failures: list[str] = []
    threads = [
        threading.Thread(target=_call, args=(url, maker, count, is_kept, times, failures), daemon=True)
        for maker in makers
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS_MAX)
    seconds = time.perf_counter() - began
    if len(times) < 2:
        raise RuntimeError(f"hardly any answer: {failures[:3]}")
    hundredths = statistics.quantiles(times, n=100)
    return Load(len(times) / seconds, statistics.median(times), hundredths[98], len(failures))


def _call(url: str, maker: Maker, count: int, is_kept: bool, times: list[float], failures: list[str]) -> None:
    kept = connection(url)
    for _ in range(count):
        method, path, headers = maker()
        if not is_kept:
            kept.close()
        began = time.perf_counter()
        try:
            kept.request(method, path, headers=headers)
            answer = kept.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as err:
            failures.append(repr(err))
            kept.close()
            continue
        times.append((time.perf_counter() - began) * 1000)
        if answer.status != 200:
            failures.append(f"{answer.status}")
    kept.close()


def half_open(url: str, count: int) -> list[socket.socket]:
    """Connect ``count`` times and begin no more than the first bytes of a handshake, or of a head."""
    parts = urlsplit(url)
    address = (str(parts.hostname), int(parts.port or 0))
    # A TLS record that says how long it is and goes no further; over plain HTTP the start of a request.
    start = b"\x16\x03\x01\x02\x00\x01" if parts.scheme == "https" else b"GET / HTTP/1.1\r\nHost: x"
    opened = []
    for _ in range(count):
        sock = socket.create_connection(address, timeout=SECONDS_MAX)
        sock.sendall(start)
        opened.append(sock)
    return opened


def slow_bodies(url: str, count: int) -> Iterator[http.client.HTTPConnection]:
    """Send ``count`` heads of requests with a body of 1000 bytes, and ten bytes of each."""
    for _ in range(count):
        slow = connection(url)
        slow.putrequest("POST", "/allocate")
        slow.putheader("Content-Type", "application/json")
        slow.putheader("Content-Length", "1000")
        slow.endheaders(b'{"memory":')
        yield slow
