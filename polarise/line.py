"""One event, one line: RFC 8785 bytes that are hashed once and never serialised again.

Rules:
- A line is canonical JSON without a line feed; a reader refuses any other spelling of the same value, and with it
  duplicate keys, another order of keys, white space and NaN.
- Hashes are over the bytes as received: whoever verifies a line never encodes it.

The general encoder costs about 50 us per line in Python. Nearly every line is one that the C encoder of the standard
library writes the same way, so that one is tried first and its result is checked (about 10 us); a number with an
exponent, a whole number written as a float or a character beyond ASCII takes the general way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from polarise.canonical import JsonValue, canonical_bytes
from polarise.decode import decode_json
from polarise.errors import ErrorCode, RequestRejected

MAX_LINE_BYTES = 16 * 1024

# Both write the shortest digits; they differ only in when an exponent begins and in 1.0, which RFC 8785 writes as 1.
_PLAIN_FLOAT = re.compile(r"-?(?:[1-9]\d{0,14}|0)\.\d{0,20}[1-9]")
_SAFE_INTEGER_CHARS = 15
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


class _NotPlain(ValueError):
    """The line has something that only the general decoder may judge."""


def encode_line(value: Mapping[str, JsonValue], *, max_bytes: int = MAX_LINE_BYTES) -> bytes:
    """Return the RFC 8785 bytes of an object.

    Raises:
        RequestRejected: INVALID_FIELD, it has no canonical form (NaN, an integer beyond 2^53 - 1, a key that is no
            string); BODY_TOO_LARGE, the line would be longer than ``max_bytes``.
    """
    line = _encode_plain(value) or _encode_any(value)
    _check_size(line, max_bytes)
    return line


def decode_line(raw: bytes, *, max_bytes: int = MAX_LINE_BYTES) -> dict[str, JsonValue]:
    """Parse one line; what comes back is exactly what the bytes say.

    Raises:
        RequestRejected: BODY_TOO_LARGE, BAD_JSON, DUPLICATE_KEY, INVALID_FIELD (not an object) or NOT_CANONICAL (the
            same value has another spelling: order of keys, white space, form of a number).
    """
    _check_size(raw, max_bytes)
    try:
        value = _PLAIN_DECODER.decode(raw.decode("ascii"))
        if isinstance(value, dict) and _ENCODER.encode(value).encode() == raw:
            return value
    except (ValueError, RecursionError):
        pass  # the general decoder below gives the reason, or accepts
    return _decode_any(raw, max_bytes)


def _encode_plain(value: Mapping[str, JsonValue]) -> bytes | None:
    try:
        text = _ENCODER.encode(value)
        return text.encode("ascii") if _PLAIN_DECODER.decode(text) == value else None
    except (TypeError, ValueError, RecursionError):
        return None


def _encode_any(value: Mapping[str, JsonValue]) -> bytes:
    try:
        return canonical_bytes(value)
    except (ValueError, RecursionError) as err:
        raise RequestRejected(
            ErrorCode.INVALID_FIELD,
            f"the event has no canonical form: {err}",
            hint="finite numbers, integers within 2^53 - 1, text keys",
        ) from err


def _decode_any(raw: bytes, max_bytes: int) -> dict[str, JsonValue]:
    value = decode_json(raw, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise RequestRejected(
            ErrorCode.INVALID_FIELD, f"a line is a JSON object, got {type(value).__name__}", hint="send {...}"
        )
    if _encode_any(value) != raw:
        raise RequestRejected(
            ErrorCode.NOT_CANONICAL, "the line is not in its canonical form", hint="write lines as RFC 8785 (JCS)"
        )
    return value


def _check_size(line: bytes, max_bytes: int) -> None:
    if len(line) > max_bytes:
        raise RequestRejected(
            ErrorCode.BODY_TOO_LARGE,
            f"the line has {len(line)} bytes, at most {max_bytes} are kept",
            hint="send a smaller payload; large results belong into a file whose hash is sent",
            status=413,
        )


def _plain_float(text: str) -> float:
    if not _PLAIN_FLOAT.fullmatch(text):
        raise _NotPlain(text)
    return float(text)


def _plain_int(text: str) -> int:
    if len(text) > _SAFE_INTEGER_CHARS:
        raise _NotPlain(text)
    return int(text)


def _refuse_constant(name: str) -> float:
    raise _NotPlain(name)


_PLAIN_DECODER = json.JSONDecoder(parse_float=_plain_float, parse_int=_plain_int, parse_constant=_refuse_constant)
