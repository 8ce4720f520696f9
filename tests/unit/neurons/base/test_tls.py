"""The HTTP server under TLS: only 1.3, bounded before a handshake is over, and as steady as without."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flask import Response

from config.schema import NetworkConfig
from neurons.base.access import Caller, Role, RoleTable, RouteAccess, Scope
from neurons.base.http_app import ChunkSource, Gatekeeper, HttpApp
from neurons.base.http_server import GRACE_SECONDS, HttpService, reached_at
from neurons.base.nonces import NonceStore
from neurons.base.rate_limits import Rate, RateLimits, Rates
from neurons.base.service import Supervisor
from neurons.base.tls import P256_ORDER, ServerTls, server_tls, tls_private_key, tls_public_key
from neurons.base.tokens import TokenIssuer, TokenSecret
from polarise.errors import Unavailable
from polarise.http_client import HttpClient
from polarise.http_signatures import sign_request
from polarise.messages import SuccessAnswer
from polarise.signing import Purpose, SigningKey
from polarise.tls import DAY_MS, VALID_DAYS, Pin, node_word
from tests.support.clock import ManualClock
from tests.support.http import raw_exchange
from tests.support.identities import identity
from tests.support.miners import can_connect, wait_until
from tests.support.tls import any_version, connect
from utils.clock import SystemClock

NODE, RENTER = identity("node"), identity("renter")
PIN = Pin(NODE.public_key, tls_public_key(NODE))
TABLE = {
    ("GET", "/public"): RouteAccess(is_public=True),
    ("GET", "/stream"): RouteAccess(is_public=True),
    ("GET", "/own"): RouteAccess({Role.RENTER: Scope.OWN}),
}
THREADS = 8
STREAMS_MAX = 4
IDLE_SECONDS = 2
CONNECTIONS_MAX = 20
GET = b"GET /public HTTP/1.1\r\nHost: x\r\n\r\n"


class Ticks:
    """A stream that says "tick" and then nothing."""

    def __init__(self) -> None:
        self.is_closed = threading.Event()
        self._has_spoken = False

    def next_chunk(self) -> bytes | None:
        if not self._has_spoken:
            self._has_spoken = True
            return b"tick\n"
        time.sleep(0.05)
        return b""

    def close(self) -> None:
        self.is_closed.set()


class Site:
    """A small application behind TLS."""

    def __init__(self, folder: Path, limits: RateLimits | None = None) -> None:
        self.nonces = NonceStore(folder / "nonces.sqlite")
        tokens = TokenIssuer([TokenSecret("s" * 32)], 60, NODE.public_key)
        table = RoleTable(None, is_open=True)
        gatekeeper = Gatekeeper(NODE.public_key, table, TABLE, self.nonces, tokens, SystemClock())
        self.app = HttpApp("site", gatekeeper, streams_max=STREAMS_MAX, streams_per_key_max=1)
        self.app.route("GET", "/public", lambda _caller, _body: SuccessAnswer())
        self.app.route("GET", "/own", lambda _caller, _body: SuccessAnswer())
        self.app.route("GET", "/stream", self._stream)
        self.service = HttpService(
            self.app.flask,
            "127.0.0.1",
            0,
            threads=THREADS,
            max_body_bytes=65536,
            idle_seconds=IDLE_SECONDS,
            connections_max=CONNECTIONS_MAX,
            limits=limits,
            tls=ServerTls(NODE, ["127.0.0.1"], SystemClock()),
        )
        self.streams: list[Ticks] = []

    @property
    def client(self) -> HttpClient:
        return HttpClient(self.service.url, pin=PIN)

    def _stream(self, _caller: Caller | None, _body: bytes) -> Response:
        return self.app.stream(self._open, "text/plain")

    def _open(self, _gone: threading.Event) -> ChunkSource:
        self.streams.append(Ticks())
        return self.streams[-1]


@pytest.fixture(name="site")
def running_site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    site.service.prepare()
    supervisor = Supervisor(site.service)
    supervisor.start()
    port = site.service.port
    wait_until(lambda: is_served(site), 5, "no answer")
    yield site
    assert supervisor.stop(GRACE_SECONDS + 5)
    assert not can_connect(port)
    assert supervisor.restarts_count == 0
    site.nonces.close()


def is_served(site: Site) -> bool:
    return site.client.request("GET", "/public", timeout_seconds=5).status == 200


def raw(site: Site) -> socket.socket:
    return socket.create_connection(("127.0.0.1", site.service.port), timeout=IDLE_SECONDS + 3)


def is_ended(connection: socket.socket) -> bool:
    """Read until the other side closes or resets."""
    with contextlib.suppress(ConnectionError):
        while connection.recv(4096):
            pass
    return True


def hello() -> bytes:
    """The first bytes of an honest connection."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        any_version().wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


