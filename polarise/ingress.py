"""The door of the event plane: what clients and containers send -> a draft, which a hop completes and dispatches.

What older clients write is brought into the one form here and nowhere else:
- instants as text or number, in seconds, milliseconds or nanoseconds (told apart by their size);
- ``CANCELLED`` and ``METRICS AVAILABLE``; ``authenticated`` as text (and ignored either way);
- ``status`` and ``message`` beside the payload of a BAI_APP_STATUS message;
- integers no JSON reader agrees on, which become text.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from polarise.canonical import JsonValue
from polarise.decode import WireModel, decode_json, validated
from polarise.envelope import (
    Cause,
    Date,
    Visit,
    rfc3339,
    without_nulls,
)
from polarise.errors import ErrorCode, RequestRejected
from polarise.field_names import check_names
from polarise.line import MAX_LINE_BYTES, encode_line
from polarise.payloads import KIND_PATTERN, Name, Topic, Uuid, check_payload, topic_of

SAFE_INTEGER = 2**53 - 1
NS_PER_MS = 1_000_000

# Kinds of messages of seed 004, which know topics only.
_KIND_OF_TOPIC = {
    Topic.BAI_APP_STATUS: "action.status",
    Topic.CMD_SUBMIT: "command.submit",
    Topic.CMD_RETURN: "command.return",
    Topic.BAI_METRICS: "metrics.event",
    Topic.BAI_SYS_BFF: "node.event",
    Topic.BAI_SYS_FETCHER: "node.event",
    Topic.BAI_SYS_EXECUTOR: "node.event",
}
_DEFAULT_KIND = "app.event"
_OLD_STATUS = {"CANCELLED": "CANCELED", "METRICS AVAILABLE": "METRICS_AVAILABLE"}


class Draft(WireModel):
    """A message before a hop completed it; what is missing, the hop fills in."""

    v: int = Field(default=1, ge=1, le=1)
    message_id: Uuid | None = None
    client_id: Uuid | None = None
    action_id: Uuid | None = None
    parent_action_id: Uuid | None = None
    type: Topic | None = None
    kind: str = Field(pattern=KIND_PATTERN, max_length=96)
    tstamp: int | None = Field(default=None, ge=0, lt=2**53)
    date: Date | None = None
    visited: tuple[Visit, ...] = Field(default=(), max_length=31)
    cause: Cause | None = None
    client_version: Name | None = None
    client_sha: Name | None = None
    client_username: Name | None = None
    payload: dict[str, object]


@dataclass(frozen=True, slots=True)
class Hop:
    """The service that completes a draft; see `polarise.envelope.Visit`."""

    svc: str
    version: str
    node: str


@dataclass(frozen=True, slots=True)
class Sender:
    """What the receiving hop knows about who sent a message.

    Attributes:
        client_id: Constant for this client and user; wins over what the message says.
        action_id: The action everything of this sender belongs to; None leaves it to the message.
        is_authenticated: Whether the hop verified a key.
    """

    client_id: str
    action_id: str | None = None
    is_authenticated: bool = False


def receive(raw: bytes, *, max_bytes: int = MAX_LINE_BYTES) -> Draft:
    """Parse one message of a client.

    Raises:
        RequestRejected: BODY_TOO_LARGE, BAD_JSON, DUPLICATE_KEY, UNKNOWN_FIELD or INVALID_FIELD naming the field.
    """
    value = decode_json(raw, max_bytes=max_bytes)
    if not isinstance(value, Mapping):
        raise _invalid(None, f"a message is a JSON object, got {type(value).__name__}")
    return draft_of(value)


def draft_of(message: Mapping[str, JsonValue]) -> Draft:
    """Bring a parsed message into the one form.

    Raises:
        RequestRejected: UNKNOWN_FIELD or INVALID_FIELD naming the field.
    """
    fields = dict(message)
    fields.pop("authenticated", None)
    payload = fields.get("payload", {})
    if not isinstance(payload, Mapping):
        raise _invalid("payload", f"the payload is an object, got {type(payload).__name__}")
    kind = fields.setdefault("kind", _kind_of(fields))
    fields["payload"] = _payload(str(kind), {**_status_fields(fields), **payload})
    if "date" in fields:
        fields["date"] = _date("date", fields["date"])
    if "tstamp" in fields:
        fields["tstamp"] = _unix_ms("tstamp", fields["tstamp"])
    visited = fields.get("visited", [])
    if isinstance(visited, Sequence) and not isinstance(visited, str):
        fields["visited"] = [_visit(index, visit) for index, visit in enumerate(visited)]
    known = without_nulls(fields)
    check_names(Draft, known)
    draft = validated(Draft, encode_line(known, max_bytes=2 * MAX_LINE_BYTES))
    check_payload(draft.kind, draft.payload)
    return draft


def dispatch(draft: Draft, sender: Sender, hop: Hop, now_ns: int) -> dict[str, JsonValue]:
    """Complete a draft; only its place in a log, which `place` adds, is missing then.

    Args:
        draft: What was received.
        sender: What this hop knows about the sender.
        hop: This hop, appended to ``visited``.
        now_ns: When the message arrived, ns since 1970.
    """
    now_ms = now_ns // NS_PER_MS
    return {
        **without_nulls(draft.to_wire()),
        "v": 1,
        "message_id": draft.message_id or str(uuid.uuid4()),
        "client_id": sender.client_id,
        "action_id": sender.action_id or draft.action_id or str(uuid.uuid4()),
        "type": str(draft.type or topic_of(draft.kind)),
        "tstamp": now_ms,
        "date": draft.date or rfc3339(now_ns),
        "visited": [
            *(without_nulls(visit.to_wire()) for visit in draft.visited),
            {"svc": hop.svc, "tstamp": now_ms, "version": hop.version, "node": hop.node},
        ],
        "authenticated": sender.is_authenticated,
    }


def place(fields: Mapping[str, JsonValue], stream: str, seq: int) -> bytes:
    """Return the line of a dispatched message at its place in a log.

    Raises:
        RequestRejected: BODY_TOO_LARGE, with its envelope it is longer than a line may be.
    """
    return encode_line({**fields, "stream": stream, "seq": seq})


def unix_ns(value: JsonValue) -> int:
    """Read an instant: an integer or its digits, in seconds (below 10^11), milliseconds (10^14) or nanoseconds.

    Raises:
        ValueError: None of these.
    """
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,19}", str(value)):
        raise ValueError("an instant is a whole number since 1970")
    number = int(str(value))
    if number < 10**11:
        return number * 1_000_000_000
    return number * NS_PER_MS if number < 10**14 else number


def _kind_of(fields: Mapping[str, JsonValue]) -> str:
    try:
        return _KIND_OF_TOPIC.get(Topic(str(fields.get("type"))), _DEFAULT_KIND)
    except ValueError:
        return _DEFAULT_KIND


def _status_fields(fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Take ``status`` and ``message`` from beside the payload, where seed 004 has them."""
    if fields.get("type") != Topic.BAI_APP_STATUS:
        return {}
    return {name: fields.pop(name) for name in ("status", "message") if name in fields}


