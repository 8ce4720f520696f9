"""One value, one byte string: canonical JSON (RFC 8785) for everything that is hashed or signed.

Rules:
- Integers stay within ±(2^53 - 1), the range every JSON reader agrees on.
- Floats may be transported but never decide a score; scores are integers.
- A hash is SHA-256, written as 64 lower-case hex digits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import rfc8785

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"


def canonical_bytes(value: JsonValue) -> bytes:
    """Encode a JSON value as RFC 8785 bytes.

    Raises:
        ValueError: The value holds NaN, an infinity, an integer beyond ±(2^53 - 1) or a non-string key.
    """
    return rfc8785.dumps(value)


def digest_hex(value: JsonValue) -> str:
    """Return the SHA-256 of the canonical bytes as 64 lower-case hex digits."""
    return hashlib.sha256(canonical_bytes(value)).hexdigest()
