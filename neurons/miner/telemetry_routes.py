"""The miner's event routes: the agent's lines and checkpoints, to whoever may see them.

Rules:
- The system stream is for validators, auditors and the owner; a lease's lines are for its renter and the owner; the
  audit log's are for the owner alone.
  Checkpoints of every stream are for everybody who may call at all: they show that a log holds, and nothing of it.
- A checkpoint comes with what validators cosigned of it; ``witnesses`` asks for one that enough of them did.
- Lines and notes pass through as bytes: nothing here could change one unnoticed.
- ``from`` acknowledges everything before it. A stream goes on where the reader says, also after a restart.
"""

from __future__ import annotations

import re
import threading
import time

from flask import Response, request

from neurons.base.access import Caller, Role, RouteAccess, Scope
from neurons.base.agent_client import AgentClient
from neurons.base.agent_wire import Answer
from neurons.base.http_app import HttpApp, decode_body
from polarise.canonical import canonical_bytes
from polarise.cosignature import MOST, WITNESSES_PATTERN, CosignatureRequest
from polarise.decode import WireModel
from polarise.errors import ErrorCode, RequestRejected, Unavailable
from polarise.log_epoch import LogEpochsAnswer
from polarise.messages import SuccessAnswer
from polarise.signing import Certificate
from polarise.sse import HEARTBEAT, MEDIA_TYPE, Frame
from polarise.stream import AUDIT, SYSTEM, is_system
from polarise.telemetry_client import STREAM_ID_PATTERN, CheckpointAnswer, EventsAnswer

# Under the second that a stream may wait before it looks whether its reader is still there.
POLL_SECONDS = 0.8
HEARTBEAT_SECONDS = 10.0
# An agent that restarts is waited for; one that stays away ends the stream, and the reader comes again.
AGENT_AWAY_SECONDS = 15.0

_READERS = {Role.OWNER: Scope.ANY, Role.VALIDATOR: Scope.OWN, Role.AUDITOR: Scope.OWN, Role.RENTER: Scope.OWN}
TELEMETRY_ACCESS: dict[tuple[str, str], RouteAccess] = {
    ("GET", "/telemetry/stream"): RouteAccess(_READERS),
    ("GET", "/streams/<stream_id>/events"): RouteAccess(_READERS),
    ("GET", "/streams/<stream_id>/proof"): RouteAccess(_READERS),
    ("GET", "/streams/<stream_id>/checkpoint"): RouteAccess(_READERS),
    ("GET", "/streams/system/epochs"): RouteAccess(_READERS),
    ("POST", "/streams/<stream_id>/cosignature"): RouteAccess({Role.VALIDATOR: Scope.OWN}, needs_signature=True),
}


class TelemetryRoutes:
    """The routes of one miner's events.

    Args:
        agent: The agent of this node.
    """

    def __init__(self, agent: AgentClient) -> None:
        self._agent = agent

    def register(self, app: HttpApp) -> None:
        """Add every route to the application."""
        self._app = app
        app.route("GET", "/telemetry/stream", self.stream)
        app.route("GET", "/streams/<stream_id>/events", self.events)
        app.route("GET", "/streams/<stream_id>/proof", self.proof)
        app.route("GET", "/streams/<stream_id>/checkpoint", self.checkpoint)
        app.route("GET", "/streams/system/epochs", self.epochs)
        app.route("POST", "/streams/<stream_id>/cosignature", self.cosignature)

    def stream(self, caller: Caller, _body: bytes) -> Response:
        """Stream lines with the checkpoints that cover them; ``follow=0`` ends at the newest one."""
        stream_id = request.args.get("stream", SYSTEM)
        self._check_reader(caller, stream_id)
        first, follow = _number("from", 0), request.args.get("follow", "1") != "0"
        return self._app.stream(lambda gone: EventFeed(self._agent, stream_id, first, follow, gone), MEDIA_TYPE)

    def events(self, caller: Caller, _body: bytes, stream_id: str) -> WireModel:
        """Return one page of lines."""
        self._check_reader(caller, stream_id)
        page = self._agent.read(stream_id, _number("from", 0))
        return EventsAnswer(
            certificate=_certificate(page),
            first=page.first,
            frontier=page.frontier,
            lines=page.lines,
            checkpoint=page.note,
        )

    def proof(self, caller: Caller, _body: bytes, stream_id: str) -> Response:
        """Return one line's proof as a file that `polarise verify` reads."""
        self._check_reader(caller, stream_id)
        proof = self._agent.proof(stream_id, _number("seq", 0), witnesses=_witnesses())
        return Response(proof, mimetype="text/plain")

    def checkpoint(self, _caller: Caller, _body: bytes, stream_id: str) -> WireModel:
        """Return the newest checkpoint, or the newest that ``witnesses=`` cosigned.

        ``old=`` asks for the proof from that size to it, or to ``size=``.
        """
        _check_id(stream_id)
        old_size, size = (_number(name, 0) if name in request.args else None for name in ("old", "size"))
        answer = self._agent.checkpoint(stream_id, old_size, size, witnesses=_witnesses())
        return CheckpointAnswer(
            certificate=_certificate(answer), checkpoint=answer.note, consistency=answer.consistency
        )

    def epochs(self, _caller: Caller, _body: bytes) -> WireModel:
        """Return what this node signed each time its own stream began anew."""
        return LogEpochsAnswer(epochs=self._agent.epochs().epochs)

    def cosignature(self, caller: Caller, body: bytes, stream_id: str) -> WireModel:
        """Take what a validator cosigned."""
        _check_id(stream_id)
        self._agent.cosign(stream_id, caller.key, decode_body(CosignatureRequest, body))
        return SuccessAnswer()

    def _check_reader(self, caller: Caller, stream_id: str) -> None:
        _check_id(stream_id)
        if caller.scope is Scope.ANY:
            return
        if is_system(stream_id):
            may_read = caller.role in {Role.VALIDATOR, Role.AUDITOR}
        elif stream_id == AUDIT:
            may_read = False
        else:
            may_read = self._agent.info(stream_id).renter_key == caller.key
        if not may_read:
            raise RequestRejected(
                ErrorCode.NOT_PERMITTED,
                "the lines of this stream are not for you",
                hint="GET /streams/{id}/checkpoint shows its checkpoints",
                status=403,
            )


