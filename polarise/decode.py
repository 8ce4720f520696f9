"""Bytes from a stranger -> a typed value, or one refusal that names the field.

Rules:
- The size is checked before the parser sees a byte.
- Duplicate keys, NaN, infinities, trailing bytes and broken UTF-8 are refused.
- Nesting is bounded, so that no body can exhaust the stack.
- Models are strict and frozen; an unknown field is refused with the nearest known name.
- What is wrong with a message never takes much more memory than the message: names of fields are checked first, a list
  ends at its first wrong item, and very many faults are counted and not listed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema

from polarise.canonical import JsonValue
from polarise.errors import ErrorCode, RequestRejected
from polarise.field_names import FIELD_CHARS_MAX, check_names, unknown_field

MAX_BODY_BYTES = 64 * 1024
MAX_DEPTH = 32
COMPLAINTS_MAX = 64

ModelT = TypeVar("ModelT", bound=BaseModel)


def _fail_fast(schema: object) -> None:
    """Mark every sequence of a schema; see `WireModel`, whose subclasses call it while this file is read."""
    if isinstance(schema, dict):
        if schema.get("type") in ("list", "tuple", "set", "frozenset"):
            schema["fail_fast"] = True
        for part in schema.values():
            _fail_fast(part)
    elif isinstance(schema, list):
        for part in schema:
            _fail_fast(part)


class WireModel(BaseModel):
    """Base of every message that crosses machines: strict types, no unknown fields, immutable."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let every list of the model end at its first wrong item.

        Otherwise pydantic keeps a complaint for each: a megabyte of wrong items takes half a gigabyte.
        """
        schema = handler(source)
        _fail_fast(schema)
        return schema

    def to_wire(self) -> dict[str, JsonValue]:
        """Return the message as JSON-ready values, nothing left out."""
        wire: dict[str, JsonValue] = self.model_dump(mode="json")
        return wire


def decode_json(raw: bytes, *, max_bytes: int = MAX_BODY_BYTES) -> JsonValue:
    """Parse one JSON document.

    Raises:
        RequestRejected: BODY_TOO_LARGE (413), BAD_JSON or DUPLICATE_KEY (400).
    """
    if len(raw) > max_bytes:
        raise RequestRejected(
            ErrorCode.BODY_TOO_LARGE,
            f"the body has {len(raw)} bytes, at most {max_bytes} are read",
            hint="send a smaller request",
            status=413,
        )
    _check_depth(raw)
    try:
        value: JsonValue = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except (UnicodeDecodeError, ValueError, RecursionError) as err:
        raise RequestRejected(
            ErrorCode.BAD_JSON, f"the body is not valid JSON: {err}", hint="send one JSON document in UTF-8"
        ) from err
    return value


def decode_model(model: type[ModelT], raw: bytes, *, max_bytes: int = MAX_BODY_BYTES) -> ModelT:
    """Parse and check one message; an empty body counts as ``{}``.

    Raises:
        RequestRejected: As `decode_json`, or UNKNOWN_FIELD / INVALID_FIELD (400) naming the field.
    """
    if len(raw) <= max_bytes and not raw.strip():
        raw = b"{}"
    value = decode_json(raw, max_bytes=max_bytes)
    if not isinstance(value, Mapping):
        raise RequestRejected(
            ErrorCode.INVALID_FIELD, f"the body must be a JSON object, got {type(value).__name__}", hint="send {...}"
        )
    check_names(model, value)
    del value  # pydantic builds all of it a second time
    return validated(model, raw)


def validated(model: type[ModelT], raw: bytes) -> ModelT:
    """Return the model of bytes that are known to be sound JSON, with the right names.

    Raises:
        RequestRejected: UNKNOWN_FIELD or INVALID_FIELD naming the field.
    """
    try:
        return model.model_validate_json(raw, strict=True)
    except ValidationError as err:
        raise rejection_of(model, err) from err


def rejection_of(model: type[BaseModel], err: ValidationError) -> RequestRejected:
    """Turn pydantic's first complaint into the one refusal the caller sees."""
    if err.error_count() > COMPLAINTS_MAX:
        return RequestRejected(
            ErrorCode.INVALID_FIELD,
            f"{err.error_count()} fields are wrong",
            hint="docs/api.md lists each field with its type",
        )
    complaints = err.errors(include_url=False)
    # Each branch of a union complains; the one that read furthest is the one that was meant.
    of_one_field = [item for item in complaints if item["loc"][:1] == complaints[0]["loc"][:1]]
    first = max(of_one_field, key=lambda item: len(item["loc"]))
    # Parts such as "tuple[...]" or "DeviceSelector" name a branch of a union, not a field of the caller's.
    field = ".".join(str(part) for part in first["loc"] if re.fullmatch(r"[a-z0-9_]+", str(part))) or None
    if first["type"] == "extra_forbidden":
        return unknown_field(model, str(first["loc"][-1]), str(field))
    if isinstance(first.get("ctx", {}).get("error"), RequestRejected):
        rejected: RequestRejected = first["ctx"]["error"]
        return rejected
    given = str(first.get("input"))[:100]
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if first["type"] == "missing" else f", got {given}"
    return RequestRejected(
        ErrorCode.INVALID_FIELD,
        f"{message}{shown}",
        hint="docs/api.md lists each field with its type",
        field=field and field[:FIELD_CHARS_MAX],
    )


def _object_without_duplicates(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    result: dict[str, JsonValue] = {}
    for key, value in pairs:
        if key in result:
            raise RequestRejected(
                ErrorCode.DUPLICATE_KEY,
                f"the key {key[:100]!r} appears twice",
                hint="send each key once",
                field=key[:100],
            )
        result[key] = value
    return result


def _refuse_constant(name: str) -> JsonValue:
    raise ValueError(f"{name} is not JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:32]} is beyond any number we can hold")
    return value


def _check_depth(raw: bytes) -> None:
    """Bound the nesting by a scan that skips strings, before the recursive parser runs."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return  # too few brackets to nest deeper; spares most messages the scan
    depth, in_string, escaped = 0, False, False
    for byte in raw:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in (0x5B, 0x7B):
            depth += 1
            if depth > MAX_DEPTH:
                raise RequestRejected(
                    ErrorCode.BAD_JSON, f"the body is nested deeper than {MAX_DEPTH}", hint="send a flatter document"
                )
        elif byte in (0x5D, 0x7D):
            depth -= 1
