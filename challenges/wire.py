"""Strict decoding of what a miner sent: the few shapes that all proofs use.

Rules:
- A value comes from `json.loads` or from a frozen model and is untrusted. Types are exact: no bool, float or NaN is a
  number, no str subclass a text.
- Length is bounded before anything is decoded, and one answer has one spelling.
- A refusal names what was expected and never repeats what was sent.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from polarise.errors import ProofRejected, RejectReason


def fields_of(value: object, names: tuple[str, ...]) -> dict[str, object]:
    """Take an object with exactly these fields.

    Raises:
        ProofRejected: MALFORMED.
    """
    if type(value) is not dict or len(value) != len(names) or any(name not in value for name in names):
        raise malformed("fields differ", type(value).__name__, "object with exactly " + ", ".join(names))
    return value


def list_of(name: str, value: object) -> Sequence[object]:
    """Take a JSON array, or the tuple that a frozen model made of one.

    Raises:
        ProofRejected: MALFORMED.
    """
    if type(value) is list or type(value) is tuple:
        return value
    raise malformed(f"{name} is not a list", type(value).__name__, "list")


def encode_base64(data: bytes) -> str:
    """Return the one spelling that `decode_base64` takes."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(name: str, value: object, bytes_max: int) -> bytes:
    """Take canonical base64 of at most `bytes_max` bytes.

    Raises:
        ProofRejected: MALFORMED.
    """
    if type(value) is not str:
        raise malformed(f"{name} is not text", type(value).__name__, "str")
    characters_max = -(-bytes_max // 3) * 4
    if len(value) > characters_max:
        raise malformed(f"{name} is too long", len(value), f"<= {characters_max} characters")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as err:
        raise malformed(f"{name} is not base64", str(err), "RFC 4648 section 4") from err
    # Unused low bits in the last character would give one answer many spellings.
    if encode_base64(data) != value:
        raise malformed(f"{name} is not canonical base64", "other spelling", "RFC 4648 section 3.5")
    return data


def malformed(message: str, got: object, expected: object) -> ProofRejected:
    """Return the refusal of a form."""
    return ProofRejected(RejectReason.MALFORMED, message, got=got, expected=expected)
