"""Changes to valid inputs that know their structure: of bytes, of lines, and of JSON with what its readers stumble over.

A source of choices is a `random.Random`: Hypothesis gives one that it can shrink, the long run one with a seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence

MUTATIONS_MAX = 4
DEEP = 100

_TWICE = "\x00twice"
_TOKENS = (
    b"\x00",
    b"\n",
    b"\n\n",
    b"\r\n",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xe2\x80\xa8",
    b"-1",
    b"0",
    b"9" * 20,
    b"9" * 400,
    b"9" * 5000,
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"0.1",
    b"\\ud800",
    b"\\u0000",
    b"[" * DEEP,
    b'{"":' * DEEP,
    b"a" * 5000,
    b"\xe2\x80\x94 ",
    b" ",
    b"+",
    b"=",
    b'"',
    b",",
    b":",
)
_VALUES: tuple[object, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1,
    255,
    2**31,
    2**53 - 1,
    2**53,
    2**63,
    2**64,
    -(2**63) - 1,
    10**30,
    10**400,
    0.5,
    1.0,
    1e300,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    "0",
    "-1",
    "\x00",
    "\ud800",
    "a\ud800",
    "\u2028",
    "\U0001f600",
    "a" * 5000,
    "0" * 64,
    "f" * 128,
    "A" * 64,
    "success",
    [],
    {},
    [[]],
    [None] * 300,
    [0] * 300,
    [{}] * 300,
    [""] * 300,
    {"": None},
    {"\ud800": 1},
    {str(index): index for index in range(300)},
)


def mutated(random_: random.Random, seeds: Sequence[bytes], *, is_canonical: bool = False) -> bytes:
    """Return one of the seeds with some changes."""
    raw = random_.choice(seeds)
    for _ in range(random_.randint(1, MUTATIONS_MAX)):
        change = random_.choice((_json, _json, _json, _bytes, _bytes, _lines))
        raw = change(random_, raw, seeds, is_canonical)
    return raw


def grown(seed: bytes, size: int, *, fields_max: int = 12) -> dict[str, bytes]:
    """Return inputs of about ``size`` bytes, each as bad as one kind of input can be, by what they are.

    Args:
        seed: A valid input.
        size: Bytes.
        fields_max: How many fields of a JSON object are blown up.
    """
    shapes = {
        "a long line": b"a" * size,
        "many lines": b"a\n" * (size // 2),
        "zeroes": bytes(size),
        "digits": b"9" * size,
        "brackets": b"[" * size,
        "wrong items": b"[" + b"0," * (size // 2 - 2) + b"0]",
        "empty lists": b"[" + b"[]," * (size // 3 - 2) + b"[]]",
        "unknown fields": b"{" + b",".join(b'"%x":0' % index for index in range(size // 10)) + b"}",
        "the seed again and again": (seed * (size // max(len(seed), 1) + 1))[:size],
        "a seed with a long tail": seed + b"a" * (size - len(seed)),
    }
    value = _loaded(seed)
    if isinstance(value, dict):
        for name in list(value)[:fields_max]:
            for what, item in (("wrong items", 0), ("empty items", {}), ("texts", "a")):
                count = max(size - len(seed), 0) // 5
                shapes[f"{name}: {what}"] = _dumped({**value, name: [item] * count}, is_canonical=True)
            shapes[f"{name}: a long text"] = _dumped({**value, name: "a" * max(size - len(seed), 0)}, is_canonical=True)
    return shapes


def _bytes(  # noqa: PLR0911  one line per change
    random_: random.Random, raw: bytes, seeds: Sequence[bytes], _is_canonical: bool
) -> bytes:
    start = random_.randint(0, len(raw))
    end = min(start + random_.choice((1, 1, 2, 8, 64, len(raw))), len(raw))
    other = random_.choice(seeds)
    change = random_.choice(("flip", "insert", "delete", "repeat", "cut", "splice", "byte"))
    if change == "flip" and raw:
        at = min(start, len(raw) - 1)
        return raw[:at] + bytes([raw[at] ^ (1 << random_.randint(0, 7))]) + raw[at + 1 :]
    if change == "byte":
        return raw[:start] + bytes([random_.randint(0, 255)]) + raw[end:]
    if change == "insert":
        return raw[:start] + random_.choice(_TOKENS) + raw[start:]
    if change == "delete":
        return raw[:start] + raw[end:]
    if change == "repeat":
        return raw[:end] + raw[start:end] * random_.choice((1, 2, 40)) + raw[end:]
    if change == "splice":
        return raw[:start] + other[random_.randint(0, len(other)) :]
    return raw[:start]


def _lines(random_: random.Random, raw: bytes, seeds: Sequence[bytes], _is_canonical: bool) -> bytes:
    lines = raw.split(b"\n")
    at = random_.randint(0, len(lines) - 1)
    other = random_.choice(random_.choice(seeds).split(b"\n"))
    change = random_.choice(("repeat", "delete", "replace", "swap", "many", "number"))
    if change == "repeat":
        lines.insert(at, lines[at])
    elif change == "delete":
        del lines[at]
    elif change == "replace":
        lines[at] = other
    elif change == "many":
        lines[at:at] = [lines[at]] * random_.choice((33, 65, 300))
    elif change == "number":
        head, _, _ = lines[at].rpartition(b" ")
        lines[at] = head + b" " + random_.choice((b"-1", b"01", b"9" * 19, b"9" * 30, b"1e3", b"0x1", b"\xd9\xa1"))
    else:
        lines[at], lines[0] = lines[0], lines[at]
    return b"\n".join(lines)


def _json(random_: random.Random, raw: bytes, seeds: Sequence[bytes], is_canonical: bool) -> bytes:
    value = _loaded(raw)
    if not isinstance(value, dict | list) or not value:
        return _bytes(random_, raw, seeds, is_canonical)
    holder: dict[str, object] | list[object] = value
    # Down to any depth: each step stays with the same chance.
    while True:
        key = random_.choice(list(holder)) if isinstance(holder, dict) else random_.randrange(len(holder))
        inner = holder[key]  # type: ignore[index]  # the key is of this holder
        if not isinstance(inner, dict | list) or not inner or random_.random() < 0.25:
            break
        holder = inner
    _CHANGES[random_.choice(list(_CHANGES))](random_, holder, key)
    return _dumped(value, is_canonical=is_canonical or random_.random() < 0.5)


Holder = dict[str, object] | list[object]


def _replace(random_: random.Random, holder: Holder, key: str | int) -> None:
    holder[key] = random_.choice(_VALUES)  # type: ignore[index]


def _delete(_random: random.Random, holder: Holder, key: str | int) -> None:
    del holder[key]  # type: ignore[arg-type]


def _twice(random_: random.Random, holder: Holder, key: str | int) -> None:
    if isinstance(holder, dict):
        holder[f"{key}{_TWICE}"] = random_.choice((holder[str(key)], *_VALUES))
    else:
        holder.insert(int(key), holder[int(key)])


def _many(_random: random.Random, holder: Holder, key: str | int) -> None:
    if isinstance(holder, dict):
        holder.update({f"x{index}": None for index in range(100)})
    else:
        holder.extend([holder[int(key)]] * 300)


def _rename(random_: random.Random, holder: Holder, key: str | int) -> None:
    if isinstance(holder, dict):
        name = random_.choice(("", "a" * 5000, "\ud800", "\x00", "\n", f"{key} ", str(key).upper(), "v", "kind"))
        holder[name] = holder.pop(str(key))


def _deepen(random_: random.Random, holder: Holder, key: str | int) -> None:
    value = holder[key]  # type: ignore[index]
    for _ in range(random_.choice((1, 20, 31, 33, DEEP))):
        value = [value]
    holder[key] = value  # type: ignore[index]


def _text(random_: random.Random, holder: Holder, key: str | int) -> None:
    value = holder[key]  # type: ignore[index]
    if isinstance(value, str) and value:
        at = random_.randrange(len(value))
        piece = random_.choice(("", "0", "f", "F", "\n", "\x00", "/", "\ud800", " ", "=", "é", "a" * 300))
        holder[key] = value[:at] + piece + value[at + random_.randint(0, 1) :]  # type: ignore[index]
    elif isinstance(value, int):
        near = value + random_.choice((-1, 1))
        holder[key] = random_.choice((near, -value, value << 40, "0", value % 1000 + 0.5))  # type: ignore[index]


def _from_elsewhere(random_: random.Random, holder: Holder, key: str | int) -> None:
    values = list(holder.values()) if isinstance(holder, dict) else holder
    holder[key] = random_.choice(values)  # type: ignore[index]


_CHANGES: dict[str, Callable[[random.Random, Holder, str | int], None]] = {
    "replace": _replace,
    "delete": _delete,
    "twice": _twice,
    "many": _many,
    "rename": _rename,
    "deepen": _deepen,
    "text": _text,
    "text again": _text,
    "from elsewhere": _from_elsewhere,
}


def _loaded(raw: bytes) -> object:
    if len(raw) > 200_000:
        return None
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _dumped(value: object, *, is_canonical: bool) -> bytes:
    text = json.dumps(
        value,
        sort_keys=is_canonical,
        separators=(",", ":") if is_canonical else None,
        ensure_ascii=not is_canonical,
    )
    for spelling in ("\\u0000twice", "\x00twice"):
        text = text.replace(spelling, "")
    return text.encode("utf-8", "surrogatepass")
