"""Ed25519 keys with a purpose: every signature and every subkey says what it is for.

Rules:
- A signature covers ``polarise/<domain>/1`` and a line feed before the payload, so that a signature made for one
  purpose never verifies for another (RFC 8032 keys, our own domain prefix).
- A node signs with subkeys = HKDF-SHA256(node seed, purpose, counter); its node key certifies them.
- A public key is written as 64 lower-case hex digits, a signature as 128.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import Field

from polarise.canonical import canonical_bytes
from polarise.decode import WireModel
from polarise.errors import SubnetError

KEY_PATTERN = r"^[0-9a-f]{64}$"
SIGNATURE_PATTERN = r"^[0-9a-f]{128}$"


class SignatureInvalid(SubnetError):
    """A signature or certificate does not verify; the caller decides whose fault that is."""


class KeyReplaced(SignatureInvalid):
    """A signature that holds, by a subkey that its node replaced or its owner revoked."""


class Purpose(StrEnum):
    """What a subkey may sign."""

    NODE = "node"  # an owner certifies a node with it; never derived
    REQUEST = "request"
    STATEMENT = "statement"
    LEDGER = "ledger"
    LOG = "log"
    WITNESS = "witness"
    TLS = "tls"
    BROKER = "broker"


class SigningKey:
    """An Ed25519 private key; its repr shows the public half only."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise ValueError(f"an Ed25519 seed has 32 bytes, got {len(seed)}")
        self._seed = seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key: str = self._private.public_key().public_bytes_raw().hex()

    def __repr__(self) -> str:
        return f"SigningKey({self.public_key[:12]}…, ***)"

    @property
    def private(self) -> Ed25519PrivateKey:
        """The key object, for libraries that sign by themselves (RFC 9421)."""
        return self._private

    def sign(self, domain: str, payload: bytes) -> str:
        """Sign ``payload`` for one domain and return 128 hex digits."""
        return self._private.sign(_prefixed(domain, payload)).hex()

    def derive(self, purpose: Purpose, counter: int) -> SigningKey:
        """Derive the subkey of one purpose; raising the counter is a key rotation."""
        info = f"{purpose}/{counter}".encode()
        return SigningKey(HKDF(hashes.SHA256(), 32, b"polarise/subkey/1", info).derive(self._seed))


def verify(public_key: str, domain: str, payload: bytes, signature: str) -> None:
    """Check an Ed25519 signature.

    Raises:
        SignatureInvalid: The key or signature is malformed, or it does not verify for this domain.
    """
    if not re.fullmatch(KEY_PATTERN, public_key) or not re.fullmatch(SIGNATURE_PATTERN, signature):
        raise SignatureInvalid("a public key has 64 and a signature 128 lower-case hex digits")
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature), _prefixed(domain, payload))
    except (InvalidSignature, ValueError) as err:
        raise SignatureInvalid(f"the {domain} signature of key {public_key[:12]} does not verify") from err


class Certificate(WireModel):
    """The issuer's word that the subject key is its own, for one purpose.

    Attributes:
        subject: Certified public key, 64 hex digits; for purpose ``tls`` the key's name, see `polarise.tls`.
        issuer: Key that signs: the owner for purpose ``node``, the node key for all others.
        purpose: What the subject may sign.
        counter: Generation of the subkey; the highest published one counts.
        issued_unix_ms: When it was issued; only what is issued for ``tls`` runs out.
        signature: Issuer's signature over the other fields.
    """

    subject: str = Field(pattern=KEY_PATTERN)
    issuer: str = Field(pattern=KEY_PATTERN)
    purpose: Purpose
    counter: int = Field(ge=0, lt=2**53)
    issued_unix_ms: int = Field(ge=0, lt=2**53)
    signature: str = Field(pattern=SIGNATURE_PATTERN)

    @staticmethod
    def issue(
        issuer: SigningKey, subject: str, purpose: Purpose, *, counter: int = 0, issued_unix_ms: int = 0
    ) -> Certificate:
        """Sign a certificate for ``subject``."""
        body = _certificate_bytes(subject, issuer.public_key, purpose, counter, issued_unix_ms)
        return Certificate(
            subject=subject,
            issuer=issuer.public_key,
            purpose=purpose,
            counter=counter,
            issued_unix_ms=issued_unix_ms,
            signature=issuer.sign("certificate", body),
        )

    def check(self, *, issuer: str, purpose: Purpose) -> None:
        """Verify that ``issuer`` certified this subject for this purpose.

        Raises:
            SignatureInvalid: Another issuer or purpose, or a signature that does not verify.
        """
        if self.issuer != issuer or self.purpose is not purpose:
            raise SignatureInvalid(
                f"the certificate is for {self.purpose} by {self.issuer[:12]}, expected {purpose} by {issuer[:12]}"
            )
        body = _certificate_bytes(self.subject, self.issuer, self.purpose, self.counter, self.issued_unix_ms)
        verify(self.issuer, "certificate", body, self.signature)


@dataclass(frozen=True, slots=True)
class Subkey:
    """A derived key with the certificate that ties it to its node."""

    key: SigningKey
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process is: the node, renter or owner key and, for a node, its owner's certificate."""

    key: SigningKey
    owner_certificate: Certificate | None = None
    # Purpose -> generation of the subkey in use; a purpose that is missing is at 0.
    generations: Mapping[Purpose, int] = field(default_factory=dict, hash=False)

    @property
    def public_key(self) -> str:
        """The name under which others know this identity, 64 hex digits."""
        return self.key.public_key

    def subkey(self, purpose: Purpose, counter: int | None = None) -> Subkey:
        """Derive and certify the subkey of one purpose; of the generation in use when none is named."""
        if counter is None:
            counter = self.generations.get(purpose, 0)
        key = self.key.derive(purpose, counter)
        return Subkey(key, Certificate.issue(self.key, key.public_key, purpose, counter=counter))


def _certificate_bytes(subject: str, issuer: str, purpose: Purpose, counter: int, issued_unix_ms: int) -> bytes:
    return canonical_bytes(
        {
            "subject": subject,
            "issuer": issuer,
            "purpose": str(purpose),
            "counter": counter,
            "issued_unix_ms": issued_unix_ms,
        }
    )


def _prefixed(domain: str, payload: bytes) -> bytes:
    return f"polarise/{domain}/1\n".encode() + payload
