"""The HTTP server under every daemon: port, bodies, streams and its end, over real sockets on loopback."""

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from flask import Response

from neurons.base.access import Caller, Role, RoleTable, RouteAccess, Scope
from neurons.base.http_app import ChunkSource, Gatekeeper, HttpApp, decode_body
from neurons.base.http_server import GRACE_SECONDS, HttpService
from neurons.base.nonces import NonceStore
from neurons.base.service import Supervisor
from neurons.base.tokens import TokenIssuer, TokenSecret
from polarise.errors import ConfigError
from polarise.http_signatures import sign_request
from polarise.messages import RenewRequest, SuccessAnswer
from tests.support.http import Answer, raw_exchange, send, signed
from tests.support.identities import identity
from tests.support.miners import can_connect, wait_until
from utils.clock import SystemClock

NODE_KEY = "ab" * 32
TABLE = {
    ("GET", "/public"): RouteAccess(is_public=True),
    ("GET", "/deep/public"): RouteAccess(is_public=True),
    ("POST", "/body"): RouteAccess(is_public=True),
    ("GET", "/stream"): RouteAccess(is_public=True),
    ("GET", "/slow"): RouteAccess(is_public=True),
    ("GET", "/defect"): RouteAccess(is_public=True),
    ("GET", "/own"): RouteAccess({Role.RENTER: Scope.OWN}),
    ("GET", "/own-stream"): RouteAccess({Role.RENTER: Scope.OWN}),
}
STREAMS_MAX = 2
STREAMS_PER_KEY_MAX = 1
IDLE_SECONDS = 2
CONNECTIONS_MAX = 20

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def service(application: "WSGIApplication", port: int = 0) -> HttpService:
    return HttpService(
        application,
        "127.0.0.1",
        port,
        threads=8,
        max_body_bytes=65536,
        idle_seconds=IDLE_SECONDS,
        connections_max=CONNECTIONS_MAX,
    )


def _nothing(_environ: "WSGIEnvironment", _start: "StartResponse") -> list[bytes]:
    return []


class Ticks:
    """A stream that says "tick" once and then has nothing to say; knows whether it was closed."""

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
    """A small application on the real server."""

    def __init__(self, folder: Path) -> None:
        self.nonces = NonceStore(folder / "nonces.sqlite")
        gatekeeper = Gatekeeper(
            NODE_KEY,
            RoleTable(None, renters=[identity(name).public_key for name in ("one", "other")], is_open=True),
            TABLE,
            self.nonces,
            TokenIssuer([TokenSecret("s" * 32)], 60, NODE_KEY),
            SystemClock(),
        )
        self.app = HttpApp("site", gatekeeper, streams_max=STREAMS_MAX, streams_per_key_max=STREAMS_PER_KEY_MAX)
        self.app.route("GET", "/public", lambda _caller, _body: SuccessAnswer())
        self.app.route("GET", "/deep/public", lambda _caller, _body: SuccessAnswer())
        self.app.route("POST", "/body", self._body)
        self.app.route("GET", "/stream", self._stream)
        self.app.route("GET", "/own-stream", self._stream)
        self.app.route("GET", "/defect", self._defect)
        self.app.route("GET", "/own", lambda _caller, _body: SuccessAnswer())
        self.service = service(self.app.flask)
        self.streams: list[Ticks] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service.port}"

    def _body(self, _caller: Caller | None, body: bytes) -> SuccessAnswer:
        decode_body(RenewRequest, body)
        return SuccessAnswer()

    def _defect(self, _caller: Caller | None, _body: bytes) -> SuccessAnswer:
        raise KeyError("our own bug, with a detail that is nobody's business")

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
    url = site.url
    wait_until(lambda: send(url, "GET", "/public").status == 200, 5, "no answer")
    yield site
    assert supervisor.stop(GRACE_SECONDS + 5)
    assert not can_connect(int(url.rpartition(":")[2]))
    assert supervisor.restarts_count == 0
    site.nonces.close()


