"""Where the key files of this machine lie, and how a process becomes the identity in one of them.

Rules:
- A node's key lies in its data directory; owner and renter keys lie with the person they belong to.
- A node key without its owner's certificate is no node key.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from polarise.errors import ConfigError
from polarise.keyfile import KeyKind, load_key_file, read_key_header
from polarise.signing import Certificate, Identity, Purpose, SignatureInvalid

RENTER_KEY_VARIABLE = "POLARISE_RENTER_KEY"


def node_key_path(data_dir: Path) -> Path:
    """Return where a node's key file lies."""
    return data_dir / "keys" / "node.key"


def personal_key_path(kind: KeyKind, environ: Mapping[str, str]) -> Path:
    """Return where an owner's or renter's key file lies unless a flag says otherwise."""
    named = environ.get(RENTER_KEY_VARIABLE) if kind is KeyKind.RENTER else None
    return Path(named) if named else Path.home() / ".config" / "polarise" / f"{kind}.key"


def load_identity(path: Path, passphrase: bytes, *, kind: KeyKind | None = None) -> Identity:
    """Open a key file, and check that a node's owner certified it.

    Args:
        path: The key file.
        passphrase: What its seed is encrypted with.
        kind: The kind the caller needs; None takes any.

    Raises:
        ConfigError: Not readable, a wrong passphrase, another kind, or no valid certificate of the owner.
    """
    found = read_key_header(path).kind
    if kind is not None and found is not kind:
        raise ConfigError(
            f"this is the key of a {found}", origin=str(path), allowed=f"`python main.py key new --kind {kind}`"
        )
    identity = load_key_file(path, passphrase)
    if found is KeyKind.NODE:
        _check_owner(path, identity.owner_certificate, identity.public_key)
    return identity


def load_node_identity(data_dir: Path, passphrase: bytes) -> Identity:
    """Open the key of the node whose data directory this is; fails as `load_identity`."""
    return load_identity(node_key_path(data_dir), passphrase, kind=KeyKind.NODE)


def _check_owner(path: Path, certificate: Certificate | None, node_key: str) -> None:
    fix = "a key made by `key new --kind node --owner-key FILE`"
    if certificate is None or certificate.subject != node_key:
        raise ConfigError("no owner certified this node key", origin=str(path), allowed=fix)
    try:
        certificate.check(issuer=certificate.issuer, purpose=Purpose.NODE)
    except SignatureInvalid as err:
        raise ConfigError(f"the owner's certificate does not hold: {err}", origin=str(path), allowed=fix) from err
