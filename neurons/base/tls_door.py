"""What stands before the HTTP server where it speaks TLS: one connection from its first byte to the end of its handshake.

Rules:
- A connection is one of the bounded ones from the moment it is made, and makes room for others like a slow head does.
- The handshake has a deadline of its own, however its bytes drip. Nothing is set up for it before its first byte.
- Handshakes are counted per address (`rate_limits`); one too many is closed before it costs anything.
- What does not begin as TLS is told so in words, in the one error shape, and costs no handshake.
- The rest is asyncio's own TLS, which `asyncio.start_tls` uses, too; that function would lose the bytes looked at here.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from neurons.base.http_protocol import BoundedProtocol, Held, bounded_protocol, make_room
from neurons.base.rate_limits import RateLimits
from polarise.errors import ErrorCode

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

HANDSHAKE_SECONDS = 10.0
# How long a slow reader has to take the end of its answer.
SHUTDOWN_SECONDS = 30.0
# First byte of every TLS connection: a record of type handshake (RFC 8446, 5.1).
TLS_FIRST_BYTE = 0x16
LOOK_BYTES = 4096


class _Tls(SSLProtocol):
    # asyncio takes 256 KiB for each connection, and here strangers say how many there are; a record has 16.
    max_size = 32 * 1024
    _ssl_writing_paused: bool
    _transport: asyncio.Transport | None

    def _start_shutdown(self) -> None:
        """Close after the word of goodbye was sent (RFC 8446, 6.1), where asyncio waits for the other side's."""
        super()._start_shutdown()
        if self._transport is not None and not self._ssl_writing_paused:
            self._transport.close()


class TlsDoor(asyncio.BufferedProtocol):
    """One connection; behind it stands the protocol that sees the decrypted bytes.

    Args:
        server_state: The server's set of connections.
        behind: Makes that protocol.
        context: Returns the settings, asked when the first byte has come.
        handshake_seconds: Until the handshake is over.
        connections_max: Connections at once.
        limits: Counts handshakes per address.
    """

    def __init__(
        self,
        server_state: ServerState,
        behind: Callable[[], BoundedProtocol],
        context: Callable[[], ssl.SSLContext],
        handshake_seconds: float,
        connections_max: int,
        limits: RateLimits | None,
    ) -> None:
        self._limits = limits
        self._connections_max = connections_max
        self._connections = cast(set[Held], server_state.connections)
        self._behind = behind
        self._context = context
        self._handshake_seconds = handshake_seconds
        self._loop = asyncio.get_running_loop()
        self._looked = bytearray(LOOK_BYTES)
        self._tls: asyncio.BufferedProtocol | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport
        self.since = 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether it may be closed to make room; a handshake always may."""
        return True

    @property
    def is_closing(self) -> bool:
        """Whether it is about to end anyway."""
        return self.transport.is_closing()

    def drop(self) -> None:
        """Close at once."""
        self.transport.abort()

    def shutdown(self) -> None:
        """End because the server does; uvicorn calls it."""
        self.drop()

    def step_aside(self) -> None:
        """Leave the set: the handshake is over, and the connection is the protocol's behind it from now on."""
        self._connections.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, and wait for its first byte."""
        self.transport = cast(asyncio.Transport, transport)
        self.since = self._loop.time()
        self._connections.add(self)
        self._deadline = self._loop.call_later(self._handshake_seconds, self.drop)
        # A refusal in words would cost the handshake that there is no room for.
        if not make_room(self._connections, self, self._connections_max):
            self.drop()

    def get_buffer(self, sizehint: int) -> ReadableBuffer:
        """Say where the next bytes go."""
        return self._looked if self._tls is None else self._tls.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        """Look at the first byte, then hand everything on."""
        if self._tls is None:
            first, self._looked = bytes(self._looked[:nbytes]), bytearray()
            if first[0] != TLS_FIRST_BYTE:
                self._refuse()
                return
            if not self._is_admitted():
                self.drop()
                return
            self._tls = self._begin()
            memoryview(cast(bytearray, self._tls.get_buffer(nbytes)))[:nbytes] = first
        self._tls.buffer_updated(nbytes)

    def eof_received(self) -> bool | None:
        """The other side sends no more."""
        return None if self._tls is None else self._tls.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.step_aside()
        if self._tls is not None:
            self._tls.connection_lost(exc)

    def pause_writing(self) -> None:
        """The other side reads slowly."""
        if self._tls is not None:
            self._tls.pause_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._tls is not None:
            self._tls.resume_writing()

    def _is_admitted(self) -> bool:
        peer = self.transport.get_extra_info("peername")
        return self._limits is None or self._limits.admits_handshake(peer[0] if peer else None)

    def _begin(self) -> asyncio.BufferedProtocol:
        protocol = self._behind()
        protocol.door = self
        # Nobody waits for the handshake, so there is no future for it; the types ask for one.
        tls = cast(Any, _Tls)(
            self._loop,
            protocol,
            self._context(),
            None,
            server_side=True,
            ssl_handshake_timeout=self._handshake_seconds,
            ssl_shutdown_timeout=SHUTDOWN_SECONDS,
        )
        tls.connection_made(self.transport)
        return cast(asyncio.BufferedProtocol, tls)

    def _refuse(self) -> None:
        refusal = {
            "status": "failure",
            "code": ErrorCode.BAD_JSON,
            "message": "this port speaks TLS 1.3, and what came is none",
            "hint": "use https://",
        }
        body = json.dumps(refusal).encode()
        head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        self.transport.close()


def tls_protocol(
    connections_max: int,
    context: Callable[[], ssl.SSLContext],
    *,
    handshake_seconds: float,
    limits: RateLimits | None = None,
) -> Callable[..., TlsDoor]:
    """Return what makes the protocol of each connection of one server, as uvicorn calls it."""
    behind = bounded_protocol(connections_max)

    def make(config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: object) -> TlsDoor:
        return TlsDoor(
            server_state,
            lambda: behind(config=config, server_state=server_state, app_state=app_state),
            context,
            handshake_seconds,
            connections_max,
            limits,
        )

    return make
