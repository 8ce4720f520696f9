"""Targets: certificates of peers, the node's word in them, and the first bytes that a TLS port is sent."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from neurons.base.tls import ServerTls, tls_private_key
from polarise.errors import PeerRefused
from polarise.signing import Purpose
from polarise.tls import MAX_CERTIFICATE_BYTES, NODE_EXTENSION, Pin, node_word
from tests.fuzz.network import NODE, TABLE, exchange, register_some, serving
from tests.fuzz.target import KIB, Call, Target, plain
from tests.support.tls import any_version, certificate_of, der_of
from utils.clock import SystemClock

NOW = 1_800_000_000_000
KEY = tls_private_key(NODE.subkey(Purpose.TLS).key)


def _certificates() -> list[bytes]:
    return [der_of(certificate_of(NODE, NOW))]


def _word() -> bytes:
    extension = certificate_of(NODE, NOW).extensions.get_extension_for_oid(NODE_EXTENSION).value
    assert isinstance(extension, x509.UnrecognizedExtension)
    return extension.value


def _check_word(raw: bytes) -> object:
    """Look at a certificate that is sound but for the node's word in it."""
    name = x509.Name([])
    begin = datetime.fromtimestamp(NOW / 1000, UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=1))
        .add_extension(x509.UnrecognizedExtension(NODE_EXTENSION, raw), critical=False)
        .sign(KEY, hashes.SHA256())
    )
    return Pin(NODE.public_key).check(der_of(certificate), NOW)


def hello() -> bytes:
    """Return the first bytes of an honest connection."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        any_version().wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


@contextlib.contextmanager
def _door() -> Iterator[Call]:
    with serving(TABLE, register_some, tls=ServerTls(NODE, ["127.0.0.1"], SystemClock())) as port:
        yield lambda raw: exchange(port, raw)


TARGETS = (
    Target("polarise.tls.node_word", plain(node_word), _certificates, (PeerRefused,), MAX_CERTIFICATE_BYTES),
    Target("polarise.tls.Pin.check", plain(_check_word), lambda: [_word()], (PeerRefused,), 8 * KIB),
    Target(
        "neurons.base.tls_door.TlsDoor",
        _door,
        lambda: [hello(), b"GET / HTTP/1.1\r\n\r\n"],
        (),
        64 * KIB,
        memory_base_bytes=4096 * KIB,
        weight=8,
    ),
)
