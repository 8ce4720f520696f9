"""Both ends of TLS for tests: a node's server, a man in the middle who counts what he reads, and a bare client."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from neurons.base.tls import make_certificate, server_context, tls_private_key
from polarise.signing import Identity, Purpose
from utils.clock import SystemClock

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def now_unix_ms() -> int:
    return SystemClock().wall_unix_ms()


def certificate_of(identity: Identity, issued_unix_ms: int | None = None) -> x509.Certificate:
    """The certificate that a node shows when it was made at this time."""
    key = tls_private_key(identity.subkey(Purpose.TLS).key)
    return make_certificate(identity, key, ["127.0.0.1"], now_unix_ms() if issued_unix_ms is None else issued_unix_ms)


def der_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def context_of(identity: Identity, issued_unix_ms: int | None = None) -> ssl.SSLContext:
    return server_context(identity, ["127.0.0.1"], now_unix_ms() if issued_unix_ms is None else issued_unix_ms)


def context_with(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> ssl.SSLContext:
    """What somebody serves who shows any certificate he likes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shown.pem"
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(pem + certificate.public_bytes(Encoding.PEM))
        context.load_cert_chain(path)
    return context


class TlsServer:
    """A server that does the handshake, reads what it gets and answers; it knows how much it got.

    Args:
        context: Certificate and settings.
        answer: Sent when something has come.
        is_rude: End the connection without saying so in TLS.
    """

    def __init__(self, context: ssl.SSLContext, answer: bytes = ANSWER, *, is_rude: bool = False) -> None:
        self._context = context
        self._answer = answer
        self._is_rude = is_rude
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self.url = f"https://127.0.0.1:{self.port}"
        self.handshakes_count = 0
        self.received_bytes = 0
        self._ended = threading.Semaphore(0)

    @contextlib.contextmanager
    def running(self) -> Iterator[TlsServer]:
        threading.Thread(target=self._accept, name="tls-peer", daemon=True).start()
        try:
            yield self
        finally:
            self._listener.close()

    def wait_for_end(self) -> None:
        """Wait until one connection has ended and all that came of it is counted."""
        assert self._ended.acquire(timeout=10)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        with contextlib.suppress(OSError), self._context.wrap_socket(connection, server_side=True) as wrapped:
            self.handshakes_count += 1
            with contextlib.suppress(OSError):
                data = wrapped.recv(65536)
                self.received_bytes += len(data)
                if data:
                    wrapped.sendall(self._answer)
                    if not self._is_rude:
                        wrapped.unwrap()
        self._ended.release()


def connect(port: int, context: ssl.SSLContext | None = None, *, seconds: float = 10) -> ssl.SSLSocket:
    """Connect as somebody who pins nobody."""
    chosen = context or any_version()
    plain = socket.create_connection(("127.0.0.1", port), timeout=seconds)
    # Else the request waits 40 ms until the other side has acknowledged the end of the handshake.
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return chosen.wrap_socket(plain)


def any_version() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