def test_signed_request_and_stream_over_tls(site: Site) -> None:
    url = site.service.url
    assert url.startswith("https://")
    headers = sign_request(RENTER, "GET", url + "/own", b"", audience=NODE.public_key)
    assert site.client.request("GET", "/own", headers=headers).status == 200
    with site.client.stream("/stream", timeout_seconds=5) as stream:
        assert next(stream) == b"tick\n"
    assert site.streams[0].is_closed.wait(2)


def test_stream_that_another_thread_closes_just_ends(site: Site) -> None:
    """And hands out nothing that was not decrypted."""
    pieces: list[bytes] = []
    stream = site.client.stream("/stream", timeout_seconds=5)
    reader = threading.Thread(target=lambda: pieces.extend(stream))
    reader.start()
    wait_until(lambda: bool(pieces), 5, "no piece came")
    stream.close()
    reader.join(5)
    assert not reader.is_alive()
    assert pieces == [b"tick\n"]


def test_only_tls_1_3(site: Site) -> None:
    context = any_version()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(site.service.port, context)
    with connect(site.service.port) as connection:
        assert connection.version() == "TLSv1.3"
        connection.sendall(GET)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_many_requests_on_one_connection(site: Site) -> None:
    with connect(site.service.port) as connection:
        for _ in range(5):
            connection.sendall(GET)
            received = b""
            while not received.endswith(b'{"status":"success"}\n'):
                piece = connection.recv(4096)
                assert piece, received
                received += piece
            assert received.startswith(b"HTTP/1.1 200 ")


def test_plain_http_to_the_tls_port_is_told_so(site: Site) -> None:
    answer = raw_exchange(site.service.url.replace("https", "http"), GET)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"hint": "use https://"' in answer
    assert is_served(site)


