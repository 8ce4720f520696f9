"""Who answers is compared before anything is asked: certificates of every wrong kind, and a man in the middle."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from neurons.base.tls import tls_private_key, tls_public_key
from polarise.canonical import canonical_bytes
from polarise.errors import AddressRefused, ConnectionLost, PeerRefused, Unavailable
from polarise.http_client import HttpClient
from polarise.signing import Certificate, Identity, Purpose
from polarise.telemetry_client import TelemetryClient
from polarise.tls import CLOCK_SLACK_MS, DAY_MS, NODE_EXTENSION, VALID_DAYS, Pin, curl_pin, tls_key_name
from tests.support.identities import identity
from tests.support.tls import TlsServer, certificate_of, context_of, context_with, der_of, now_unix_ms

NODE, OTHER = identity("node"), identity("other")
TLS_KEY = tls_public_key(NODE)
NOW = 1_800_000_000_000


def shown(issued_unix_ms: int = NOW) -> bytes:
    return der_of(certificate_of(NODE, issued_unix_ms))


@dataclass
class Forged:
    """A certificate of a key of one's own choice, with an extension of one's own choice."""

    key: ec.EllipticCurvePrivateKey
    extension: bytes | None

    def certificate(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "forged")])
        begin = datetime.now(UTC) - timedelta(days=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(1)
            .not_valid_before(begin)
            .not_valid_after(begin + timedelta(days=9))
        )
        if self.extension is not None:
            builder = builder.add_extension(x509.UnrecognizedExtension(NODE_EXTENSION, self.extension), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def word_of(who: Identity, key: ec.EllipticCurvePrivateKey, purpose: Purpose = Purpose.TLS) -> bytes:
    word = Certificate.issue(who.key, tls_key_name(key.public_key()), purpose, issued_unix_ms=now_unix_ms())
    return asn1.encode_der(canonical_bytes(word.to_wire()).decode())


def test_the_pinned_node_with_the_registered_key_is_taken() -> None:
    word = Pin(NODE.public_key, TLS_KEY).check(shown(), NOW)
    assert (word.issuer, word.subject) == (NODE.public_key, TLS_KEY)
    assert Pin().check(shown(), NOW).issuer == NODE.public_key


@pytest.mark.parametrize(
    ("pin", "cause"),
    [
        (Pin(OTHER.public_key), "of node"),
        (Pin(OTHER.public_key, TLS_KEY), "of node"),
        (Pin(NODE.public_key, "0" + TLS_KEY[1:]), "the registry says"),
        (Pin(None, tls_public_key(OTHER)), "the registry says"),
    ],
)
def test_another_node_or_another_key_is_refused(pin: Pin, cause: str) -> None:
    with pytest.raises(PeerRefused, match=cause):
        pin.check(shown(), NOW)


@pytest.mark.parametrize(
    ("age_ms", "is_good"),
    [
        (VALID_DAYS * DAY_MS - 1, True),
        (VALID_DAYS * DAY_MS, False),
        (-CLOCK_SLACK_MS, True),
        (-CLOCK_SLACK_MS - 1, False),
    ],
)
def test_a_certificate_runs_out_and_begins_by_what_the_node_signed(age_ms: int, is_good: bool) -> None:
    if is_good:
        Pin(NODE.public_key).check(shown(), NOW + age_ms)
    else:
        with pytest.raises(PeerRefused, match="are both clocks right"):
            Pin(NODE.public_key).check(shown(), NOW + age_ms)


def test_a_thief_of_an_old_tls_key_cannot_make_its_certificate_young() -> None:
    """He signs X.509 with any dates; the node's word inside keeps its own."""
    key = tls_private_key(NODE.subkey(Purpose.TLS).key)
    old = Certificate.issue(NODE.key, TLS_KEY, Purpose.TLS, issued_unix_ms=now_unix_ms() - VALID_DAYS * DAY_MS)
    forged = Forged(key, asn1.encode_der(canonical_bytes(old.to_wire()).decode())).certificate()
    with pytest.raises(PeerRefused, match="days old"):
        Pin(NODE.public_key, TLS_KEY).check(der_of(forged), now_unix_ms())


def test_what_is_no_certificate_of_a_node_is_refused() -> None:
    own = ec.generate_private_key(ec.SECP256R1())
    honest = certificate_of(NODE).extensions.get_extension_for_oid(NODE_EXTENSION).value
    assert isinstance(honest, x509.UnrecognizedExtension)
    flipped = honest.value.replace(TLS_KEY.encode(), tls_key_name(own.public_key()).encode())
    assert flipped != honest.value
    witness = word_of(NODE, own, Purpose.WITNESS)
    for extension in (None, b"", b"\x0c\x01", b"{}", asn1.encode_der("{}"), flipped, witness, honest.value):
        with pytest.raises(PeerRefused):
            Pin().check(der_of(Forged(own, extension).certificate()), now_unix_ms())
    Pin().check(der_of(Forged(own, word_of(NODE, own)).certificate()), now_unix_ms())
    p256, unknown_curve = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030177")
    assert p256 in shown()
    for raw in (None, b"", shown()[:-1], shown() + b"\0" * 16384, shown().replace(p256, unknown_curve)):
        with pytest.raises(PeerRefused):
            Pin().check(raw, NOW)


