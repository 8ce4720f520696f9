"""The HTTP server of a daemon: in the daemon's own process, with bounded threads and a clean end.

Rules:
- The port is bound before any service starts, so a taken port is an exit status 2 and never a half-running node.
- A WSGI application (Flask) runs on threads behind uvicorn; `http_front` gives it complete requests only.
- Connections are bounded, and so is the time each may take for its TLS handshake (`tls_door`), to send a head
  (`http_protocol`) and a body (`http_front`).
- Stopping closes the listener, lets running requests finish for some seconds, then closes the rest. A request that is
  stuck keeps a daemon thread and nothing else: neither the next stop deadline nor the end of the process.
Decision and alternatives: docs/adr/0004-http-server.md and 0045-tls.md.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from a2wsgi import WSGIMiddleware

from config.schema import NetworkConfig
from neurons.base.http_front import Application, HttpFront
from neurons.base.http_protocol import CONNECTIONS_MAX, bounded_protocol
from neurons.base.process import open_files_max
from neurons.base.rate_limits import RateLimits
from neurons.base.threads import DaemonThreads
from neurons.base.tls import ServerTls
from neurons.base.tls_door import HANDSHAKE_SECONDS, tls_protocol
from polarise.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

logger = logging.getLogger(__name__)

GRACE_SECONDS = 5
# Accepted at once, too: so many connections may stand beyond the bound for a moment.
BACKLOG = 256
# Addresses that mean all of a host's own.
EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104  named, not listened on
# Files and sockets that are not connections of callers: databases, the engine, logs.
OTHER_FILES = 128


class HttpService:
    """Serves one WSGI application.

    Args:
        application: The Flask application.
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        threads: Requests served at once.
        max_body_bytes: Largest request body.
        idle_seconds: Idle connections end, and slow heads and bodies are refused, after this.
        connections_max: Connections at once, fewer where this process may not open so many files.
        limits: Counts requests per address; none are counted when it is left out.
        tls: Certificate and key; None serves plain HTTP.
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
        connections_max: int = CONNECTIONS_MAX,
        limits: RateLimits | None = None,
        tls: ServerTls | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._threads = threads
        self._max_body_bytes = max_body_bytes
        self._idle_seconds = idle_seconds
        self._connections_max = connections_max
        self._limits = limits
        self._application = application
        self._tls = tls
        self._socket: socket.socket | None = None

    @property
    def port(self) -> int:
        """The port that is bound; valid after `prepare`."""
        if self._socket is None:
            raise RuntimeError("the port is known after prepare()")
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Base URL of the address that is listened on; valid after `prepare`."""
        return base_url(self._host, self.port, is_tls=self._tls is not None)

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
        threads = DaemonThreads("http", self._threads)
        middleware = WSGIMiddleware(cast(Any, self._application), workers=self._threads)
        # Its own threads, not started yet, would be waited for when the process ends.
        middleware.executor = cast(Any, threads)
        front = HttpFront(
            cast(Application, middleware),
            max_body_bytes=self._max_body_bytes,
            body_seconds=self._idle_seconds,
            limits=self._limits,
        )
        server = uvicorn.Server(
            uvicorn.Config(
                app=front,
                http=cast(type[asyncio.Protocol], self._protocol()),
                log_config=None,
                access_log=False,
                server_header=False,
                # It would believe whatever anybody on loopback writes there; `rate_limits` reads it, from named proxies.
                proxy_headers=False,
                lifespan="off",
                ws="none",
                backlog=BACKLOG,
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
            threads.shutdown(wait=False)
        if stop.is_set():
            cast(socket.socket, self._socket).close()
            self._socket = None
        else:
            raise RuntimeError("the HTTP server ended by itself")

    def _protocol(self) -> object:
        if self._tls is None:
            return bounded_protocol(self._connections())
        handshake_seconds = min(HANDSHAKE_SECONDS, self._idle_seconds)
        return tls_protocol(
            self._connections(), self._tls.context, handshake_seconds=handshake_seconds, limits=self._limits
        )

    def _connections(self) -> int:
        return min(self._connections_max, max(1, open_files_max() - BACKLOG - OTHER_FILES))


def base_url(host: str, port: int, *, is_tls: bool) -> str:
    """Return the base URL of an API."""
    return f"{'https' if is_tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def reached_at(network: NetworkConfig, port: int) -> str:
    """Return the base URL at which others reach an API, unless its operator says another."""
    host = network.advertised_host if network.host in EVERYWHERE else network.host
    return base_url(host, port, is_tls=network.is_tls)


def _stop_when_set(stop: threading.Event, server: uvicorn.Server, front: HttpFront) -> None:
    stop.wait()
    front.end_streams()
    server.should_exit = True