@contextlib.contextmanager
def open_stream(url: str) -> Iterator[socket.socket]:
    """Open a stream and read its first line."""
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while b"tick" not in received:
            piece = connection.recv(4096)
            assert piece, received
            received += piece
        yield connection


def test_port_that_is_taken_is_the_operators_error_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            service(_nothing, port).prepare()
    assert caught.value.key_path == "network.port"
    assert f"127.0.0.1:{port}" in caught.value.message
    assert "ss -ltnp" in caught.value.allowed


def test_second_node_cannot_take_the_port_before_the_first_serves() -> None:
    first = service(_nothing)
    first.prepare()
    second = service(_nothing, first.port)
    with pytest.raises(ConfigError):
        second.prepare()
    stop = threading.Event()
    stop.set()
    first.run(stop)


def test_answer_names_no_server(site: Site) -> None:
    assert "server" not in send(site.url, "GET", "/public").headers


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "NOT_FOUND"),
        ("GET", "/public//", 404, "NOT_FOUND"),
        ("GET", "/deep//public", 404, "NOT_FOUND"),
        ("GET", "/public/../own", 404, "NOT_FOUND"),
        ("DELETE", "/public", 405, "METHOD_NOT_ALLOWED"),
        ("OPTIONS", "/own", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/own", 401, "NOT_AUTHENTICATED"),
    ],
)
def test_refusal_has_the_one_shape(site: Site, method: str, path: str, status: int, code: str) -> None:
    field = "Signature" if status == 401 else None
    send(site.url, method, path).assert_refused(status, code, field)