def test_a_request_goes_to_the_pinned_node() -> None:
    with TlsServer(context_of(NODE)).running() as peer:
        client = HttpClient(peer.url, pin=Pin(NODE.public_key, TLS_KEY))
        response = client.request("GET", "/", timeout_seconds=5)
        assert (response.status, response.body) == (200, b"ok")
        assert response.sent_ns < response.first_byte_ns <= response.last_byte_ns
        peer.wait_for_end()
        assert peer.received_bytes > 0


def _pose_as_node() -> ssl.SSLContext:
    """The node's own word on a key that is not the node's."""
    own = ec.generate_private_key(ec.SECP256R1())
    honest = certificate_of(NODE).extensions.get_extension_for_oid(NODE_EXTENSION).value
    assert isinstance(honest, x509.UnrecognizedExtension)
    return context_with(Forged(own, honest.value).certificate(), own)


def _nobody() -> ssl.SSLContext:
    own = ec.generate_private_key(ec.SECP256R1())
    return context_with(Forged(own, None).certificate(), own)


@pytest.mark.parametrize(
    "middle",
    [
        lambda: context_of(OTHER),
        lambda: context_of(NODE, now_unix_ms() - VALID_DAYS * DAY_MS),
        _pose_as_node,
        _nobody,
    ],
    ids=["another node", "expired", "stolen word", "no node"],
)
def test_a_man_in_the_middle_finishes_his_handshake_and_gets_no_byte_of_the_request(middle: object) -> None:
    assert callable(middle)
    with TlsServer(middle()).running() as peer:
        client = HttpClient(peer.url, pin=Pin(NODE.public_key))
        for ask in (
            lambda: client.request("POST", "/allocate", body=b"secret", timeout_seconds=5),
            lambda: client.stream("/telemetry/stream", timeout_seconds=5),
            lambda: TelemetryClient(peer.url, NODE.public_key, OTHER).events("system", 0, timeout_seconds=5),
        ):
            with pytest.raises(PeerRefused, match="https://127"):
                ask()
            peer.wait_for_end()
        assert (peer.handshakes_count, peer.received_bytes) == (3, 0)


def test_the_registry_moves_the_pin_and_the_old_key_is_refused() -> None:
    """After a rotation: the old server keeps the old key, the entry names the new one."""
    with TlsServer(context_of(NODE)).running() as peer:
        assert HttpClient(peer.url, pin=Pin(NODE.public_key, TLS_KEY)).request("GET", "/").status == 200
        rotated = tls_key_name(tls_private_key(NODE.key.derive(Purpose.TLS, 1)).public_key())
        with pytest.raises(PeerRefused, match="the registry says"):
            HttpClient(peer.url, pin=Pin(NODE.public_key, rotated)).request("GET", "/")


def test_older_tls_is_not_spoken() -> None:
    context = context_of(NODE)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    with TlsServer(context).running() as peer, pytest.raises(Unavailable, match=r"no TLS 1\.3 with it"):
        HttpClient(peer.url, pin=Pin(NODE.public_key)).request("GET", "/", timeout_seconds=5)


def test_an_answer_that_is_cut_off_in_tls_is_none() -> None:
    """Without a length only TLS says where it ends; whoever cuts the connection cannot say it."""
    answer = b"HTTP/1.1 200 OK\r\n\r\nhalf of it"
    with TlsServer(context_of(NODE), answer).running() as peer:
        assert HttpClient(peer.url, pin=Pin(NODE.public_key)).request("GET", "/").body == b"half of it"
    with TlsServer(context_of(NODE), answer, is_rude=True).running() as peer, pytest.raises(ConnectionLost):
        HttpClient(peer.url, pin=Pin(NODE.public_key)).request("GET", "/")


def test_https_needs_to_know_whom_it_meets() -> None:
    with pytest.raises(Unavailable, match="whose certificate"):
        HttpClient("https://127.0.0.1:1")


@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]", "0.0.0.0", "[::ffff:192.0.2.1]"])
def test_plain_http_goes_to_loopback_only(host: str) -> None:
    client = HttpClient(f"http://{host}:1")
    with pytest.raises(AddressRefused, match="use https://"):
        client.request("GET", "/", timeout_seconds=1)
    with pytest.raises(AddressRefused, match=r"network\.tls: on"):
        client.addresses(1)
    assert HttpClient(f"https://{host}:1", pin=Pin()).addresses(1)


def test_curl_takes_the_pin() -> None:
    assert curl_pin("ab" * 32) == "sha256//q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s="
