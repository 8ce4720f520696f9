"""Targets: answers of peers over HTTP, requests of callers, and where a host name leads."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from ledger.embedded import EmbeddedLedger
from neurons.base.access import Caller, Role, RoleTable, RouteAccess, Scope
from neurons.base.health import Health
from neurons.base.http_app import AccessTable, Gatekeeper, HttpApp, decode_body
from neurons.base.http_server import HttpService
from neurons.base.metrics import MetricsTracker
from neurons.base.nonces import NonceStore
from neurons.base.rate_limits import RateLimits, Rates
from neurons.base.tls import ServerTls
from neurons.base.tokens import TokenIssuer, TokenSecret
from neurons.ledger.access_table import LEDGER_ACCESS
from neurons.ledger.http_server import LedgerRoutes
from neurons.ledger.state_routes import StateRoutes
from polarise.addresses import is_public
from polarise.clients import MinerClient, read_status
from polarise.errors import LogFork, ProofRejected, RequestRejected, Unavailable
from polarise.http_client import HttpClient
from polarise.http_signatures import sign_request
from polarise.messages import AllocateRequest, RenewRequest, SuccessAnswer
from polarise.stream import SYSTEM
from polarise.telemetry_client import TelemetryClient
from telemetry.archive import Archive
from telemetry.puller import Puller
from tests.fuzz.ledger import transactions
from tests.fuzz.logs import proofs, stream
from tests.fuzz.replayer import Replayer
from tests.fuzz.target import KIB, Call, Target, plain, text_of
from tests.support.identities import identity
from tests.unit.ledger.small_market import GENESIS, LOG_KEY, MINER, ManualClock
from utils.clock import SystemClock

ME, NODE = identity("caller"), identity("node")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
ANSWER_BYTES_MAX = 64 * KIB
TABLE = {
    ("GET", "/public"): RouteAccess(is_public=True),
    ("POST", "/body"): RouteAccess(is_public=True),
    ("POST", "/own"): RouteAccess({Role.RENTER: Scope.OWN}),
}
ANSWERS = [
    HEAD + b"Content-Length: 5\r\n\r\nhello",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: a\r\n\r\n",
    HEAD + b"\r\nuntil the end",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nRetry-After: 7\r\n\r\n{}",
    b"HTTP/1.0 503 x\r\n\r\n",
]
STATUS = (
    b'{"node_key":"0","role":"miner","version":"1","leases_count":0,"cpu_milli_free":0,"memory_bytes_free":0,'
    b'"devices_free":[],"ssh_host":"a"}'
)


@contextlib.contextmanager
def _request() -> Iterator[Call]:
    with Replayer() as replayer:
        client = HttpClient(replayer.url)

        def call(raw: bytes) -> object:
            replayer.answer_raw(raw)
            return client.request("GET", "/", timeout_seconds=5, max_bytes=ANSWER_BYTES_MAX).body

        yield call


@contextlib.contextmanager
def _stream() -> Iterator[Call]:
    with Replayer() as replayer:
        client = HttpClient(replayer.url)

        def call(raw: bytes) -> int:
            replayer.answer_raw(raw)
            with client.stream("/", timeout_seconds=5, idle_seconds=5) as pieces:
                return sum(len(piece) for piece in pieces)

        yield call


@contextlib.contextmanager
def _miner_answers() -> Iterator[Call]:
    """Give every question of the clients the same body."""
    with Replayer() as replayer:

        def call(raw: bytes) -> None:
            replayer.answer(raw)
            miner = MinerClient(replayer.url, NODE.public_key, ME, timeout_seconds=5)
            telemetry = TelemetryClient(replayer.url, NODE.public_key, ME)
            questions = (
                miner.status,
                miner.containers,
                lambda: miner.container("0" * 64),
                lambda: miner.allocate(AllocateRequest()),
                lambda: miner.terminate("0" * 64),
                lambda: read_status(HttpClient(replayer.url), 5),
                lambda: telemetry.proof(SYSTEM, 0),
                lambda: telemetry.events(SYSTEM, 0),
                lambda: telemetry.checkpoint(SYSTEM),
            )
            for question in questions:
                with contextlib.suppress(RequestRejected, Unavailable):
                    question()

        yield call


@contextlib.contextmanager
def _puller() -> Iterator[Call]:
    with Replayer() as replayer, tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(1 << 30))

        def call(raw: bytes) -> int:
            replayer.answer(raw)
            client = TelemetryClient(replayer.url, NODE.public_key, ME)
            with Archive(Path(folder) / f"{next(numbers)}.sqlite") as archive:
                return Puller(client, archive).pull(SYSTEM)

        yield call


@contextlib.contextmanager
def _server() -> Iterator[Call]:
    """A real server; whatever is sent, it answers in its own shape or hangs up, and no thread of it dies."""
    with serving(TABLE, register_some) as port:
        yield lambda raw: exchange(port, raw)


@contextlib.contextmanager
def _ledger_routes() -> Iterator[Call]:
    """A ledger's real routes; the input is the target of a GET, behind the method."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedLedger(Path(folder) / "ledger.sqlite", GENESIS, LOG_KEY, ManualClock()) as ledger,
    ):
        for raw in transactions():
            ledger.submit(raw)
        ledger.make_block()
        with serving(LEDGER_ACCESS, ledger_routes(ledger)) as port:

            def call(raw: bytes) -> bytes:
                # A stream has no end, and a second line would be another request.
                target = raw.partition(b"\r")[0].partition(b"\n")[0].replace(b"subscribe", b"status")
                return exchange(port, b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % target)

            yield call


