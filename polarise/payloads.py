"""What a message is about: kinds, the topic each goes to, and the fields its payload is known to have.

Known fields have the right type; further ones may stand beside them, and an unknown kind carries what it likes.
The names are those of seeds 000 (payloads) and 004 (topics, status, commands).
"""
# ruff: noqa: N815  the camel-case names are seed 000's, and they are what goes over the wire

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from polarise.decode import rejection_of
from polarise.errors import ErrorCode, RequestRejected

UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
KIND_PATTERN = r"^[a-z][a-z0-9_]{0,31}(\.[a-z][a-z0-9_]{0,31}){1,3}$"

Uuid = Annotated[str, Field(pattern=UUID_PATTERN)]
UnixMs = Annotated[int, Field(ge=0, lt=2**53)]
Name = Annotated[str, Field(min_length=1, max_length=128)]
Text = Annotated[str, Field(max_length=2000)]


class Topic(StrEnum):
    """Where a message goes; the names of seed 004."""

    BAI_APP_BFF = "BAI_APP_BFF"
    BAI_APP_FETCHER = "BAI_APP_FETCHER"
    BAI_APP_EXECUTOR = "BAI_APP_EXECUTOR"
    BAI_SYS_BFF = "BAI_SYS_BFF"
    BAI_SYS_FETCHER = "BAI_SYS_FETCHER"
    BAI_SYS_EXECUTOR = "BAI_SYS_EXECUTOR"
    BAI_APP_STATUS = "BAI_APP_STATUS"
    BAI_METRICS = "BAI_METRICS"
    CMD_SUBMIT = "CMD_SUBMIT"
    CMD_RETURN = "CMD_RETURN"


class Status(StrEnum):
    """Where an action stands."""

    SUBMITTED = "SUBMITTED"
    PENDING = "PENDING"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    METRICS_AVAILABLE = "METRICS_AVAILABLE"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    ERROR = "ERROR"
    CANCELED = "CANCELED"


