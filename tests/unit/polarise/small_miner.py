"""A small working miner on loopback: real HTTP, real signatures, no containers; and a server that misbehaves."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from polarise.decode import decode_model
from polarise.errors import ErrorCode, RequestRejected
from polarise.http_signatures import verify_request
from polarise.messages import AllocateRequest, CountersignRequest, RenewRequest, SshKeyRequest, TokenRequest
from polarise.receipt import Limits, Receipt
from polarise.rented import Countersignature, open_consent
from polarise.signing import Identity, SigningKey
from polarise.ssh_keys import fingerprint, generate_key_pair
from polarise.statement import SignedStatement, sign_statement
from tests.support.tls import context_of
from tests.support.usage import usage_of

LIMITS = Limits(memory_bytes=2 << 30, swap_bytes=0, cpu_milli=2000, pids_count=512, shm_bytes=64 << 20)
GRANTED = datetime(2026, 1, 1, tzinfo=UTC)

Wire = dict[str, object]
Answer = tuple[int, Wire]


def identity(number: int) -> Identity:
    """A fixed identity, the same in every run."""
    return Identity(SigningKey(bytes([number]) * 32))


@dataclass
class SmallMiner:
    """One miner.

    ``tamper`` changes answers on their way out, ``refuse`` answers a path with an error, and for each path in ``cut`` one
    answer is lost: the work is done, and the connection ends.
    """

    identity: Identity
    leases: dict[str, Receipt] = field(default_factory=dict)
    ssh_keys: dict[str, str | None] = field(default_factory=dict)
    countersigned: dict[str, str] = field(default_factory=dict)
    consents: list[SignedStatement | None] = field(default_factory=list)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    tamper: Callable[[str, Wire], Wire] = lambda _, wire: wire
    refuse: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    granted: dict[tuple[str, str], Wire] = field(default_factory=dict)
    used: dict[str, Mapping[str, object]] = field(default_factory=dict)
    cut: list[str] = field(default_factory=list)
    log_chunks: tuple[bytes, ...] = (b"one\n", b"two\n")
    is_tls: bool = False
    endpoint: str = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[SmallMiner]:
        """Serve on a free port of loopback."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = False
        self.endpoint = f"http{'s' if self.is_tls else ''}://127.0.0.1:{server.server_address[1]}"
        if self.is_tls:
            server.socket = context_of(self.identity).wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="small miner")
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(  # noqa: PLR0911, PLR0912  a routing table
        self, method: str, path: str, caller: str, body: bytes
    ) -> Answer:
        """Route one verified request."""
        match (method, *path.strip("/").split("/")):
            case ("POST", "token"):
                consent = decode_model(TokenRequest, body).consent if body else None
                if consent is not None:
                    open_consent(consent, renter_key=caller, miner_key=self.identity.public_key)
                self.consents.append(consent)
                return 200, {"status": "success", "token": "a.b.c", "expires_at": GRANTED.isoformat()}
            case ("POST", "allocate"):
                return 200, self._allocate_once(decode_model(AllocateRequest, body), caller)
            case ("GET", "containers"):
                return 200, {"status": "success", "containers": [self._view(r) for r in self._own(caller)]}
            case ("GET", "containers", container_id):
                return 200, self._view(self.lease(container_id, caller))
            case ("POST", "containers", container_id, "renew"):
                return 200, self._renew(self.lease(container_id, caller), decode_model(RenewRequest, body))
            case ("POST", "containers", container_id, "countersign"):
                signed = decode_model(CountersignRequest, body).countersignature
                said = signed.open("countersignature", Countersignature, signer=caller)
                self.countersigned[self.lease(container_id, caller).container_id] = said.receipt
                return 200, {"status": "success"}
            case ("PUT", "containers", container_id, "ssh-key"):
                self.lease(container_id, caller)
                self.ssh_keys[container_id] = decode_model(SshKeyRequest, body).ssh_public_key
                return 200, {"status": "success"}
            case ("POST", "containers", container_id, "password"):
                self.lease(container_id, caller)
                return 200, {"container_id": container_id, "ssh_user": "root", "ssh_password": "fresh-password"}
            case ("DELETE", "terminate", container_id):
                usage = sign_statement(self.identity, "usage", usage_of(self.lease(container_id, caller)))
                self.used[container_id] = usage.to_wire()
                del self.leases[container_id]
                return 200, {"status": "success", "container_id": container_id, "usage": usage.to_wire()}
            case ("GET", "containers", container_id, "usage"):
                if container_id not in self.used:
                    raise RequestRejected(ErrorCode.NOT_FOUND, "no such container", status=404)
                return 200, {"status": "success", "usage": self.used[container_id]}
            case ("POST", "challenge", "prepare"):
                return 200, {"status": "success"}
            case ("POST", "challenge", "start"):
                wire = json.loads(body)
                return 200, {"commitment": sign_statement(self.identity, "commitment", decode_any(wire)).to_wire()}
            case ("POST", "challenge", "open"):
                return 200, {"openings": [{"round": 0}]}
        raise RequestRejected(ErrorCode.NOT_FOUND, "no such route", status=404)

    def public(self, path: str) -> Answer | None:
        """Answer the routes that need no signature."""
        if path == "/healthz":
            return 200, {"status": "success"}
        if path == "/status":
            return 200, {
                "node_key": self.identity.public_key,
                "role": "miner",
                "version": "0",
                "leases_count": len(self.leases),
                "cpu_milli_free": 1000,
                "memory_bytes_free": 1 << 30,
                "devices_free": [],
                "ssh_host": "127.0.0.1",
            }
        return None

    def _allocate_once(self, request: AllocateRequest, caller: str) -> Wire:
        key = (caller, self.seen[-1][2].get("Idempotency-Key", ""))
        if key in self.granted and key[1]:
            return {**self.granted[key], "ssh_password": None}
        self.granted[key] = self._allocate(request, caller)
        return self.granted[key]

    def _allocate(self, request: AllocateRequest, caller: str) -> Wire:
        _, host_key = generate_key_pair()
        number = len(self.seen)
        receipt = Receipt(
            lease_id=f"{number:032x}",
            container_id=f"{number:04x}" + "ab" * 30,
            node_key=self.identity.public_key,
            renter_key=caller,
            ssh_host="127.0.0.1",
            ssh_port=2222,
            ssh_user="root",
            host_key=host_key,
            host_key_fingerprint=fingerprint(host_key),
            limits=LIMITS,
            devices=(),
            image="sha256:0",
            isolation="standard",
            nonce="00" * 32,
            granted_unix_ms=_unix_ms(GRANTED),
            expires_unix_ms=_unix_ms(GRANTED + timedelta(hours=1)),
        )
        self.leases[receipt.container_id] = receipt
        self.ssh_keys[receipt.container_id] = request.ssh_public_key
        shared = receipt.model_dump(
            mode="json",
            include={"container_id", "ssh_host", "ssh_port", "ssh_user", "host_key", "host_key_fingerprint"},
        )
        return {
            **shared,
            "limits": LIMITS.to_wire(),
            "devices": [],
            "ssh_password": None if request.ssh_public_key else "one-time",
            "expires_at": (GRANTED + timedelta(hours=1)).isoformat().replace("+00:00", "Z"),
            "receipt": sign_statement(self.identity, "receipt", receipt).to_wire(),
        }

    def _renew(self, receipt: Receipt, request: RenewRequest) -> Wire:
        end = GRANTED + timedelta(seconds=request.ttl_seconds or 60)
        renewed = receipt.model_copy(update={"expires_unix_ms": _unix_ms(end)})
        self.leases[receipt.container_id] = renewed
        return {
            "container_id": receipt.container_id,
            "expires_at": end.isoformat(),
            "receipt": sign_statement(self.identity, "receipt", renewed).to_wire(),
        }

    def _own(self, caller: str) -> list[Receipt]:
        return [receipt for receipt in self.leases.values() if receipt.renter_key == caller]

    def lease(self, container_id: str, caller: str) -> Receipt:
        """Return the caller's own lease."""
        receipt = self.leases.get(container_id)
        if receipt is None or receipt.renter_key != caller:
            raise RequestRejected(ErrorCode.NOT_FOUND, "no such container", hint="see GET /containers", status=404)
        return receipt

    def _view(self, receipt: Receipt) -> Wire:
        include = {"container_id", "lease_id", "renter_key", "ssh_host", "ssh_port", "ssh_user", "host_key_fingerprint"}
        shared = receipt.model_dump(mode="json", include=include)
        moments = {"created_at": GRANTED.isoformat(), "expires_at": GRANTED.isoformat()}
        return {**shared, **moments, "status": "ACTIVE", "limits": LIMITS.to_wire(), "devices": []}


