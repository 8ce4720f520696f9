"""One connection of the HTTP server: a deadline for the head of each request, a bound on how many there are.

Rules:
- A head must be complete so long after the connection was made, or after the answer before it; bytes that drip do not
  move that end. Half a head is answered 408, silence is closed without a word.
- Beyond the bound the connection that has kept us waiting longest for a whole request, head and body, makes room; when
  every other one is at work, the new one is answered 503.
- An answer whose reader takes less than 48 KiB of it in that time is cut off. One that was closed and is not read to its
  end makes room before anybody else does.
- What is no HTTP is answered in the one error shape.
Why not uvicorn's own: it times out only kept connections, and its ``limit_concurrency`` counts half-sent heads, so that
whoever holds enough of them has everybody else refused.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from polarise.errors import ErrorCode

if TYPE_CHECKING:
    from neurons.base.tls_door import TlsDoor

CONNECTIONS_MAX = 512
# Bytes of answers that wait for a slow reader.
UNTAKEN_BYTES = 64 * 1024


class Held(Protocol):
    """A connection as the bound sees it: an HTTP one, or one in its TLS handshake."""

    since: float

    @property
    def is_waiting(self) -> bool:
        """Whether it may be closed to make room."""

    @property
    def is_closing(self) -> bool:
        """Whether it is about to end anyway."""

    def drop(self) -> None:
        """Close at once."""


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol over h11 with these bounds; `connections_max` is set on a subclass, see `bounded_protocol`."""

    connections_max = CONNECTIONS_MAX
    _unread_timer: asyncio.TimerHandle | None = None
    # Where the connection speaks TLS: what let it in.
    door: TlsDoor | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Take the connection, and begin to wait for a head."""
        # uvicorn's set has no order, but every connection has its place on the clock.
        self.since = self.loop.time()
        if self.door is not None:
            self.door.step_aside()
            self.since = self.door.since
            # As without TLS, where asyncio's own bound is so much; with it, eight times.
            transport.set_write_buffer_limits(UNTAKEN_BYTES)
        super().connection_made(transport)
        if not make_room(cast(set[Held], self.connections), self, self.connections_max):
            self._refuse(503, ErrorCode.UNAVAILABLE, "this node has too many connections", "try again later")
            return
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Go on reading; only a complete head ends the wait for it."""
        if self.transport.is_closing():
            return
        # uvicorn's own method ends the wait at any byte. A complete head ends it in `handle_events`.
        self.conn.receive_data(data)
        self.handle_events()

    def on_response_complete(self) -> None:
        """Begin to wait for the next head; uvicorn's keep-alive timer is that wait."""
        self.since = self.loop.time()
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """End a connection whose head did not come."""
        if self.conn.trailing_data[0] and not self.transport.is_closing():
            seconds = self.config.timeout_keep_alive
            self._refuse(408, ErrorCode.BODY_TOO_SLOW, f"the head was not complete after {seconds} s", "send it faster")
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(400, ErrorCode.BAD_JSON, msg.rstrip("."), "send a request as RFC 9112 writes it")

    def pause_writing(self) -> None:
        """Give a reader that lags behind a deadline; asyncio calls it at 64 KiB that nobody takes."""
        super().pause_writing()
        self._unread_timer = self.loop.call_later(self.config.timeout_keep_alive, self.transport.abort)

    def resume_writing(self) -> None:
        """Take the deadline back; asyncio calls it when all but 16 KiB are taken."""
        self._keep_unread()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the connection."""
        self._keep_unread()
        super().connection_lost(exc)

    @property
    def is_waiting(self) -> bool:
        """Whether no whole request of this connection is at work."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body

    @property
    def is_closing(self) -> bool:
        """Whether it is about to end anyway."""
        return self.transport.is_closing()

    def drop(self) -> None:
        """Close at once."""
        self.transport.abort()

    def _wait_for_head(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.config.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _keep_unread(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _refuse(self, status: int, code: ErrorCode, message: str, hint: str) -> None:
        body = json.dumps({"status": "failure", "code": code, "message": message, "hint": hint}).encode()
        headers: list[tuple[bytes, bytes]] = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if status == 503:
            headers.append((b"retry-after", b"5"))
        events: tuple[Any, ...] = (
            h11.Response(status_code=status, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        try:
            # In one piece: what a caller still drips resets the connection, and with it what is not read yet.
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        except h11.LocalProtocolError:
            # An answer is on its way already; nothing can be put into its middle.
            self.transport.abort()
        else:
            self.transport.close()


def make_room(connections: Collection[Held], newcomer: Held, connections_max: int) -> bool:
    """Let a new connection in within the bound: at the cost of the one that has waited longest, if need be.

    Args:
        connections: All of one server, the new one included.
        newcomer: The new one.
        connections_max: The bound.

    Returns:
        False when there is no room: every other one is at work.
    """
    if len(connections) <= connections_max:
        return True
    waiting = [other for other in connections if other is not newcomer and (other.is_waiting or other.is_closing)]
    if not waiting:
        return False
    min(waiting, key=lambda other: (not other.is_closing, other.since)).drop()
    return True


def bounded_protocol(connections_max: int) -> type[BoundedProtocol]:
    """Return the protocol class of one server."""
    return type("BoundedProtocol", (BoundedProtocol,), {"connections_max": connections_max})
