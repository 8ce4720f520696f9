"""A valid message of every wire model, made from its schema: the smallest one, with every field that may stand there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import cast

from polarise.decode import WireModel

# One text for each pattern that occurs; the first that fits is taken.
TEXTS = (
    "0" * 64,
    "0" * 128,
    "0" * 32,
    "0" * 24,
    "0" * 96,
    "0" * 16,
    "00000000-0000-4000-8000-000000000000",
    "test.0000000000000000",
    "a.b",
    "a",
    "2025-01-01T00:00:00.000000000Z",
    "/a/b",
    "system",
    "http://127.0.0.1:1",
    "0" * 64 + "/system",
    "argon2id",
    "most",
    "10.0.0.1",
)
Schema = Mapping[str, object]


def example_of(model: type[WireModel], *, with_optional: bool) -> bytes:
    """Return the JSON of a message.

    Args:
        model: Its model.
        with_optional: Whether fields that may be left out are there, and lists have an item.
    """
    schema = model.model_json_schema(by_alias=True)
    return json.dumps(_value(schema, cast(Schema, schema.get("$defs", {})), with_optional)).encode()


def _value(schema: Schema, known: Schema, full: bool) -> object:  # noqa: PLR0911  one line per type
    if "$ref" in schema:
        return _value(cast(Schema, known[str(schema["$ref"]).rpartition("/")[2]]), known, full)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return cast(list[object], schema["enum"])[0]
    if "anyOf" in schema or "oneOf" in schema:
        branches = cast(list[Schema], schema.get("anyOf") or schema["oneOf"])
        wanted = [branch for branch in branches if branch.get("type") != "null"] if full else branches[::-1]
        return _value(wanted[0], known, full)
    match schema.get("type"):
        case "object":
            return _object(schema, known, full)
        case "array":
            return _array(schema, known, full)
        case "string":
            return _text(schema)
        case "integer" | "number":
            least = cast(int, schema.get("minimum", 0))
            return min(max(least, 1 if full else 0), cast(int, schema.get("maximum", 2**53 - 1)))
        case "boolean":
            return full
        case "null":
            return None
    return {}


def _object(schema: Schema, known: Schema, full: bool) -> dict[str, object]:
    fields = cast(Mapping[str, Schema], schema.get("properties", {}))
    required = cast(list[str], schema.get("required", []))
    return {name: _value(field, known, full) for name, field in fields.items() if full or name in required}


def _array(schema: Schema, known: Schema, full: bool) -> list[object]:
    if "prefixItems" in schema:
        return [_value(item, known, full) for item in cast(list[Schema], schema["prefixItems"])]
    count = max(cast(int, schema.get("minItems", 0)), 1 if full else 0)
    return [_value(cast(Schema, schema.get("items", {})), known, full)] * count


def _text(schema: Schema) -> str:
    pattern = schema.get("pattern")
    if pattern is None:
        return "a" * cast(int, schema.get("minLength", 1))
    return next(text for text in TEXTS if re.search(str(pattern), text))
