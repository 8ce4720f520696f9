"""The signed registry entry: how a miner introduces itself to validators and renters.

Until a ledger takes them, entries are files; `read_registry` reads a folder of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from polarise.decode import WireModel, decode_model
from polarise.errors import ConfigError, RequestRejected
from polarise.hardware import HardwareClaim
from polarise.signing import KEY_PATTERN, Certificate, Purpose, SignatureInvalid
from polarise.statement import SignedStatement

STATEMENT_KIND = "registry"
MAX_ENTRY_BYTES = 64 * 1024


class RegistryEntry(WireModel):
    """Body of a registry statement.

    Attributes:
        node_key: The node that registers; must be the statement's signer.
        owner_key: Who answers for the node.
        owner_certificate: The owner's certificate of the node key.
        endpoint: Base URL of the node's HTTP API.
        advertised_host: Host name or address renters ssh to.
        hardware: Claimed hardware.
        price_micros_per_hour: Asking price of the whole host per hour, in millionths of the market's unit.
        tls_public_key: Pin of the TLS key; None on loopback.
        created_unix_ms: When it was signed; of several entries of one node the newest counts.
    """

    node_key: str = Field(pattern=KEY_PATTERN)
    owner_key: str = Field(pattern=KEY_PATTERN)
    owner_certificate: Certificate
    endpoint: str = Field(pattern=r"^https?://[A-Za-z0-9.\-\[\]:]+$", max_length=300)
    advertised_host: str = Field(pattern=r"^[A-Za-z0-9.\-:]+$", max_length=253)
    hardware: HardwareClaim
    price_micros_per_hour: int = Field(ge=0, lt=2**53)
    tls_public_key: str | None = Field(default=None, max_length=200)
    created_unix_ms: int = Field(ge=0, lt=2**53)


def open_entry(statement: SignedStatement) -> RegistryEntry:
    """Verify a registry statement: the node signed it and its owner certified the node.

    Raises:
        SignatureInvalid: Any of the three signatures does not hold.
    """
    entry = statement.open(STATEMENT_KIND, RegistryEntry, signer=statement.signer)
    if entry.node_key != statement.signer:
        raise SignatureInvalid(f"the entry of {entry.node_key[:12]} is signed by {statement.signer[:12]}")
    entry.owner_certificate.check(issuer=entry.owner_key, purpose=Purpose.NODE)
    if entry.owner_certificate.subject != entry.node_key:
        raise SignatureInvalid("the owner's certificate is for another node")
    return entry


def read_entry(path: Path) -> tuple[SignedStatement, RegistryEntry]:
    """Read and verify one entry file.

    Raises:
        ConfigError: Not readable, not an entry, or a signature does not hold.
    """
    try:
        statement = decode_model(SignedStatement, path.read_bytes(), max_bytes=MAX_ENTRY_BYTES)
        return statement, open_entry(statement)
    except OSError as err:
        raise ConfigError(
            f"cannot read the registry entry: {err.strerror}", origin=str(path), allowed="a file made by `join`"
        ) from err
    except (RequestRejected, SignatureInvalid) as err:
        raise ConfigError(
            f"not a valid registry entry: {err}", origin=str(path), allowed="a file made by `join`"
        ) from err


def read_registry(
    folder: Path, on_error: Callable[[ConfigError], None]
) -> dict[str, tuple[SignedStatement, RegistryEntry]]:
    """Read every ``*.json`` of a folder; a broken file is reported and skipped, of duplicates the newest counts.

    Returns:
        Node key -> (signed statement, verified entry), in order of the node keys.
    """
    found: dict[str, tuple[SignedStatement, RegistryEntry]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            statement, entry = read_entry(path)
        except ConfigError as err:
            on_error(err)
            continue
        known = found.get(entry.node_key)
        if known is None or known[1].created_unix_ms < entry.created_unix_ms:
            found[entry.node_key] = (statement, entry)
    return dict(sorted(found.items()))


def write_entry(path: Path, statement: SignedStatement) -> None:
    """Write one entry so that a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(statement.to_wire(), indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
