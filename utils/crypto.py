"""Secrets from where operators keep them: a file with mode 0600, a systemd credential, or the terminal."""

from __future__ import annotations

import getpass
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from polarise.errors import ConfigError
from polarise.keyfile import make_private_folder

PASSPHRASE_VARIABLE = "POLARISE_PASSPHRASE_FILE"  # noqa: S105  the name of a variable, not a secret
CREDENTIAL_NAME = "polarise-passphrase"


def read_passphrase(flag: Path | None, environ: Mapping[str, str], *, confirm: bool = False) -> bytes:
    """Find the passphrase of a key file.

    The first that exists is taken: ``flag``, the file named by POLARISE_PASSPHRASE_FILE, the systemd credential
    ``polarise-passphrase``, a prompt when there is a terminal.

    Raises:
        ConfigError: There is none, the file is readable by others, or the two typed ones differ.
    """
    for origin, path in (
        ("--passphrase-file", flag),
        (PASSPHRASE_VARIABLE, _path(environ.get(PASSPHRASE_VARIABLE))),
        ("systemd credential", _path(environ.get("CREDENTIALS_DIRECTORY"), CREDENTIAL_NAME)),
    ):
        if path is not None and (path.exists() or origin != "systemd credential"):
            # systemd may let the service's user in by an access list, which shows as a mode of 0440.
            return read_secret_file(path, others=0o077 if origin != "systemd credential" else 0o037)
    if sys.stdin.isatty():
        return _prompt(confirm=confirm)
    raise ConfigError(
        "no passphrase for the key file",
        origin="key",
        allowed=f"--passphrase-file FILE, or {PASSPHRASE_VARIABLE}=FILE (mode 0600)",
    )


def read_secret_file(path: Path, *, others: int = 0o077) -> bytes:
    """Read a secret without its trailing line feed.

    Args:
        path: The file.
        others: Which bits of its mode nobody may have.

    Raises:
        ConfigError: Not readable, empty, or readable by others.
    """
    try:
        mode = path.stat().st_mode
        secret = path.read_bytes().rstrip(b"\r\n")
    except OSError as err:
        raise ConfigError(
            f"cannot read the secret: {err.strerror}", origin=str(path), allowed="a readable file"
        ) from err
    if os.name == "posix" and mode & others:
        raise ConfigError(
            f"the secret has mode {mode & 0o777:04o}", origin=str(path), allowed=f"0600: chmod 600 {path}"
        )
    if not secret:
        raise ConfigError("the secret is empty", origin=str(path), allowed="one line with the secret")
    return secret


def write_secret_file(path: Path, secret: str) -> None:
    """Write a new secret with mode 0600; an existing file is never overwritten.

    Raises:
        FileExistsError: The file is there already.
    """
    make_private_folder(path.parent)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(secret + "\n")
        handle.flush()
        os.fsync(handle.fileno())


def new_secret() -> str:
    """Return a fresh 256-bit secret as URL-safe text."""
    return secrets.token_urlsafe(32)


def _path(value: str | None, name: str = "") -> Path | None:
    return (Path(value) / name if name else Path(value)) if value else None


def _prompt(*, confirm: bool) -> bytes:
    first = getpass.getpass("passphrase of the key file: ")
    if confirm and getpass.getpass("once more: ") != first:
        raise ConfigError("the two passphrases differ", origin="key", allowed="type the same one twice")
    return first.encode()