class EventFeed:
    """One open stream, which ends with its lease; see `neurons.base.http_app.ChunkSource`.

    Args:
        agent: Where the lines come from.
        stream_id: Which stream.
        first: Sequence number to begin with.
        follow: Go on when the end is reached.
        gone: Set when nobody listens any more.
    """

    def __init__(self, agent: AgentClient, stream_id: str, first: int, follow: bool, gone: threading.Event) -> None:
        self._agent = agent
        self._stream_id = stream_id
        self._next = first
        self._follow = follow
        self._gone = gone
        self._told = self._reached = time.monotonic()
        # Refusals leave as an HTTP status, so the first page is read before the stream begins.
        page = agent.read(stream_id, first)
        self._beginning = [
            Frame("certificate", canonical_bytes(_certificate(page).to_wire())),
            *([Frame("checkpoint", page.note_at_first.encode())] if page.note_at_first else []),
        ]

    def next_chunk(self) -> bytes | None:
        """Return the next batch with its checkpoint, b"" when there is none yet, None at the end."""
        beginning, self._beginning = self._beginning, []
        if beginning:
            return b"".join(frame.encode() for frame in beginning)
        try:
            page = self._agent.read(self._stream_id, self._next, POLL_SECONDS if self._follow else 0.0)
            self._reached = time.monotonic()
        except Unavailable:
            return self._agent_is_away()
        if page.note is None:
            return self._pulse() if self._follow and page.is_open else None
        frames = [Frame("line", line.encode(), str(self._next + index)) for index, line in enumerate(page.lines)]
        self._next += len(page.lines)
        self._told = time.monotonic()
        return b"".join(frame.encode() for frame in [*frames, Frame("checkpoint", page.note.encode())])

    def close(self) -> None:
        """Nothing is held between two calls."""

    def _agent_is_away(self) -> bytes | None:
        if not self._follow or time.monotonic() - self._reached > AGENT_AWAY_SECONDS:
            return None
        self._gone.wait(POLL_SECONDS)
        return self._pulse()

    def _pulse(self) -> bytes:
        if time.monotonic() - self._told < HEARTBEAT_SECONDS:
            return b""
        self._told = time.monotonic()
        return HEARTBEAT


def _certificate(answer: Answer) -> Certificate:
    if answer.certificate is None:
        raise Unavailable("the agent sent no certificate; do miner and agent run the same version?")
    return answer.certificate


def _check_id(stream_id: str) -> None:
    if not re.fullmatch(STREAM_ID_PATTERN, stream_id):
        raise RequestRejected(
            ErrorCode.NOT_FOUND,
            f"there is no stream {stream_id[:64]!r} here",
            hint="system, audit, or a lease's id",
            field="stream",
            status=404,
        )


def _witnesses() -> str:
    text = request.args.get("witnesses", "0")
    if not re.fullmatch(WITNESSES_PATTERN, text):
        raise RequestRejected(
            ErrorCode.INVALID_FIELD,
            f"{text[:40]!r} is no number of witnesses",
            hint=f"0 to 99, or {MOST}",
            field="witnesses",
        )
    return text


def _number(name: str, default: int) -> int:
    text = request.args.get(name, str(default))
    if not re.fullmatch(r"\d{1,15}", text):
        raise RequestRejected(ErrorCode.INVALID_FIELD, f"{text[:40]!r} is no line number", hint="0 or more", field=name)
    return int(text)
