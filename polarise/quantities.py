"""Sizes as people write them ("2g", "512 MiB") and as machines count them.

Rules:
- ``k m g t`` and ``ki mi gi ti`` (with or without ``b``) are powers of 1024, as in Docker; a bare integer is bytes.
- No signs, no exponents, nothing that rounds: "1.5g" is accepted only because it is a whole number of bytes.
"""

from __future__ import annotations

import re
from decimal import Decimal

_PATTERN = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(?:([kmgt])i?)?b?", re.IGNORECASE | re.ASCII)
_SHIFT = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
# The same for documents, which know no flags.
SIZE_PATTERN = r"^\s*[0-9]{1,12}(\.[0-9]{1,6})? ?([kKmMgGtT][iI]?)?[bB]?\s*$"
SIZE_HINT = 'a size such as "512m", "2g" or "1.5g"'


def parse_size(text: str) -> int:
    """Return the number of bytes.

    Raises:
        ValueError: Not a size, or not a whole number of bytes >= 1.
    """
    match = _PATTERN.fullmatch(text.strip()) if len(text) <= 32 else None
    if match is None:
        raise ValueError(f"{text[:32]!r} is not a size; write {SIZE_HINT}")
    size = Decimal(match.group(1)) * (1 << _SHIFT[(match.group(2) or "").lower()])
    if size != int(size) or size < 1:
        raise ValueError(f"{text!r} is not a whole number of bytes; write {SIZE_HINT}")
    return int(size)


def format_size(size_bytes: int) -> str:
    """Return the size in the largest binary unit that keeps it exact to one decimal place, for people."""
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size_bytes >= 1 << shift:
            return f"{size_bytes / (1 << shift):.1f} {unit}".replace(".0 ", " ")
    return f"{size_bytes} B"
