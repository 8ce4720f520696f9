"""What a question's query says, typed and within its bounds, or one refusal that names the parameter."""

from __future__ import annotations

import re

from flask import request

from polarise.errors import ErrorCode, RequestRejected
from polarise.transaction import HASH_PATTERN

# Beyond every block and leaf. The database holds numbers up to 2^63 - 1, and a page ends behind where it begins.
PLACE_MAX = 2**53 - 1


def query_text(name: str) -> str:
    """Return a parameter that has to be there."""
    value = request.args.get(name)
    if value is None:
        raise invalid(name, f"the query lacks {name!r}", f"?{name}=…")
    return value


def query_number(name: str, default: int | None, least: int, most: int) -> int:
    """Return a number within its bounds; without a default it has to be there."""
    text = request.args.get(name)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"[0-9]{1,19}", text) or not least <= int(text) <= most:
        raise invalid(name, f"{name} is an integer from {least} to {most}, got {str(text)[:40]!r}", f"?{name}={least}")
    return int(text)


def query_hash(text: str) -> str:
    """Return the text when it is a transaction's name."""
    if not re.fullmatch(HASH_PATTERN, text):
        raise invalid("hash", f"{text[:80]!r} is no transaction's name", "64 lower-case hex digits")
    return text


def invalid(field: str, message: str, hint: str) -> RequestRejected:
    """Return the refusal of a parameter."""
    return RequestRejected(ErrorCode.INVALID_FIELD, message, hint=hint, field=field)


def not_found(message: str, *, hint: str = "perhaps it is not in a block yet") -> RequestRejected:
    """Return the refusal of a question after something that is not there."""
    return RequestRejected(ErrorCode.NOT_FOUND, message, hint=hint, status=404)
