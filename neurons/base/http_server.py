"""The HTTP server of a daemon: in the daemon's own process, with bounded threads and a clean end.

Rules:
- The port is bound before any service starts, so a taken port is an exit status 2 and never a half-running node.
- A WSGI application (Flask) runs on threads behind uvicorn; `DISCONNECTED` in its environment tells a streaming
  response that the caller has gone.
- Stopping closes the listener, lets running requests finish for some seconds, then closes the rest.
Decision and alternatives: docs/adr/0004-http-server.md.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from a2wsgi import WSGIMiddleware

from polarise.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

logger = logging.getLogger(__name__)

DISCONNECTED = "polarise.disconnected"
GRACE_SECONDS = 5
BACKLOG = 512

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class HttpService:
    """Serves one WSGI application.

    Args:
        application: The Flask application.
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        threads: Requests served at once.
        keep_alive_seconds: Idle connections end after this.
    """

    name = "http"

    def __init__(
        self, application: WSGIApplication, host: str, port: int, *, threads: int, keep_alive_seconds: int
    ) -> None:
        self._host = host
        self._port = port
        self._threads = threads
        self._keep_alive_seconds = keep_alive_seconds
        self._application = application
        self._socket: socket.socket | None = None

    @property
    def port(self) -> int:
        """The port that is bound; valid after `prepare`."""
        if self._socket is None:
            raise RuntimeError("the port is known after prepare()")
        return int(self._socket.getsockname()[1])

    def prepare(self) -> None:
        """Bind the port.

        Raises:
            ConfigError: It is taken or not allowed.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self._port))
            # Only a listening socket keeps a second one off the port.
            listener.listen(BACKLOG)
        except OSError as err:
            listener.close()
            raise ConfigError(
                f"cannot listen on {self._host}:{self._port}: {err.strerror}",
                key_path="network.port",
                allowed=f"a free port; `ss -ltnp 'sport = :{self._port}'` shows who holds this one",
            ) from err
        self._socket = listener

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set."""
        if self._socket is None:
            self.prepare()
        # The supervisor may run us again after a failure; uvicorn closes the socket it was given, so it gets a copy.
        listener = cast(socket.socket, self._socket).dup()
        server = uvicorn.Server(
            uvicorn.Config(
                app=cast(Any, _TellDisconnect(WSGIMiddleware(cast(Any, self._application), workers=self._threads))),
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_keep_alive=self._keep_alive_seconds,
                timeout_graceful_shutdown=GRACE_SECONDS,
                h11_max_incomplete_event_size=32 * 1024,
            )
        )
        watcher = threading.Thread(target=_stop_when_set, args=(stop, server), name="http-stop", daemon=True)
        watcher.start()
        try:
            asyncio.run(server.serve(sockets=[listener]))
        finally:
            listener.close()
        if stop.is_set():
            cast(socket.socket, self._socket).close()
            self._socket = None
        else:
            raise RuntimeError("the HTTP server ended by itself")


def _stop_when_set(stop: threading.Event, server: uvicorn.Server) -> None:
    stop.wait()
    server.should_exit = True


class _TellDisconnect:
    """ASGI shim: once the body is read, watch for the end of the connection and set an event the response can ask."""

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self._application = application

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        gone = threading.Event()
        scope[DISCONNECTED] = gone
        watchers: list[asyncio.Task[None]] = []

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        async def receive_and_watch() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                gone.set()
            elif not message.get("more_body", False) and not watchers:
                watchers.append(asyncio.ensure_future(watch()))
            return message

        if _has_no_body(scope["headers"]):
            watchers.append(asyncio.ensure_future(watch()))
        try:
            await self._application(scope, receive_and_watch, send)
        finally:
            # Also when the server ends with the response open: the thread that streams asks this event.
            gone.set()
            for watcher in watchers:
                watcher.cancel()


def _has_no_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    names = {name.lower(): value for name, value in headers}
    return names.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in names
