"""The serving half of TLS: a node's TLS key, and a certificate that carries the node's word for it.

Rules:
- The key is derived from the node's ``tls`` subkey, so nothing further is stored; a rotation of that subkey changes it.
- No private key is written in the clear: OpenSSL reads it from a file, which is encrypted with a password of the moment.
- A certificate is made at the start and again each day while connections come, so that none runs out.
"""

from __future__ import annotations

import ipaddress
import secrets
import ssl
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import NameOID

from config.schema import NetworkConfig
from polarise.canonical import canonical_bytes
from polarise.signing import Certificate, Identity, Purpose, SigningKey
from polarise.tls import DAY_MS, NODE_EXTENSION, VALID_DAYS, tls_key_name
from utils.clock import Clock

# Order of the curve's group (SEC 2, secp256r1).
P256_ORDER = 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551


class ServerTls:
    """What a daemon shows to callers, always fresh.

    Args:
        identity: The node.
        hosts: Names and addresses it is reached by; for people and tools that look, no client of ours does.
        clock: Wall clock.
    """

    def __init__(self, identity: Identity, hosts: Sequence[str], clock: Clock) -> None:
        self._identity = identity
        self._hosts = tuple(dict.fromkeys(hosts))
        self._clock = clock
        self._issued_unix_ms = clock.wall_unix_ms()
        self._context = server_context(identity, self._hosts, self._issued_unix_ms)

    def context(self) -> ssl.SSLContext:
        """Return the settings for the next connection, with a certificate that is less than a day old.

        A clock that was set back makes a new one, too: until then callers would refuse it as not valid yet.
        """
        now = self._clock.wall_unix_ms()
        if not 0 <= now - self._issued_unix_ms < DAY_MS:
            self._context = server_context(self._identity, self._hosts, now)
            self._issued_unix_ms = now
        return self._context


def server_tls(network: NetworkConfig, identity: Identity, clock: Clock) -> ServerTls | None:
    """Return what a daemon serves TLS with; None where its settings say plain HTTP."""
    if not network.is_tls:
        return None
    hosts = [host for host in (network.advertised_host, network.host, "localhost") if host.isascii()]
    return ServerTls(identity, hosts, clock)


def tls_private_key(subkey: SigningKey) -> ec.EllipticCurvePrivateKey:
    """Derive the P-256 key of a ``tls`` subkey: 384 bits reduced, so that no scalar is likelier (FIPS 186-5, A.2.1)."""
    seed = subkey.private.private_bytes_raw()
    drawn = int.from_bytes(HKDF(hashes.SHA256(), 48, b"polarise/tls/1", b"p256").derive(seed), "big")
    return ec.derive_private_key(drawn % (P256_ORDER - 1) + 1, ec.SECP256R1())


def tls_public_key(identity: Identity) -> str:
    """Return the name of a node's TLS key, see `polarise.tls.tls_key_name`."""
    return tls_key_name(tls_private_key(identity.subkey(Purpose.TLS).key).public_key())


def make_certificate(
    identity: Identity, key: ec.EllipticCurvePrivateKey, hosts: Sequence[str], issued_unix_ms: int
) -> x509.Certificate:
    """Return a self-signed certificate of ``key`` that carries the node's word for it."""
    counter = identity.subkey(Purpose.TLS).certificate.counter
    name = tls_key_name(key.public_key())
    word = Certificate.issue(identity.key, name, Purpose.TLS, counter=counter, issued_unix_ms=issued_unix_ms)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"polarise node {identity.public_key[:32]}")])
    issued = datetime.fromtimestamp(issued_unix_ms / 1000, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(issued - timedelta(minutes=5))
        .not_valid_after(issued + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(
            x509.UnrecognizedExtension(NODE_EXTENSION, asn1.encode_der(canonical_bytes(word.to_wire()).decode())),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )


def server_context(identity: Identity, hosts: Sequence[str], issued_unix_ms: int) -> ssl.SSLContext:
    """Return the settings of the serving side with a new certificate; TLS 1.3 only, no resumption."""
    key = tls_private_key(identity.subkey(Purpose.TLS).key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Our callers make a new connection per request and look at the certificate each time.
    context.num_tickets = 0
    _load(context, key, make_certificate(identity, key, hosts, issued_unix_ms))
    return context


def _load(context: ssl.SSLContext, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    password = secrets.token_bytes(32).hex()
    sealed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))
    with tempfile.TemporaryDirectory(prefix="polarise-tls-") as folder:
        path = Path(folder) / "node.pem"
        path.write_bytes(sealed + certificate.public_bytes(Encoding.PEM))
        context.load_cert_chain(path, password=password)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