def decode_any(wire: Wire) -> RenewRequest:
    """Some typed body to sign; the client does not look into a commitment."""
    assert wire
    return RenewRequest(ttl_seconds=1)


def _handler(miner: SmallMiner) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it so
            pass

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            miner.seen.append((self.command, self.path, dict(self.headers)))
            if path in miner.refuse:
                status, headers, raw = miner.refuse[path]
                self._send(status, raw, headers)
                return
            try:
                self._answer(path, body)
            except RequestRejected as err:
                shape = {"status": "failure", "code": err.code, "message": err.message, "hint": err.hint}
                self._send(err.status, json.dumps({**shape, "field": err.field}).encode(), {})

        def _answer(self, path: str, body: bytes) -> None:
            answer = miner.public(path)
            if answer is None:
                url = f"http://{self.headers['Host']}{self.path}"
                audience = miner.identity.public_key
                now = datetime.now(UTC)
                request = verify_request(self.command, url, dict(self.headers), body, audience=audience, now=now)
                if path.startswith("/logs/"):
                    miner.lease(path.removeprefix("/logs/"), request.caller)
                    self._stream()
                    return
                answer = miner.answer(self.command, path, request.caller, body)
                if path in miner.cut:
                    miner.cut.remove(path)
                    self.close_connection = True
                    return
            self._send(answer[0], json.dumps(miner.tamper(path, answer[1])).encode(), {})

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for chunk in miner.log_chunks:
                self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")

        def _send(self, status: int, raw: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(raw))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  names the base class looks for

    return Handler


def _unix_ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


@contextlib.contextmanager
def raw_server(script: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """Accept connections and let ``script`` do with each what it likes, until the event; yields the base URL."""
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.02)

    def serve() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection, contextlib.suppress(OSError):
                connection.settimeout(1)
                _read_head(connection)
                script(connection, stop)

    thread = threading.Thread(target=serve, name="raw server")
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        thread.join()
        listener.close()


def _read_head(connection: socket.socket) -> None:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return
        received += piece
