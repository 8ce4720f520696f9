"""The people of a test: fixed keys, so that a failure looks the same twice."""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass, field

from config.schema import Config
from neurons.miner.settings import SSH_PORTS, ssh_ports
from polarise.signing import Certificate, Identity, Purpose, SigningKey
from polarise.ssh_keys import generate_key_pair
from tests.support import worker


def identity(name: str) -> Identity:
    """Return the identity of this name, the same in every run."""
    return Identity(SigningKey(hashlib.sha256(name.encode()).digest()))


def node_identity(name: str, owner: Identity) -> Identity:
    """Return a node of this name, certified by its owner."""
    key = SigningKey(hashlib.sha256(name.encode()).digest())
    return Identity(key, Certificate.issue(owner.key, key.public_key, Purpose.NODE))


def fresh_node_identity(owner: Identity) -> Identity:
    """Return a node nobody has seen; its label and network meet no other run's, its ssh ports no other worker's."""
    key = SigningKey(secrets.token_bytes(32))
    while _port_block(key) % worker.COUNT != worker.NUMBER:
        key = SigningKey(secrets.token_bytes(32))
    return Identity(key, Certificate.issue(owner.key, key.public_key, Purpose.NODE))


def _port_block(key: SigningKey) -> int:
    ports = ssh_ports(Config(), key.public_key[:12])
    return (ports.start - SSH_PORTS.start) // len(ports)


def public_key_line(name: str) -> str:
    """Return the OpenSSH public key of this name, the same in every run: ids of parameters must not differ by worker."""
    words = (b"ssh-ed25519", bytes.fromhex(identity(name).public_key))
    blob = b"".join(len(word).to_bytes(4, "big") + word for word in words)
    return f"ssh-ed25519 {base64.b64encode(blob).decode('ascii')}"


@dataclass(frozen=True)
class People:
    """Everybody who calls one miner."""

    owner: Identity = field(default_factory=lambda: identity("owner"))
    renter: Identity = field(default_factory=lambda: identity("renter"))
    other_renter: Identity = field(default_factory=lambda: identity("other renter"))
    validator: Identity = field(default_factory=lambda: identity("validator"))
    auditor: Identity = field(default_factory=lambda: identity("auditor"))
    stranger: Identity = field(default_factory=lambda: identity("stranger"))

    def access(self) -> dict[str, object]:
        """Return the access section that lets them in; the stranger stands nowhere."""
        return {
            "renters": [self.renter.public_key, self.other_renter.public_key],
            "validators": [self.validator.public_key],
            "auditors": [self.auditor.public_key],
            "quota_leases": 16,
        }


__all__ = ["People", "fresh_node_identity", "generate_key_pair", "identity", "node_identity", "public_key_line"]
