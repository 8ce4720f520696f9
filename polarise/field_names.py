"""The fields of a message held against its model by their names alone, before anybody looks at the values.

pydantic keeps a copy of an object for every field that is missing from it, so that a megabyte which lacks fourteen fields
takes four hundred. Here the first field that is missing or unknown, at any depth, is the refusal.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

from pydantic import BaseModel

from polarise.canonical import JsonValue
from polarise.errors import ErrorCode, RequestRejected

NAME_CHARS_SHOWN = 100
FIELD_CHARS_MAX = 200


class _Field(NamedTuple):
    """One field of a model: whether it must be there, and the model of what stands in it, if it is just one."""

    is_required: bool
    model: type[BaseModel] | None


def check_names(model: type[BaseModel], value: JsonValue, place: str = "") -> None:
    """Check that no field is missing and none is unknown; what has another type than an object is left to pydantic.

    Args:
        model: Model of the message.
        value: The message as it was parsed.
        place: Where in a message it stands, ending in a point.

    Raises:
        RequestRejected: INVALID_FIELD or UNKNOWN_FIELD, naming the field.
    """
    if not isinstance(value, Mapping):
        return
    fields = _fields_of(model)
    for name, field in fields.items():
        if field.is_required and name not in value:
            raise RequestRejected(
                ErrorCode.INVALID_FIELD,
                "Field required",
                hint="docs/api.md lists each field with its type",
                field=place + name,
            )
    if model.model_config.get("extra") == "forbid":
        for name in value:
            if name not in fields:
                raise unknown_field(model, name, place + name)
    for name, field in fields.items():
        if field.model is not None and name in value:
            _check_within(field.model, value[name], f"{place}{name}.")


def unknown_field(model: type[BaseModel], name: str, field: str) -> RequestRejected:
    """Return the refusal of a field that the model does not have, with the nearest name that it has."""
    name, known = name[:NAME_CHARS_SHOWN], sorted(_fields_of(model))
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known fields: {', '.join(known)}"
    return RequestRejected(ErrorCode.UNKNOWN_FIELD, f"unknown field {name!r}", hint=hint, field=field[:FIELD_CHARS_MAX])


def _check_within(model: type[BaseModel], value: JsonValue, place: str) -> None:
    if isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            check_names(model, item, f"{place}{index}.")
    else:
        check_names(model, value, place)


@cache
def _fields_of(model: type[BaseModel]) -> Mapping[str, _Field]:
    """Return a model's fields by their names on the wire."""
    return {
        info.alias or name: _Field(info.is_required(), _only_model(info.annotation))
        for name, info in model.model_fields.items()
    }


def _only_model(annotation: object) -> type[BaseModel] | None:
    """Return the model in a type such as ``tuple[Model, ...] | None``; None where there are several, or none."""
    found = set(_models(annotation))
    return found.pop() if len(found) == 1 else None


def _models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]
