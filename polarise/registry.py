"""The signed registry entry: how a miner introduces itself to validators and renters.

Validators read entries from the ledger; `read_registry` reads a folder of them, for renters.

Rules:
- Only a plain file is read, never through a link, and never more of it than an entry may have: a pipe, a device or a
  huge file in the folder costs its own line in the log, not the reader.
"""

from __future__ import annotations

import errno
import json
import os
import stat
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
        tls_public_key: Name of the TLS key, see `polarise.tls.tls_key_name`; None for plain HTTP on loopback.
        created_unix_ms: When it was signed; of several entries of one node the newest counts.
    """

    node_key: str = Field(pattern=KEY_PATTERN)
    owner_key: str = Field(pattern=KEY_PATTERN)
    owner_certificate: Certificate
    endpoint: str = Field(pattern=r"^https?://[A-Za-z0-9.\-\[\]:]+$", max_length=300)
    advertised_host: str = Field(pattern=r"^[A-Za-z0-9.\-:]+$", max_length=253)
    hardware: HardwareClaim
    price_micros_per_hour: int = Field(ge=0, lt=2**53)
    tls_public_key: str | None = Field(default=None, pattern=KEY_PATTERN)
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
        ConfigError: Not readable, not a plain file, not an entry, or a signature does not hold.
    """
    try:
        statement = decode_model(SignedStatement, _read_plain(path), max_bytes=MAX_ENTRY_BYTES)
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


def _read_plain(path: Path) -> bytes:
    """Return a file's content, cut one byte beyond the bound, so that the decoder refuses what is longer.

    Raises:
        OSError: Not readable, or anything but a plain file.
    """
    with open(path, "rb", opener=_open_plain) as handle:
        return handle.read(MAX_ENTRY_BYTES + 1)


def _open_plain(name: str, flags: int) -> int:
    # Without O_NONBLOCK opening a pipe would wait for its writer; Windows has neither flag.
    descriptor = os.open(name, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file", name)
    return descriptor