def ledger_routes(ledger: EmbeddedLedger) -> Callable[[HttpApp], None]:
    """Return what registers all routes of a ledger."""

    def register(app: HttpApp) -> None:
        limits = RateLimits(Rates(), time.monotonic_ns)
        LedgerRoutes(NODE.public_key, ledger, Health({}), MetricsTracker(), limits).register(app)
        StateRoutes(ledger).register(app)

    return register


def register_some(app: HttpApp) -> None:
    """Register a public route and two that take a body."""

    def own(_caller: Caller | None, body: bytes) -> SuccessAnswer:
        decode_body(RenewRequest, body)
        return SuccessAnswer()

    app.route("GET", "/public", lambda _caller, _body: SuccessAnswer())
    for path in ("/body", "/own"):
        app.route("POST", path, own)


@contextlib.contextmanager
def serving(table: AccessTable, routes: Callable[[HttpApp], None], *, tls: ServerTls | None = None) -> Iterator[int]:
    """Serve some routes as a node would, and give the port."""
    with tempfile.TemporaryDirectory() as folder:
        nonces = NonceStore(Path(folder) / "nonces.sqlite")
        tokens = TokenIssuer([TokenSecret("s" * 32)], 60, NODE.public_key)
        gatekeeper = Gatekeeper(NODE.public_key, RoleTable(None, is_open=True), table, nonces, tokens, SystemClock())
        app = HttpApp("fuzz", gatekeeper, streams_max=1)
        routes(app)
        service = HttpService(app.flask, "127.0.0.1", 0, threads=2, max_body_bytes=64 * KIB, idle_seconds=1, tls=tls)
        service.prepare()
        stop = threading.Event()
        thread = threading.Thread(target=service.run, args=(stop,), name="fuzzed server")
        thread.start()
        try:
            yield service.port
        finally:
            stop.set()
            thread.join()
            nonces.close()


