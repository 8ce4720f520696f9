"""What a container may say: its own words under a kind of its own, and nothing about who it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from polarise.canonical import JsonValue
from polarise.decode import decode_json
from polarise.errors import ErrorCode, RequestRejected
from polarise.ingress import SAFE_INTEGER, Draft, draft_of
from polarise.line import MAX_LINE_BYTES
from polarise.payloads import check_container_kind

_FIELDS = frozenset({"message_id", "kind", "date", "payload", "dropped"})


def container_draft(line: bytes, lease_id: str) -> tuple[Draft, int]:
    """Return a container's message as the hop it is, and how many events it has dropped so far.

    Raises:
        RequestRejected: Not a message, a field that is not its business, or a kind that is not its own.
    """
    message = _message(line)
    dropped = message.pop("dropped", 0)
    visit: JsonValue = {
        "svc": "container",
        "tstamp": message.get("date", 0),
        "version": "events/1",
        "node": lease_id[:12],
    }
    draft = draft_of({**message, "visited": [visit]})
    is_count = isinstance(dropped, int) and not isinstance(dropped, bool) and 0 <= dropped <= SAFE_INTEGER
    return draft, cast(int, dropped) if is_count else 0


def _message(line: bytes) -> dict[str, JsonValue]:
    """Return what a container said.

    Raises:
        RequestRejected: Not a message, a field that is not its business, or a kind that is not its own.
    """
    value = decode_json(line, max_bytes=MAX_LINE_BYTES)
    if not isinstance(value, Mapping):
        raise RequestRejected(ErrorCode.INVALID_FIELD, "a message is a JSON object", hint="send {...}")
    if unknown := sorted(set(value) - _FIELDS):
        raise RequestRejected(
            ErrorCode.UNKNOWN_FIELD,
            f"a container does not say {unknown[0][:100]!r}",
            hint=f"known fields: {', '.join(sorted(_FIELDS))}",
            field=unknown[0][:100],
        )
    check_container_kind(str(value.get("kind")))
    return dict(value)
