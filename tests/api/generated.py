"""Requests that schemathesis makes from a document, sent as somebody, and their answers held against the document.

Rules:
- An answer has a status, a content type, headers and a body that the document announces for this route; 500 is none.
- A caller whom the daemon cannot name, or whose role has no right there, gets no answer of a route that is not public.
- A body or a parameter that breaks the document is refused.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import requests
import schemathesis
from schemathesis import Case
from schemathesis.checks import CheckFunction
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from neurons.base.access import RouteAccess
from neurons.base.operation import EVENTS
from tests.api.daemons import Caller, Daemon

AnyOperation = APIOperation[Any, Any, Any, Any]
AnyCase = Case[Any]
CHECKED: list[CheckFunction] = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ANSWER_SECONDS = 60
# A stream is read for as long as something comes, and so many bytes.
SILENCE_SECONDS = 0.5
STREAM_BYTES_MAX = 4096
# What the server says before it looks at who asks, and a variable of the path that leads past the route.
BEFORE_ANYBODY = {400, 404, 405, 408, 411, 413}
REFUSED = range(400, 500)


@dataclass(frozen=True)
class Exchange:
    """One request and its answer."""

    caller: Caller
    case: AnyCase
    answer: requests.Response

    def __str__(self) -> str:
        request, answer = self.answer.request, self.answer
        return (
            f"{self.caller.name}: {request.method} {request.url} {str(request.body)[:300]!r} -> "
            f"{answer.status_code} {answer.text[:300]!r}"
        )


def operations_of(document: dict[str, Any]) -> dict[tuple[str, str], AnyOperation]:
    """Return what schemathesis makes of a document: (method, path) -> operation."""
    schema = schemathesis.openapi.from_dict(document)
    # Who asks is our business: `daemons.Caller`.
    schema.config.generation.with_security_parameters = False
    found = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    return {(operation.method.upper(), operation.path): operation for operation in found}


def is_stream(operation: AnyOperation) -> bool:
    """Whether answers of a route come as events."""
    return EVENTS in str(operation.definition.raw["responses"]["200"])


def send(case: AnyCase, caller: Caller, daemon: Daemon) -> Exchange:
    """Send one request as a caller, and read what of the answer comes without waiting."""
    answer = requests.request(
        **case.as_transport_kwargs(base_url=daemon.url),
        auth=caller.auth,
        stream=True,
        timeout=ANSWER_SECONDS,
        allow_redirects=False,
    )
    with answer:
        answer._content = _read(answer)
    return Exchange(caller, case, answer)


def check(exchange: Exchange, access: RouteAccess, *, is_negative: bool) -> None:
    """Hold one answer against the document and against the access table.

    Args:
        exchange: What was asked and answered.
        access: Rights on the route.
        is_negative: The request breaks the document somewhere.

    Raises:
        AssertionError: It breaks one of the rules on top.
    """
    status = exchange.answer.status_code
    assert status != 500, exchange
    exchange.case.validate_response(exchange.answer, checks=CHECKED)
    if expected := expected_refusal(exchange.caller, access):
        assert status == expected or status in BEFORE_ANYBODY, exchange
    if is_negative:
        assert status in REFUSED or status == 503 or _is_lax(exchange), exchange


def expected_refusal(caller: Caller, access: RouteAccess) -> int | None:
    """Return the status with which a route must refuse a caller; None where it may come in."""
    if access.is_public:
        return None
    if not caller.is_named or (caller.has_token and access.needs_signature):
        return 401
    return None if caller.role in access.scopes else 403


def _is_lax(exchange: Exchange) -> bool:
    """Whether schemathesis itself sees nothing to refuse: it counts what the document leaves open, too."""
    exchange.case.validate_response(exchange.answer, checks=[negative_data_rejection])
    return True


def _read(answer: requests.Response) -> bytes:
    if "Content-Length" in answer.headers:
        return bytes(answer.raw.read())
    connection = getattr(answer.raw, "connection", None)
    if connection is not None and connection.sock is not None:
        connection.sock.settimeout(SILENCE_SECONDS)
    got = b""
    with contextlib.suppress(requests.RequestException, OSError):
        for piece in answer.iter_content(STREAM_BYTES_MAX):
            got += piece
            if len(got) >= STREAM_BYTES_MAX:
                break
    # An event that was cut off in its middle is none.
    return got[: got.rfind(b"\n\n") + 2] if EVENTS in answer.headers.get("Content-Type", "") else got