def exchange(port: int, raw: bytes) -> bytes:
    """Send bytes, and return all that comes back: no answer is a defect of the server's."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(raw)
        # Half a request is told to be one: nothing here waits for a timeout of the server's.
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            received += piece
    for status in (line.split(b" ")[1] for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")):
        assert status != b"500", received
    return received


def _requests() -> list[bytes]:
    body = b'{"ttl_seconds":5}'
    common = b"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    signed = sign_request(ME, "POST", "http://127.0.0.1/own", body, audience=NODE.public_key)
    head = "".join(f"{name}: {value}\r\n" for name, value in signed.items()).encode("latin-1")
    return [
        b"GET /public?a=b&a=%ff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST /body HTTP/1.1\r\n" + common + b"\r\n" + body,
        b"POST /own HTTP/1.1\r\n" + common + head + b"\r\n" + body,
        b"POST /own HTTP/1.1\r\n" + common + b"Authorization: Bearer a.b.c\r\n\r\n" + body,
        b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ]


def _base_url(raw: bytes) -> object:
    client = HttpClient(text_of(raw))
    return urlsplit(client.base_url).port


TARGETS = (
    Target(
        "polarise.http_client.HttpClient.request",
        _request,
        lambda: ANSWERS[:3],
        (Unavailable,),
        2 * ANSWER_BYTES_MAX,
        covers=("polarise.http_wire.read_body", "polarise.http_wire.read_piece"),
        weight=3,
    ),
    Target(
        "polarise.http_client.HttpClient.stream",
        _stream,
        lambda: ANSWERS[:3],
        (Unavailable,),
        2 * ANSWER_BYTES_MAX,
        covers=("polarise.http_client.ByteStream.read_rest",),
        weight=3,
    ),
    Target(
        "polarise.http_client.HttpClient",
        plain(_base_url),
        lambda: [b"http://127.0.0.1:8080", b"http://[::1]:8080/", b"http://host"],
        (Unavailable,),
        4096,
    ),
    Target(
        "polarise.addresses.is_public",
        plain(lambda raw: is_public(text_of(raw))),
        lambda: [b"8.8.8.8", b"::ffff:127.0.0.1", b"2002::1", b"fe80::1%eth0"],
        (ValueError,),
        4096,
    ),
    Target(
        "polarise.clients.MinerClient",
        _miner_answers,
        lambda: [STATUS, b'{"containers":[]}', *proofs()],
        (),
        ANSWER_BYTES_MAX,
        calls_base=200_000,
        memory_base_bytes=1024 * KIB,
        weight=20,
    ),
    Target(
        "telemetry.puller.Puller.pull",
        _puller,
        lambda: [stream()],
        (Unavailable, RequestRejected, ProofRejected, LogFork),
        ANSWER_BYTES_MAX,
        memory_base_bytes=1024 * KIB,
        weight=12,
    ),
    Target(
        "neurons.base.http_server.HttpService",
        _server,
        _requests,
        (),
        64 * KIB,
        memory_base_bytes=4096 * KIB,
        covers=(
            "neurons.base.http_app.decode_body",
            "neurons.base.http_app.Gatekeeper",
            "neurons.base.http_protocol.BoundedProtocol",
        ),
        weight=8,
    ),
    Target(
        "neurons.ledger.http_server.LedgerRoutes",
        _ledger_routes,
        lambda: [
            b"/get?path=/registry/" + MINER.public_key.encode() + b"&concern=pending",
            b"/list?path=/registry&after=a&limit=5",
            b"/prove?path=/registry/" + MINER.public_key.encode(),
            b"/tx/" + b"0" * 64,
            b"/consistency?old=1&new=3",
            b"/frontier?size=3",
            b"/blocks?from=0&limit=9",
            b"/leaves?from=1&limit=1",
            b"/tile/entries/000.p/3",
            b"/state?path=/registry/" + MINER.public_key.encode() + b"&height=1",
            b"/state/values?path=/registry&after=/registry/a",
        ],
        (),
        64 * KIB,
        memory_base_bytes=4096 * KIB,
        covers=("neurons.ledger.state_routes.StateRoutes",),
        weight=8,
    ),
)
