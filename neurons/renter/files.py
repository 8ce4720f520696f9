"""Small private files of a renter, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from polarise.errors import ConfigError


def make_private_folder(path: Path) -> None:
    """Make a folder that only its owner reads.

    Raises:
        ConfigError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as err:
        raise ConfigError(
            f"cannot make the folder: {err.strerror}", origin=str(path), allowed="another --state-dir"
        ) from err


def write_private(path: Path, text: str) -> None:
    """Write a file with mode 0600; a reader sees the old content or the new one.

    Raises:
        ConfigError: It cannot be written.
    """
    make_private_folder(path.parent)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as handle:
            handle.write(text)
        temporary.replace(path)
    except OSError as err:
        raise ConfigError(f"cannot write: {err.strerror}", origin=str(path), allowed="another --state-dir") from err
