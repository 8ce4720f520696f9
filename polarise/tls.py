"""TLS between nodes: who answers is shown by the node's own word for its TLS key, and compared before a request is sent.

Rules:
- TLS 1.3 and nothing older; nobody's list of certificate authorities is asked, and the host name proves nothing.
- A node's certificate holds a P-256 key and, in an extension, the node key's `Certificate` of it for purpose ``tls``. Its
  subject is the SHA-256 of the key's SubjectPublicKeyInfo, which is also what curl pins. The rest of the certificate is
  signed by the TLS key alone, and is not looked at.
- The node's word is good for `VALID_DAYS`: a TLS key that was stolen without the node key serves no longer than that.
- A pin names the node key, the TLS key, both, or neither; neither is first contact, where whoever answers is shown.
"""

from __future__ import annotations

import base64
import socket
import ssl
import time
from dataclasses import dataclass
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from polarise.decode import decode_model
from polarise.errors import PeerRefused, RequestRejected
from polarise.signing import Certificate, Purpose, SignatureInvalid

# An identifier anybody may use: the arc of random UUIDs, this one made for this extension.
NODE_EXTENSION = x509.ObjectIdentifier("2.25.291743597934151067096550221651750357335")
VALID_DAYS = 30
DAY_MS = 24 * 3600 * 1000
# A caller whose clock is further off cannot sign a request either.
CLOCK_SLACK_MS = 5 * 60 * 1000
MAX_CERTIFICATE_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Pin:
    """Whose certificate is expected.

    Attributes:
        node_key: The node that must answer; None takes any node.
        tls_public_key: Its TLS key as the registry names it, see `tls_key_name`; None takes the node's word.
    """

    node_key: str | None = None
    tls_public_key: str | None = None

    def check(self, certificate: bytes | None, now_unix_ms: int) -> Certificate:
        """Compare what a peer showed in the handshake; returns its node's word, of issuer node key and subject TLS key.

        Args:
            certificate: X.509 in DER.
            now_unix_ms: Wall clock.

        Raises:
            PeerRefused: No certificate of a node, an expired one, or another node's or key's than the pinned.
        """
        if not certificate or len(certificate) > MAX_CERTIFICATE_BYTES:
            raise PeerRefused("the certificate is missing or too large")
        word = node_word(certificate)
        age_ms = now_unix_ms - word.issued_unix_ms
        if age_ms >= VALID_DAYS * DAY_MS:
            raise PeerRefused(
                f"the certificate is {age_ms // DAY_MS} days old, {VALID_DAYS} are allowed; are both clocks right?"
            )
        if age_ms < -CLOCK_SLACK_MS:
            raise PeerRefused(f"the certificate begins in {-age_ms // 1000} s; are both clocks right?")
        if self.node_key is not None and word.issuer != self.node_key:
            raise PeerRefused(f"the certificate is of node {word.issuer[:12]}, expected {self.node_key[:12]}")
        if self.tls_public_key is not None and word.subject != self.tls_public_key:
            raise PeerRefused(
                f"the TLS key is {word.subject[:12]}, the registry says {self.tls_public_key[:12]}; "
                "whoever changed its key joins again"
            )
        return word


@dataclass(frozen=True, slots=True)
class TlsPeer:
    """Who must be at the other end of a TLS connection.

    Attributes:
        pin: Compared after the handshake.
        server_name: Host of the URL, for whoever routes by it on the way.
    """

    pin: Pin
    server_name: str


def node_word(certificate: bytes) -> Certificate:
    """Return the node's own certificate of the TLS key in an X.509 certificate, verified.

    Raises:
        PeerRefused: It holds none, or one that does not hold for this key.
    """
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        extension = parsed.extensions.get_extension_for_oid(NODE_EXTENSION).value
        public_key = parsed.public_key()
    except Exception as err:  # the border: what the parser raises on bytes of a stranger has no common kind
        raise PeerRefused("the certificate is not one of a node") from err
    if not isinstance(extension, x509.UnrecognizedExtension) or not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise PeerRefused("the certificate is not one of a node")
    try:
        word = decode_model(Certificate, asn1.decode_der(str, extension.value).encode())
        word.check(issuer=word.issuer, purpose=Purpose.TLS)
    except (RequestRejected, SignatureInvalid, ValueError) as err:
        raise PeerRefused(f"the certificate's node did not sign it: {err}") from err
    if word.subject != tls_key_name(public_key):
        raise PeerRefused("the certificate's node signed another TLS key")
    return word


def tls_key_name(public_key: ec.EllipticCurvePublicKey) -> str:
    """Return the name of a TLS key in registry entries: SHA-256 of its SubjectPublicKeyInfo, 64 hex digits."""
    return sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def curl_pin(tls_public_key: str) -> str:
    """Return the name of a TLS key as ``curl --pinnedpubkey`` takes it."""
    return "sha256//" + base64.b64encode(bytes.fromhex(tls_public_key)).decode()


def client_context() -> ssl.SSLContext:
    """Return the settings of the calling side; whoever uses them compares the pin after the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    # The handshake still proves that the peer holds the key of the certificate it shows.
    context.verify_mode = ssl.CERT_NONE
    return context


def connect_tls(sock: socket.socket, pin: Pin, server_name: str) -> tuple[ssl.SSLSocket, Certificate]:
    """Do the handshake within the socket's timeout and compare the pin; nothing is sent before it holds.

    Args:
        sock: Connected; it belongs to the result from then on, and is closed on failure.
        pin: Who is expected.
        server_name: Host of the URL, for whoever routes by it on the way.

    Returns:
        The socket, and the node's word for its TLS key.

    Raises:
        PeerRefused: As `Pin.check`.
        OSError: No handshake; of it `ssl.SSLError`, the peer speaks no TLS 1.3.
    """
    wrapped = client_context().wrap_socket(
        sock, server_hostname=server_name, do_handshake_on_connect=False, suppress_ragged_eofs=False
    )
    try:
        wrapped.do_handshake()
        return wrapped, pin.check(wrapped.getpeercert(binary_form=True), time.time_ns() // 1_000_000)
    except BaseException:
        wrapped.close()
        raise