def test_defect_is_answered_without_its_detail(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    answer = send(site.url, "GET", "/defect")
    assert (answer.status, answer.json["code"]) == (500, "INTERNAL")
    assert b"nobody" not in answer.body
    assert any(record.exc_info for record in caplog.records)


def test_body_of_exactly_the_limit_is_read_and_one_byte_more_is_not(site: Site) -> None:
    exact = b" " * 65534 + b"{}"
    assert send(site.url, "POST", "/body", body=exact).status == 200
    send(site.url, "POST", "/body", body=b" " + exact).assert_refused(413, "BODY_TOO_LARGE")


def test_ten_megabytes_get_an_answer_and_no_reset_connection(site: Site) -> None:
    send(site.url, "POST", "/body", body=b"x" * 10_000_000).assert_refused(413, "BODY_TOO_LARGE")


def test_ten_megabytes_announced_with_expect_get_an_answer(site: Site) -> None:
    body = b"x" * 10_000_000
    head = f"POST /body HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    port = int(site.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head)
        first = connection.recv(4096)
        if first.startswith(b"HTTP/1.1 100"):
            connection.sendall(body)
            first = connection.recv(4096)
        assert first.startswith(b"HTTP/1.1 413"), first
        assert b"BODY_TOO_LARGE" in first or b"BODY_TOO_LARGE" in connection.recv(4096)


def test_chunked_body_is_refused(site: Site) -> None:
    sent = b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    answer = raw_exchange(site.url, sent)
    assert answer.startswith(b"HTTP/1.1 411 ")
    assert b"send Content-Length" in answer


def test_other_content_type_is_refused(site: Site) -> None:
    answer = send(site.url, "POST", "/body", headers={"Content-Type": "text/xml"}, body=b"<x/>")
    answer.assert_refused(415, "UNSUPPORTED_MEDIA_TYPE", "Content-Type")


def test_body_that_breaks_off_is_not_taken_for_a_shorter_one(site: Site) -> None:
    """A caller that dies in the middle must not have asked for the defaults."""
    port = int(site.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 " not in connection.recv(4096)


def test_body_that_drips_is_refused(site: Site) -> None:
    port = int(site.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=IDLE_SECONDS + 3) as connection:
        connection.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_many_small_requests_on_one_connection_are_answered(site: Site) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", site.service.port, timeout=5)) as connection:
        for _ in range(20):
            connection.request("GET", "/public")
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b'{"status":"success"}\n')


def test_streams_are_capped_and_plain_requests_still_get_through(site: Site) -> None:
    with open_stream(site.url), open_stream(site.url):
        third = send(site.url, "GET", "/stream")
        assert (third.status, third.json["code"]) == (503, "UNAVAILABLE")
        assert int(third.headers["retry-after"]) >= 1
        assert send(site.url, "GET", "/public").status == 200
    wait_until(lambda: _stream_opens(site.url), 5, "the places of ended streams were not given back")


def _stream_opens(url: str) -> bool:
    try:
        with open_stream(url):
            return True
    except AssertionError:
        return False


def test_stream_ends_within_two_seconds_of_its_reader(site: Site) -> None:
    with open_stream(site.url):
        assert not site.streams[0].is_closed.is_set()
    assert site.streams[0].is_closed.wait(2)


def test_server_stops_with_an_open_stream_and_closes_it(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.service.prepare()
    supervisor = Supervisor(site.service)
    supervisor.start()
    with open_stream(site.url):
        assert supervisor.stop(GRACE_SECONDS + 5)
        assert site.streams[0].is_closed.wait(2), "a thread would keep the process from ending"
    site.nonces.close()


def test_request_at_work_is_finished_while_the_server_stops(tmp_path: Path) -> None:
    site = Site(tmp_path)
    entered = threading.Event()

    def slow(_caller: Caller | None, _body: bytes) -> SuccessAnswer:
        entered.set()
        time.sleep(0.3)
        return SuccessAnswer()

    site.app.route("GET", "/slow", slow)
    site.service.prepare()
    supervisor = Supervisor(site.service)
    supervisor.start()
    answers: list[Answer] = []
    url = site.url
    caller = threading.Thread(target=lambda: answers.append(send(url, "GET", "/slow")))
    caller.start()
    assert entered.wait(5)
    assert supervisor.stop(GRACE_SECONDS + 5)
    caller.join(5)
    assert [answer.status for answer in answers] == [200]
    site.nonces.close()


HALF_A_HEAD = b"GET /public HTTP/1.1\r\nHost: x\r\nX-A: "


def rest_of(connection: socket.socket) -> bytes:
    """Read until the other side closes; empty when it was reset."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(4096):
            received += piece
    return received


def test_head_that_drips_is_answered_408_and_closed(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.service.port), timeout=IDLE_SECONDS + 3) as connection:
        connection.sendall(HALF_A_HEAD)
        began, received = time.monotonic(), b""
        connection.settimeout(0.2)
        while not received:
            assert time.monotonic() < began + IDLE_SECONDS + 3, "bytes that drip keep it open"
            with contextlib.suppress(TimeoutError):
                connection.sendall(b"a")
                received = connection.recv(4096)
        assert received.startswith(b"HTTP/1.1 408 ")
        assert b"the head was not complete after 2 s" in received
        assert rest_of(connection) == b""


def test_connection_that_says_nothing_is_closed_without_a_word(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.service.port), timeout=IDLE_SECONDS + 3) as connection:
        assert rest_of(connection) == b""


def test_half_sent_heads_make_room_for_whole_ones_oldest_first(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        halves = []
        for _ in range(CONNECTIONS_MAX):
            half = socket.create_connection(("127.0.0.1", site.service.port), timeout=5)
            stack.enter_context(half)
            half.sendall(HALF_A_HEAD)
            halves.append(half)
        assert send(site.url, "GET", "/public").status == 200
        assert rest_of(halves[0]) == b""
        halves[-1].sendall(b"b\r\n\r\n")
        assert halves[-1].recv(4096).startswith(b"HTTP/1.1 200 ")


def test_half_sent_bodies_make_room_too(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS_MAX):
            half = socket.create_connection(("127.0.0.1", site.service.port), timeout=5)
            stack.enter_context(half)
            half.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            assert half.recv(4096).startswith(b"HTTP/1.1 100 ")  # the head is read, the body is waited for
        assert send(site.url, "GET", "/public").status == 200


def test_connection_beyond_the_bound_is_refused_while_all_others_are_at_work(tmp_path: Path) -> None:
    site, release = Site(tmp_path), threading.Event()

    def slow(_caller: Caller | None, _body: bytes) -> SuccessAnswer:
        release.wait(10)
        return SuccessAnswer()

    site.app.route("GET", "/slow", slow)
    site.service.prepare()
    supervisor = Supervisor(site.service)
    supervisor.start()
    refused = b""
    with contextlib.ExitStack() as stack:

        def one_more_is_refused() -> bool:
            # One may still make room for the next, as long as its head was not read.
            nonlocal refused
            at_work = socket.create_connection(("127.0.0.1", site.service.port), timeout=0.2)
            stack.enter_context(at_work)
            at_work.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(TimeoutError):
                refused = rest_of(at_work)
            return bool(refused)

        wait_until(one_more_is_refused, 9, "none was refused")
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b'"code": "UNAVAILABLE"' in refused
        assert b"retry-after: 5" in refused.lower()
        release.set()
        wait_until(lambda: send(site.url, "GET", "/public").status == 200, 5, "no place was given back")
    assert supervisor.stop(GRACE_SECONDS + 5)
    site.nonces.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"what is this\r\n\r\n",
        b"GET /public HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_in_the_one_shape(site: Site, sent: bytes) -> None:
    head, _, body = raw_exchange(site.url, sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    Answer(400, {}, body).assert_refused(400, "BAD_JSON")


def test_no_http_behind_a_request_at_work_ends_the_connection(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with open_stream(site.url) as connection:
        connection.sendall(b"no http at all\r\n\r\n")
    assert send(site.url, "GET", "/public").status == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_method_that_is_not_served_is_told_which_are(site: Site) -> None:
    answer = send(site.url, "PATCH", "/public")
    answer.assert_refused(405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == "GET, HEAD"


def test_route_without_a_row_in_the_table_is_not_registered(site: Site) -> None:
    with pytest.raises(RuntimeError, match="PATCH /public has no row"):
        site.app.route("PATCH", "/public", lambda _caller, _body: SuccessAnswer())


def test_one_caller_takes_no_more_streams_than_its_own(site: Site) -> None:
    one, other = identity("one"), identity("other")
    headers = sign_request(one, "GET", f"{site.url}/own-stream", b"", audience=NODE_KEY)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    host = site.url.removeprefix("http://")
    with socket.create_connection(("127.0.0.1", site.service.port), timeout=5) as connection:
        connection.sendall(f"GET /own-stream HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n".encode())
        wait_until(lambda: len(site.streams) == 1, 5, "no stream")
        signed(site.url, NODE_KEY, one, "GET", "/own-stream").assert_refused(429, "TOO_MANY_REQUESTS")
        assert signed(site.url, NODE_KEY, one, "GET", "/own").status == 200
        with open_stream(site.url):  # somebody else's
            full = signed(site.url, NODE_KEY, other, "GET", "/own-stream")
            assert (full.status, full.json["code"]) == (503, "UNAVAILABLE")


def test_request_that_never_ends_keeps_neither_the_server_nor_the_process(tmp_path: Path) -> None:
    """Its thread is a daemon's: nothing waits for it beyond the grace."""
    site, entered = Site(tmp_path), threading.Event()

    def stuck(_caller: Caller | None, _body: bytes) -> SuccessAnswer:
        entered.set()
        threading.Event().wait()  # for as long as this process lives
        return SuccessAnswer()

    site.app.route("GET", "/slow", stuck)
    site.service.prepare()
    supervisor = Supervisor(site.service)
    supervisor.start()
    with socket.create_connection(("127.0.0.1", site.service.port), timeout=5) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        assert entered.wait(5)
        assert supervisor.stop(GRACE_SECONDS + 5)
        stuck_threads = [thread for thread in threading.enumerate() if thread.name.startswith("http-0")]
        assert stuck_threads
        assert all(thread.daemon for thread in stuck_threads)
    site.nonces.close()
