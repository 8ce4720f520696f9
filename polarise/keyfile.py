"""One encrypted file per identity: Argon2id for the passphrase, ChaCha20-Poly1305 for the seed.

Rules:
- The file has mode 0600 and is refused when others can read it.
- The header (kind, public key, KDF cost, owner certificate) is authenticated with the ciphertext, so flipping one
  bit of either is refused.
- The header also says which generation of each subkey is in use, so that nobody turns a rotation back unseen.
- A rewritten file replaces the old one in one step: whatever ends the process, one of the two is there, whole.
- A KDF cost below ours is refused (downgrade), and so is one so high that it would exhaust this machine.
Source: RFC 9106 (Argon2id, second recommended parameters), RFC 8439 (ChaCha20-Poly1305).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from pydantic import Field, ValidationError

from polarise.canonical import JsonValue, canonical_bytes
from polarise.decode import WireModel, decode_model
from polarise.errors import ConfigError, RequestRejected
from polarise.signing import Certificate, Identity, Purpose, SigningKey

MEMORY_KIB = 64 * 1024
ITERATIONS = 3
LANES = 4


class KeyKind(StrEnum):
    """Whose key a file holds."""

    OWNER = "owner"
    NODE = "node"
    RENTER = "renter"


class KeyHeader(WireModel):
    """The readable half of a key file; authenticated, not encrypted."""

    version: int = Field(default=1, ge=1, le=1)
    kind: KeyKind
    public_key: str
    kdf: str = Field(default="argon2id", pattern="^argon2id$")
    memory_kib: int = Field(default=MEMORY_KIB, ge=MEMORY_KIB, le=1024 * 1024)
    iterations: int = Field(default=ITERATIONS, ge=ITERATIONS, le=16)
    lanes: int = Field(default=LANES, ge=1, le=16)
    salt: str = Field(pattern="^[0-9a-f]{32}$")
    nonce: str = Field(pattern="^[0-9a-f]{24}$")
    owner_certificate: Certificate | None = None
    generations: dict[Purpose, Annotated[int, Field(ge=0, lt=2**53)]] | None = None


class KeyFile(WireModel):
    """What lies on disk: the header and the encrypted 32-byte seed."""

    header: KeyHeader
    ciphertext: str = Field(pattern="^[0-9a-f]{96}$")


def create_key_file(path: Path, kind: KeyKind, passphrase: bytes, *, owner: Identity | None = None) -> Identity:
    """Make a new key, write its file (never over an existing one) and return the identity.

    Args:
        path: Where the file will lie, mode 0600; missing parents are made with mode 0700.
        kind: Whose key it is.
        passphrase: What encrypts the seed; not empty.
        owner: The owner's identity, which certifies a node key.

    Raises:
        ConfigError: The file exists, or the passphrase is empty.
    """
    if not passphrase:
        raise ConfigError("the passphrase is empty", origin=str(path), allowed="give at least one character")
    identity = Identity(key := SigningKey(secrets.token_bytes(32)), _certify(owner, key))
    _write_new(path, _encrypted(identity, kind, passphrase))
    return identity


def rewrite_key_file(
    path: Path, passphrase: bytes, *, generations: Mapping[Purpose, int] | None = None, new_passphrase: bytes = b""
) -> Identity:
    """Encrypt a key file anew, with a fresh salt and nonce, and replace the old one in one step.

    Args:
        path: The key file.
        passphrase: What it is encrypted with now.
        generations: Generations of subkeys from now on; those that are left out stay.
        new_passphrase: What it is encrypted with from now on; empty keeps the old one.

    Raises:
        ConfigError: As `load_key_file`, or the folder cannot be written.
    """
    with _alone(path):
        kind = read_key_header(path).kind
        old = load_key_file(path, passphrase)
        identity = Identity(old.key, old.owner_certificate, {**old.generations, **(generations or {})})
        _replace(path, _encrypted(identity, kind, new_passphrase or passphrase))
    return identity


def read_key_header(path: Path) -> KeyHeader:
    """Read the public half of a key file; needs no passphrase.

    Raises:
        ConfigError: No such file, readable by others, or not a key file.
    """
    return _read(path).header


def load_key_file(path: Path, passphrase: bytes) -> Identity:
    """Decrypt a key file.

    Raises:
        ConfigError: No such file, readable by others, damaged, or a wrong passphrase.
    """
    stored = _read(path)
    try:
        seed = _cipher(stored.header, passphrase).decrypt(
            bytes.fromhex(stored.header.nonce), bytes.fromhex(stored.ciphertext), _associated_data(stored.header)
        )
    except InvalidTag as err:
        raise ConfigError(
            "the key file cannot be opened", origin=str(path), allowed="the right passphrase, or an undamaged file"
        ) from err
    key = SigningKey(seed)
    if key.public_key != stored.header.public_key:
        raise ConfigError("the public key is not the seed's", origin=str(path), allowed="an undamaged key file")
    return Identity(key, stored.header.owner_certificate, stored.header.generations or {})


def make_private_folder(path: Path) -> None:
    """Make a folder and every missing one above it with mode 0700; `Path.mkdir` gives its mode to the last one only."""
    if not path.exists():
        make_private_folder(path.parent)
        path.mkdir(exist_ok=True, mode=0o700)


def _certify(owner: Identity | None, key: SigningKey) -> Certificate | None:
    return Certificate.issue(owner.key, key.public_key, Purpose.NODE) if owner else None


def _cipher(header: KeyHeader, passphrase: bytes) -> ChaCha20Poly1305:
    kdf = Argon2id(
        salt=bytes.fromhex(header.salt),
        length=32,
        iterations=header.iterations,
        lanes=header.lanes,
        memory_cost=header.memory_kib,
    )
    return ChaCha20Poly1305(kdf.derive(passphrase))


def _encrypted(identity: Identity, kind: KeyKind, passphrase: bytes) -> KeyFile:
    header = KeyHeader(
        kind=kind,
        public_key=identity.public_key,
        salt=secrets.token_hex(16),
        nonce=secrets.token_hex(12),
        owner_certificate=identity.owner_certificate,
        generations=dict(identity.generations) or None,
    )
    # The seed leaves the key object only here, straight into the cipher.
    ciphertext = _cipher(header, passphrase).encrypt(
        bytes.fromhex(header.nonce), identity.key.private.private_bytes_raw(), _associated_data(header)
    )
    return KeyFile(header=header, ciphertext=ciphertext.hex())


def _associated_data(header: KeyHeader) -> bytes:
    return canonical_bytes(_header_wire(header))


def _header_wire(header: KeyHeader) -> dict[str, JsonValue]:
    """Return the header as it is kept; a key that was never rotated has the form of before there were rotations."""
    wire = header.to_wire()
    if header.generations is None:
        del wire["generations"]
    return wire


def _read(path: Path) -> KeyFile:
    try:
        mode = path.stat().st_mode
        raw = path.read_bytes()
    except OSError as err:
        raise ConfigError(
            f"cannot read the key file: {err.strerror}",
            origin=str(path),
            allowed="make one: python main.py key new --kind owner|node|renter (docs/quickstart.md, Keys)",
        ) from err
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(
            f"the key file has mode {mode & 0o777:04o}", origin=str(path), allowed=f"0600: chmod 600 {path}"
        )
    try:
        return decode_model(KeyFile, raw)
    except (RequestRejected, ValidationError) as err:
        raise ConfigError(f"not a key file: {err}", origin=str(path), allowed="a file made by `key new`") from err


def _write_new(path: Path, content: KeyFile) -> None:
    make_private_folder(path.parent)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as err:
        raise ConfigError(
            "the key file exists and is never overwritten", origin=str(path), allowed="another path"
        ) from err
    try:
        _write(descriptor, content)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep a second command from rewriting the same file meanwhile, whose change would be lost."""
    if sys.platform == "win32":  # validators there have one operator; folders cannot be locked
        yield
        return
    import fcntl  # not on Windows, where commands of all roles import this file

    try:
        descriptor = os.open(path.parent, os.O_RDONLY)
    except OSError as err:
        raise ConfigError(
            f"no such folder: {err.strerror}", origin=str(path), allowed="the path of a key file"
        ) from err
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, content: KeyFile) -> None:
    temporary = path.with_name(f"{path.name}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()  # of a process that was killed here; it holds nothing that the file does not
        _write(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), content)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as err:
        raise ConfigError(
            f"cannot rewrite the key file: {err.strerror}", origin=str(path), allowed="a folder this user may write"
        ) from err


def _write(descriptor: int, content: KeyFile) -> None:
    wire: dict[str, JsonValue] = {"header": _header_wire(content.header), "ciphertext": content.ciphertext}
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        json.dump(wire, handle, indent=2)
        handle.write("\n")
        handle.flush()
        os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows opens no folders
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
