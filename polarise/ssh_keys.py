"""OpenSSH keys: one public key in, the same key re-serialised out, and nothing of the text around it.

Rules:
- Only what was parsed is ever used; comment, options and whatever follows are never passed on.
- Accepted: ed25519, ECDSA on the three NIST curves, RSA of 3072 to 16384 bits.
- Refused: options, a second line, DSS, certificates and hardware (``sk-``) keys, whose extra field would be lost.
"""

from __future__ import annotations

import base64
import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_public_key,
)

from polarise.errors import ErrorCode, RequestRejected

KEY_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
RSA_BITS_MIN = 3072
RSA_BITS_MAX = 16384
MAX_TEXT_CHARS = 16384
_HINT = "send one line as in ~/.ssh/id_ed25519.pub; make one with: ssh-keygen -t ed25519"


def parse_public_key(text: str) -> str:
    """Read one OpenSSH public key and return ``type base64`` without comment or line feed.

    Args:
        text: The key as its owner sent it; white space around it and a comment are allowed.

    Raises:
        RequestRejected: KEY_REFUSED (400) with field ``ssh_public_key`` and the reason.
    """
    line = text.strip()
    if len(text) > MAX_TEXT_CHARS:
        raise _refused(f"the key has {len(text)} characters, at most {MAX_TEXT_CHARS} are read")
    if len(line.splitlines()) != 1:
        raise _refused("more than one line" if line else "the key is empty")
    words = line.split()
    if words[0] not in KEY_TYPES or len(words) < 2:
        raise _refused(_why_not(words[0]))
    try:
        key = load_ssh_public_key(f"{words[0]} {words[1]}".encode())
        serialised = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
    # NotImplementedError: a point of an elliptic curve in compressed or hybrid form.
    except (ValueError, TypeError, NotImplementedError, UnsupportedAlgorithm) as err:
        raise _refused(f"not a readable {words[0]} key") from err
    if isinstance(key, RSAPublicKey) and not RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
        raise _refused(f"RSA-{key.key_size} is refused, {RSA_BITS_MIN} to {RSA_BITS_MAX} bits are accepted")
    return serialised


def fingerprint(line: str) -> str:
    """Return ``SHA256:...`` of a public key line, as ``ssh-keygen -l`` prints it.

    Args:
        line: A line from `parse_public_key` or `generate_key_pair`.
    """
    blob = base64.b64decode(line.split()[1], validate=True)
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


def generate_key_pair() -> tuple[str, str]:
    """Make an ed25519 key; returns the unencrypted private key as OpenSSH writes it, and the public line."""
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode("ascii")
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
    return pem, public


def _why_not(word: str) -> str:
    if word in KEY_TYPES:
        return f"nothing follows {word}"
    if word.startswith("sk-"):
        return "hardware keys (sk-) are not supported"
    if "-cert-" in word:
        return "certificates are not supported, send the key itself"
    if word == "ssh-dss":
        return "DSS keys are refused"
    return f"the line must begin with one of {', '.join(KEY_TYPES)}, without options"


def _refused(reason: str) -> RequestRejected:
    return RequestRejected(ErrorCode.KEY_REFUSED, reason, hint=_HINT, field="ssh_public_key")