class Payload(BaseModel):
    """Base of the payloads: strict types for what is known, room for what is not."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")


class ModelPayload(Payload):
    """A training or inference event; the field names of seed 000."""

    modelId: Name | None = None
    eventType: Name | None = None
    timestamp: UnixMs | None = None
    batchId: Name | None = None
    epoch: int | None = None
    loss: float | str | None = None
    inferenceResult: dict[str, object] | None = None
    additionalParams: dict[str, object] | None = None


class SamplePayload(Payload):
    """A monitoring event; the field names of seed 000, null where this machine cannot know."""

    containerId: Name | None = None
    eventType: Name
    timestamp: UnixMs
    gpuUsage: float | None = Field(ge=0, le=100)
    memoryUsage: float | None = Field(ge=0, le=100)
    temperature: float | None = Field(ge=-100, le=300)
    gpus: list[dict[str, object]] | None = None


class AlertPayload(Payload):
    """A threshold was crossed; one event up, one down."""

    alert: Name
    subject: Name
    value: float | None
    limit: float | None


class StatusPayload(Payload):
    """Where an action stands."""

    # Not strict: a payload is checked after it was parsed, and its status is text then.
    status: Status = Field(strict=False)
    message: Text = ""


class CommandArgs(Payload):
    """What a command works on."""

    target_action_id: Uuid


class CommandPayload(Payload):
    """A command of a client."""

    command: Literal["cancel", "status", "results"]
    args: CommandArgs


class ReturnPayload(Payload):
    """What became of a command; 0 is success."""

    return_code: int = Field(ge=0, le=255)
    return_value: object = None
    message: Text = ""
    cmd_submit: dict[str, object] | None = None


class AuditPayload(Payload):
    """Who did what to a node, or was refused; the ADR on the audit log says what never stands here."""

    action: Name
    outcome: Name
    actor: Name | None = None
    role: Name | None = None
    object: Name | None = None
    count: int | None = Field(default=None, ge=1, lt=2**53)
    first_unix_ms: UnixMs | None = None
    last_unix_ms: UnixMs | None = None
    addresses_count: int | None = Field(default=None, ge=1, lt=2**53)


@dataclass(frozen=True, slots=True)
class KindRule:
    """What holds for all kinds with one prefix."""

    prefix: str
    topic: Topic
    payload: type[Payload]


KIND_RULES = (
    KindRule("telemetry.sample", Topic.BAI_SYS_EXECUTOR, SamplePayload),
    KindRule("alert.", Topic.BAI_SYS_EXECUTOR, AlertPayload),
    KindRule("node.", Topic.BAI_SYS_EXECUTOR, Payload),
    KindRule("stream.", Topic.BAI_SYS_EXECUTOR, Payload),
    KindRule("audit.", Topic.BAI_SYS_EXECUTOR, AuditPayload),
    KindRule("training.", Topic.BAI_APP_EXECUTOR, ModelPayload),
    KindRule("inference.", Topic.BAI_APP_EXECUTOR, ModelPayload),
    KindRule("allocation.", Topic.BAI_APP_BFF, Payload),
    KindRule("validation.", Topic.BAI_APP_BFF, Payload),
    KindRule("action.status", Topic.BAI_APP_STATUS, StatusPayload),
    KindRule("command.submit", Topic.CMD_SUBMIT, CommandPayload),
    KindRule("command.return", Topic.CMD_RETURN, ReturnPayload),
    KindRule("metrics.", Topic.BAI_METRICS, Payload),
)
# Everything a container may not say in its own name.
RESERVED_PREFIXES = (
    "telemetry.",
    "alert.",
    "node.",
    "stream.",
    "action.",
    "audit.",
    "command.",
    "allocation.",
    "validation.",
)
URGENT_TOPICS = frozenset({Topic.BAI_APP_STATUS, Topic.CMD_SUBMIT, Topic.CMD_RETURN})


def topic_of(kind: str) -> Topic:
    """Return where events of a kind go; an unknown kind is an application's own."""
    rule = _rule(kind)
    return rule.topic if rule else Topic.BAI_APP_EXECUTOR


def is_urgent(kind: str) -> bool:
    """Whether a checkpoint is signed at once for it: alerts, status and commands."""
    return kind.startswith("alert.") or topic_of(kind) in URGENT_TOPICS


def check_payload(kind: str, payload: Mapping[str, object]) -> None:
    """Check the fields a kind is known to have.

    Raises:
        RequestRejected: INVALID_FIELD naming the field as ``payload.<name>``.
    """
    if rule := _rule(kind):
        try:
            rule.payload.model_validate(payload)
        except ValidationError as err:
            refused = rejection_of(rule.payload, err)
            field = f"payload.{refused.field}" if refused.field else "payload"
            raise RequestRejected(refused.code, refused.message, hint=refused.hint, field=field) from err


def check_container_kind(kind: str) -> None:
    """Refuse kinds by which a container would speak for the agent or the node.

    Raises:
        RequestRejected: INVALID_FIELD, no kind at all; NOT_PERMITTED (403), a reserved one.
    """
    if not re.fullmatch(KIND_PATTERN, kind):
        raise RequestRejected(
            ErrorCode.INVALID_FIELD, f"{kind[:100]!r} is no kind", hint="for example training.epoch", field="kind"
        )
    if kind.startswith(RESERVED_PREFIXES):
        raise RequestRejected(
            ErrorCode.NOT_PERMITTED,
            f"a container may not emit {kind[:100]!r}",
            hint="training.*, inference.* or a name of your own",
            field="kind",
            status=403,
        )


def _rule(kind: str) -> KindRule | None:
    for rule in KIND_RULES:
        if kind == rule.prefix or (rule.prefix.endswith(".") and kind.startswith(rule.prefix)):
            return rule
    return None
