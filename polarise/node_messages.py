"""Answers that every daemon gives alike: a refusal, and what it says of its own health."""

from __future__ import annotations

from typing import Literal

from polarise.decode import WireModel
from polarise.errors import ErrorCode


class Refusal(WireModel):
    """The one shape of everything of 400 and above; what was refused changed nothing.

    Attributes:
        status: Always ``failure``.
        code: What a program can switch on.
        message: What was wrong, with the value that was found.
        hint: What the caller should do instead.
        field: Field of the body, name in the query or header that is meant; left out where none is.
    """

    status: Literal["failure"] = "failure"
    code: ErrorCode
    message: str
    hint: str
    field: str | None = None


class HealthAnswer(WireModel):
    """200 of GET /healthz."""

    status: Literal["success"] = "success"


class ReadyAnswer(WireModel):
    """GET /readyz: 200 with ``success``, 503 with ``failure`` and the cause of each check that does not pass."""

    status: Literal["success", "failure"] = "success"
    causes: dict[str, str]