def _payload(kind: str, payload: dict[str, JsonValue]) -> dict[str, JsonValue]:
    plain = {str(name): _safe(value) for name, value in payload.items()}
    if "timestamp" in plain:
        plain["timestamp"] = _unix_ms("payload.timestamp", plain["timestamp"])
    if kind == "action.status" and isinstance(plain.get("status"), str):
        status = str(plain["status"])
        plain["status"] = _OLD_STATUS.get(status, status)
    return plain


def _safe(value: JsonValue) -> JsonValue:
    if isinstance(value, bool) or not isinstance(value, int | Mapping | list | tuple):
        return value
    if isinstance(value, int):
        return value if abs(value) <= SAFE_INTEGER else str(value)
    if isinstance(value, Mapping):
        return {str(name): _safe(inner) for name, inner in value.items()}
    return [_safe(inner) for inner in value]


def _visit(index: int, visit: JsonValue) -> JsonValue:
    if isinstance(visit, Mapping) and "tstamp" in visit:
        return {**visit, "tstamp": _unix_ms(f"visited.{index}.tstamp", visit["tstamp"])}
    return visit


def _date(field: str, value: JsonValue) -> JsonValue:
    if isinstance(value, str) and not value.isdigit():
        return value
    try:
        return rfc3339(unix_ns(value))
    except ValueError as err:
        raise _invalid(field, f"{str(value)[:64]!r} is no date: {err}") from err


def _unix_ms(field: str, value: JsonValue) -> int:
    try:
        return unix_ns(value) // NS_PER_MS
    except ValueError as err:
        raise _invalid(field, f"{str(value)[:64]!r} is no instant: {err}") from err


def _invalid(field: str | None, message: str) -> RequestRejected:
    return RequestRejected(ErrorCode.INVALID_FIELD, message, hint="docs/events.md lists the fields", field=field)
