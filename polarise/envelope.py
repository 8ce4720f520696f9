"""The envelope of every event: one schema for the training and monitoring events of seed 000 and the messages of seed 004.

Rules:
- Every field is inside the hash. Unknown fields of the envelope are refused; the payload is typed by its kind, may
  carry further fields, and an unknown kind is stored, not refused.
- ``message_id`` is new for every dispatch, ``action_id`` stays through all of them; ``cause`` links a message to the
  one it was made from, so that earlier hops stay provable.
- Each hop appends itself to ``visited`` and changes nothing of what is there.
- ``authenticated`` is what the receiving hop found out itself, never what a message says.
- ``stream`` and ``seq`` bind a line to its place in its log.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal, cast

from pydantic import Field

from polarise.canonical import JsonValue
from polarise.decode import WireModel, validated
from polarise.field_names import check_names
from polarise.line import MAX_LINE_BYTES, decode_line, encode_line
from polarise.payloads import KIND_PATTERN, Name, Topic, UnixMs, Uuid, check_payload

STREAM_PATTERN = r"^[0-9a-f]{64}/(system(-[1-9][0-9]{0,2})?|audit|lease/[0-9a-f]{32})$"
VISITS_MAX = 32

Date = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$")]


class Visit(WireModel):
    """One hop: who had the message when.

    Attributes:
        svc: Name of the service.
        tstamp: When it arrived there, ms since 1970.
        version: The service's version.
        node: Where it ran; the oldest clients do not say.
    """

    svc: Name
    tstamp: UnixMs
    version: Name
    node: Name | None = None


class Cause(WireModel):
    """The message this one was made from.

    Attributes:
        message_id: Its id.
        hash: SHA-256 of its line, 64 hex digits.
    """

    message_id: Uuid
    hash: str = Field(pattern="^[0-9a-f]{64}$")


class Event(WireModel):
    """One line of a log; the fields are those of `docs/events.md`, in seed 004's words."""

    v: Literal[1] = 1
    message_id: Uuid
    client_id: Uuid
    action_id: Uuid
    parent_action_id: Uuid | None = None
    type: Topic
    kind: str = Field(pattern=KIND_PATTERN, max_length=96)
    tstamp: UnixMs
    date: Date
    visited: tuple[Visit, ...] = Field(min_length=1, max_length=VISITS_MAX)
    stream: str = Field(pattern=STREAM_PATTERN)
    seq: int = Field(ge=0, lt=2**53)
    cause: Cause | None = None
    client_version: Name | None = None
    client_sha: Name | None = None
    client_username: Name | None = None
    authenticated: bool = False
    payload: dict[str, object]

    def to_wire(self) -> dict[str, JsonValue]:
        """Return the fields as JSON values; what is not known is left out rather than null."""
        wire = without_nulls(super().to_wire())
        wire["visited"] = [without_nulls(visit.to_wire()) for visit in self.visited]
        return wire

    def to_line(self) -> bytes:
        """Return the RFC 8785 bytes that are hashed.

        Raises:
            RequestRejected: BODY_TOO_LARGE, or a payload without a canonical form.
        """
        return encode_line(self.to_wire())


def open_line(raw: bytes, *, max_bytes: int = MAX_LINE_BYTES) -> Event:
    """Parse and check one line as a log holds it.

    Raises:
        RequestRejected: As `polarise.line.decode_line`; UNKNOWN_FIELD or INVALID_FIELD naming the field.
    """
    value = decode_line(raw, max_bytes=max_bytes)
    check_names(Event, value)
    event = validated(Event, raw)
    check_payload(event.kind, cast("Mapping[str, object]", value["payload"]))
    return event


def rfc3339(unix_ns: int) -> str:
    """Format an instant in UTC with nanoseconds, as seed 004 asks for.

    Raises:
        ValueError: Not within the years 1 to 9999.
    """
    seconds, fraction = divmod(unix_ns, 1_000_000_000)
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError) as err:
        raise ValueError(f"{unix_ns} ns since 1970 is no date") from err
    return f"{moment.strftime('%Y-%m-%dT%H:%M:%S')}.{fraction:09d}Z"


def without_nulls(fields: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}
