"""Which keys sign a node's logs: the node's certificates of them, kept beside the logs for whoever checks these offline."""

from __future__ import annotations

import json
import os
from pathlib import Path

from polarise.decode import decode_json, decode_model
from polarise.errors import LogDamaged, RequestRejected
from polarise.signing import Certificate

FILE_NAME = "log-certificates.json"
CERTIFICATES_MAX = 64
BYTES_MAX = 256 * 1024


def kept_certificates(folder: Path) -> list[Certificate]:
    """Return the certificates in a folder, the oldest first; whether they hold is for the caller to check.

    Raises:
        LogDamaged: The file is no list of certificates.
    """
    path = folder / FILE_NAME
    try:
        value = decode_json(path.read_bytes(), max_bytes=BYTES_MAX)
        if not isinstance(value, list):
            raise LogDamaged(FILE_NAME, "is no list")
        return [decode_model(Certificate, json.dumps(item).encode()) for item in value]
    except FileNotFoundError:
        return []
    except RequestRejected as err:
        raise LogDamaged(FILE_NAME, err.message) from err


def keep_certificate(folder: Path, certificate: Certificate) -> None:
    """Add a certificate, once per key; a reader sees the old file or the new one."""
    try:
        kept = kept_certificates(folder)
    except LogDamaged:
        kept = []  # the certificate that is needed from now on is written anew; older ones are asked of a backup
    if any(item.subject == certificate.subject for item in kept):
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / FILE_NAME
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    wire = [item.to_wire() for item in [*kept, certificate][-CERTIFICATES_MAX:]]
    temporary.write_text(json.dumps(wire, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
