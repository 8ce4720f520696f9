"""What a route says of itself: what it takes, what it answers, how it refuses; the OpenAPI document is made of these.

Rules:
- One `Operation` per row of a daemon's access table, in a module beside the routes; a test compares the two.
- Only what is the route's own stands here. What any request can meet (no signature, a body that is too large, a defect)
  `openapi` adds, from the access table and from what the HTTP server does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel

from neurons.base.access import RouteAccess
from polarise.canonical import JsonValue
from polarise.errors import ErrorCode
from polarise.node_messages import HealthAnswer, ReadyAnswer

JSON = "application/json"
TEXT = "text/plain"
EVENTS = "text/event-stream"
HTML = "text/html"

Schema = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of the path, the query or the headers.

    Attributes:
        name: As it is sent.
        description: What it says, with what holds when it is left out.
        schema: JSON schema of its value.
        where: Where it stands; one of the path is always required.
        is_required: Whether it may be left out.
    """

    name: str
    description: str
    schema: Schema
    where: Literal["path", "query", "header"] = "query"
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer that is no refusal.

    Attributes:
        description: What it is.
        model: Of a JSON answer.
        media_type: Content type; None for an answer without a body.
        events: Of server-sent events: name -> model of the data, None where the data is no JSON.
        is_binary: Bytes that are no text.
        headers: Name -> description of those that say something.
        status: HTTP status.
    """

    description: str
    model: type[BaseModel] | None = None
    media_type: str | None = JSON
    events: Mapping[str, type[BaseModel] | None] = field(default_factory=dict)
    is_binary: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    Attributes:
        summary: One line.
        answer: What comes when it is not refused.
        description: What a caller has to know beyond the models.
        body: Model of a JSON body.
        text_body: Says what a body is that is no JSON.
        parameters: Of path, query and headers.
        other_answers: Further answers that are no refusals in the one error shape.
        refusals: HTTP status -> codes that are this route's own.
        example: A body that is accepted as it stands.
    """

    summary: str
    answer: Answer
    description: str = ""
    body: type[BaseModel] | None = None
    text_body: str = ""
    parameters: tuple[Parameter, ...] = ()
    other_answers: tuple[Answer, ...] = ()
    refusals: Mapping[int, tuple[ErrorCode, ...]] = field(default_factory=dict)
    example: Mapping[str, JsonValue] | None = None


Route = tuple[str, str]
OperationTable = Mapping[Route, Operation]

# What every daemon serves, and every daemon to everybody.
COMMON_ACCESS: Mapping[Route, RouteAccess] = {
    ("GET", "/healthz"): RouteAccess(is_public=True),
    ("GET", "/readyz"): RouteAccess(is_public=True),
    ("GET", "/openapi"): RouteAccess(is_public=True),
    ("GET", "/openapi/page"): RouteAccess(is_public=True),
}
COMMON_OPERATIONS: OperationTable = {
    ("GET", "/healthz"): Operation("Say that the process serves requests", Answer("It does", HealthAnswer)),
    ("GET", "/readyz"): Operation(
        "Say whether the node can do its work",
        Answer("It can", ReadyAnswer),
        other_answers=(
            Answer(
                "It cannot; `causes` names why", ReadyAnswer, status=503, headers={"Retry-After": "Seconds to wait"}
            ),
        ),
    ),
    ("GET", "/metrics"): Operation(
        "Return the counters", Answer("The text format of Prometheus, version 0.0.4", media_type=TEXT)
    ),
    ("GET", "/openapi"): Operation("Return this document", Answer("An OpenAPI 3.1 document")),
    ("GET", "/openapi/page"): Operation(
        "Show this document to people", Answer("A page that loads nothing and runs no script", media_type=HTML)
    ),
}


def number(name: str, description: str, least: int, most: int) -> Parameter:
    """Return an integer of the query, which may be left out."""
    return Parameter(name, description, {"type": "integer", "minimum": least, "maximum": most})


def text(name: str, description: str, pattern: str = "", *, is_required: bool = False) -> Parameter:
    """Return a text of the query."""
    schema: Schema = {"type": "string", "pattern": pattern} if pattern else {"type": "string"}
    return Parameter(name, description, schema, is_required=is_required)


def in_path(name: str, description: str, pattern: str) -> Parameter:
    """Return a variable of the path."""
    return Parameter(name, description, {"type": "string", "pattern": pattern}, where="path", is_required=True)