def test_handshakes_that_do_not_go_on_are_closed(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        halves = [stack.enter_context(raw(site)) for _ in range(4)]
        for half, sent in zip(halves, (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01", b"\x16" + b"x" * 5000), strict=True):
            half.sendall(sent)
        assert all(is_ended(half) for half in halves)


def test_handshake_that_drips_is_closed_at_its_deadline(site: Site) -> None:
    began = time.monotonic()
    with raw(site) as connection, contextlib.suppress(ConnectionError):
        connection.settimeout(0.2)
        for index in range(len(data := hello())):
            assert time.monotonic() < began + IDLE_SECONDS + 3, "bytes that drip keep it open"
            connection.sendall(data[index : index + 1])
            with contextlib.suppress(TimeoutError):
                if not connection.recv(1):
                    break


@pytest.mark.parametrize("sent", [b"", b"\x16", hello()], ids=["silent", "one byte", "hello only"])
def test_half_open_handshakes_make_room_oldest_first(site: Site, sent: bytes) -> None:
    with contextlib.ExitStack() as stack:
        halves = [stack.enter_context(raw(site)) for _ in range(CONNECTIONS_MAX)]
        for half in halves:
            half.sendall(sent)
        assert is_served(site)
        assert is_ended(halves[0])


def test_handshakes_are_counted_per_address_and_loopback_is_not() -> None:
    limits = RateLimits(Rates(anonymous=Rate(1, 3)), ManualClock().monotonic_ns, trusted_proxies=["192.0.2.9"])
    assert [limits.admits_handshake("192.0.2.1") for _ in range(5)] == [True] * 3 + [False] * 2
    assert limits.refused["handshake"] == 2
    assert all(limits.admits_handshake(peer) for peer in ("192.0.2.2", "127.0.0.1", "::1", "192.0.2.9", None) * 3)
    limits.arrived("192.0.2.1")


def test_handshake_beyond_the_limit_is_closed_before_it_begins(tmp_path: Path) -> None:
    class Strict(RateLimits):
        def address_of(self, peer: str | None, forwarded: str | None) -> str | None:
            return peer  # loopback counts here, so that a test can come from it

    rates = Rates(anonymous=Rate(1e-6, 2))
    site = Site(tmp_path, Strict(rates, SystemClock().monotonic_ns))
    site.service.prepare()
    supervisor = Supervisor(site.service)
    supervisor.start()
    for _ in range(2):
        with connect(site.service.port) as connection:
            assert connection.version() == "TLSv1.3"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(site.service.port)
    assert supervisor.stop(GRACE_SECONDS + 5)
    site.nonces.close()


def test_a_slow_head_behind_a_handshake_makes_room_too(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        halves = [stack.enter_context(connect(site.service.port)) for _ in range(CONNECTIONS_MAX)]
        for half in halves:
            half.sendall(b"GET /public HTTP/1.1\r\nX: ")
        assert is_served(site)
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            assert halves[0].recv(4096) == b""


def test_a_caller_that_never_says_goodbye_holds_no_place(site: Site) -> None:
    """Neither here nor when the server stops."""
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS_MAX):
            done = stack.enter_context(connect(site.service.port))
            done.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert done.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert is_served(site)


def test_streams_at_the_cap_let_plain_requests_through_and_end_with_the_server(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.service.prepare()
    supervisor = Supervisor(site.service)
    supervisor.start()
    with contextlib.ExitStack() as stack:
        for _ in range(STREAMS_MAX):
            assert next(stack.enter_context(site.client.stream("/stream", timeout_seconds=5))) == b"tick\n"
        with site.client.stream("/stream", timeout_seconds=5) as refused:
            assert refused.status == 503
        assert is_served(site)
        assert supervisor.stop(GRACE_SECONDS + 5)
        assert all(stream.is_closed.wait(2) for stream in site.streams)
    assert supervisor.restarts_count == 0
    site.nonces.close()


def test_connections_that_are_reset_in_every_state_leave_nothing(site: Site) -> None:
    for sent in (b"", b"\x16", hello(), hello() + b"x", GET):
        with raw(site) as connection:
            connection.sendall(sent)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert is_served(site)


def test_certificate_is_made_again_each_day_and_when_the_clock_goes_back() -> None:
    clock = ManualClock()
    tls = ServerTls(NODE, ["localhost"], clock)
    first = tls.context()
    clock.step_wall(DAY_MS / 1000 - 0.001)
    assert tls.context() is first
    clock.step_wall(0.001)
    second = tls.context()
    assert second is not first
    clock.step_wall(-1)
    assert tls.context() is not second
    assert VALID_DAYS * DAY_MS > 2 * DAY_MS


def test_the_key_is_derived_and_a_rotation_changes_it() -> None:
    assert tls_public_key(NODE) == tls_public_key(identity("node")) != tls_public_key(RENTER)
    zero, one = (tls_private_key(NODE.key.derive(Purpose.TLS, counter)) for counter in (0, 1))
    assert zero.private_numbers().private_value != one.private_numbers().private_value
    for number in range(8):
        scalar = tls_private_key(SigningKey(bytes([number]) * 32)).private_numbers().private_value
        assert 1 <= scalar < P256_ORDER
    ec.derive_private_key(P256_ORDER - 1, ec.SECP256R1())


def test_no_private_key_stays_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ServerTls(NODE, ["localhost"], SystemClock())
    assert os.listdir(tmp_path) == []


def test_the_shown_certificate_names_the_node_and_its_hosts(site: Site) -> None:
    with connect(site.service.port) as connection:
        word = node_word(connection.getpeercert(binary_form=True) or b"")
    assert (word.issuer, word.subject) == (NODE.public_key, tls_public_key(NODE))


@pytest.mark.parametrize(
    ("network", "is_tls", "url"),
    [
        (NetworkConfig(), False, "http://127.0.0.1:8080"),
        (NetworkConfig(host="::1"), False, "http://[::1]:8080"),
        (NetworkConfig(host="127.0.0.9", tls="on"), True, "https://127.0.0.9:8080"),
        (NetworkConfig(host="192.0.2.1", advertised_host="m.example"), True, "https://192.0.2.1:8080"),
        (NetworkConfig(host="0.0.0.0", advertised_host="m.example"), True, "https://m.example:8080"),
        (NetworkConfig(host="::", advertised_host="2001:db8::1"), True, "https://[2001:db8::1]:8080"),
    ],
)
def test_settings_decide_about_tls_and_the_url(network: NetworkConfig, is_tls: bool, url: str) -> None:
    assert (server_tls(network, NODE, SystemClock()) is not None) is is_tls
    assert reached_at(network, network.port) == url


def test_https_url_of_a_plain_server_says_what_is_wrong() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_answer_plainly, args=(listener,), daemon=True).start()
        client = HttpClient(f"https://127.0.0.1:{listener.getsockname()[1]}", pin=PIN)
        with pytest.raises(Unavailable, match="serve https there"):
            client.request("GET", "/", timeout_seconds=5)


def _answer_plainly(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
