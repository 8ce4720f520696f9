"""The HTTP server of a daemon: in the daemon's own process, with bounded threads and a clean end.

Rules:
- The port is bound before any service starts, so a taken port is an exit status 2 and never a half-running node.
- A WSGI application (Flask) runs on threads behind uvicorn; `http_front` gives it complete requests only.
- Stopping closes the listener, lets running requests finish for some seconds, then closes the rest.
Decision and alternatives: docs/adr/0004-http-server.md.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from a2wsgi import WSGIMiddleware

from neurons.base.http_front import Application, HttpFront
from polarise.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

logger = logging.getLogger(__name__)

GRACE_SECONDS = 5
BACKLOG = 512


class HttpService:
    """Serves one WSGI application.

    Args:
        application: The Flask application.
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        threads: Requests served at once.
        max_body_bytes: Largest request body.
        idle_seconds: Idle connections end, and slow bodies are refused, after this.
    """

    name = "http"

    def __init__(
        self,
        application: WSGIApplication,
        host: str,
        port: int,
        *,
        threads: int,
        max_body_bytes: int,
        idle_seconds: int,
    ) -> None:
        self._host = host
        self._port = port
        self._threads = threads
        self._max_body_bytes = max_body_bytes
        self._idle_seconds = idle_seconds
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
        # With the protocol spelt out asyncio sets TCP_NODELAY; without, each answer on a kept connection takes 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
        front = HttpFront(
            cast(Application, WSGIMiddleware(cast(Any, self._application), workers=self._threads)),
            max_body_bytes=self._max_body_bytes,
            body_seconds=self._idle_seconds,
        )
        server = uvicorn.Server(
            uvicorn.Config(
                app=front,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_keep_alive=self._idle_seconds,
                timeout_graceful_shutdown=GRACE_SECONDS,
                h11_max_incomplete_event_size=32 * 1024,
            )
        )
        watcher = threading.Thread(target=_stop_when_set, args=(stop, server, front), name="http-stop", daemon=True)
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


def _stop_when_set(stop: threading.Event, server: uvicorn.Server, front: HttpFront) -> None:
    stop.wait()
    front.end_streams()
    server.should_exit = True
