"""A real ledger daemon behind a door that changes its answers: what an operator could do to one reader."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from polarise.canonical import JsonValue
from polarise.http_client import HttpClient

Answer = dict[str, JsonValue]
# Takes the query and the honest answer, and returns what is shown instead.
Lie = Callable[[dict[str, str], Answer], Answer]


@dataclass
class LyingDoor:
    """Hands requests on to the daemon, and lies where it is told to.

    Attributes:
        url: The daemon.
        lies: Route -> lie.
        door: Where it listens, once it runs.
    """

    url: str
    lies: dict[str, Lie] = field(default_factory=dict)
    door: str = ""

    def ask(self, target: str) -> Answer:
        """Return the daemon's own answer."""
        answer: Answer = json.loads(HttpClient(self.url).request("GET", target).body)
        return answer

    def hand_in(self, target: str, body: bytes) -> tuple[int, bytes]:
        """Hand a transaction on as it came."""
        response = HttpClient(self.url).request("POST", target, headers={"Content-Type": "application/json"}, body=body)
        return response.status, response.body

    def answer(self, target: str) -> tuple[int, bytes]:
        response = HttpClient(self.url).request("GET", target)
        parts = urlsplit(target)
        lie = self.lies.get(parts.path)
        if lie is None or response.status >= 400:
            return response.status, response.body
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        return 200, json.dumps(lie(query, json.loads(response.body))).encode()

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Listen until the block ends; yields the URL."""
        door = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(*door.answer(self.path))

            def do_POST(self) -> None:
                self._send(*door.hand_in(self.path, self.rfile.read(int(self.headers["Content-Length"]))))

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.door = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self.door
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
