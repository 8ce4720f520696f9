"""Miners whose answers never end: a byte now and then keeps each read alive, and a deadline over all of it ends them."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from flask import Response

from neurons.base.access import Caller
from neurons.validator.wave import OPEN_SECONDS
from polarise.errors import DeadlineExceeded, RejectReason
from polarise.http_client import HttpClient
from tests.adversaries.cheat import Cheat, Outcome
from tests.adversaries.exam import SignedWork, new_challenge
from tests.adversaries.live import Stage, prove
from tests.adversaries.proofs import honest_work

PURE_SECONDS = 0.02
# How much longer than the slowest work a commitment is waited for.
SLACK_SECONDS = 0.8
BYTE_EVERY_SECONDS = 0.005
LIVE_BYTE_EVERY_SECONDS = 0.05
# A little longer than the validator waits.
DRIP_SECONDS = {"/challenge/start": 1.6, "/challenge/open": OPEN_SECONDS + 0.5}


@contextlib.contextmanager
def dripping_server() -> Iterator[int]:
    """Answer every connection with a head at once and a byte of the body every few milliseconds; yields the port."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_serve, args=(server, stop), name="drip")
        thread.start()
        port = int(server.getsockname()[1])
        try:
            yield port
        finally:
            stop.set()
            # Wakes the thread out of accept.
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join()


def _serve(server: socket.socket, stop: threading.Event) -> None:
    while not stop.is_set():
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not stop.wait(BYTE_EVERY_SECONDS):
                connection.sendall(b" ")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowDrip(Cheat):
    """A miner that holds the validator's time with an answer that never ends.

    Args:
        path: Which answer.
    """

    path: str

    def play_pure(self, rng: random.Random) -> Outcome:
        """Read one answer with the validator's HTTP client; a socket is the least that can drip."""
        with dripping_server() as port:
            client = HttpClient(f"http://127.0.0.1:{port}")
            try:
                client.request("POST", self.path, timeout_seconds=PURE_SECONDS)
            except DeadlineExceeded:
                return self.outcome(self.reasons[0])
        return Outcome(is_caught=False)

    def play_live(self, rng: random.Random, stage: Stage) -> Outcome:
        """Drip the commitment, or the openings after an honest one."""
        challenge = new_challenge(rng)

        def dripping(_caller: Caller, _body: bytes) -> Response:
            return Response(_drops(DRIP_SECONDS[self.path]), mimetype="application/json")

        with stage.answering(SignedWork(challenge, honest_work(challenge))) as miner:
            miner.views[self.path] = dripping
            run = prove(miner.client(), challenge, stage.wave, stage.engine, slack_seconds=SLACK_SECONDS)
        return self.outcome(run.verdict.reason)


def _drops(seconds: float) -> Iterator[bytes]:
    for _ in range(round(seconds / LIVE_BYTE_EVERY_SECONDS)):
        yield b" "
        time.sleep(LIVE_BYTE_EVERY_SECONDS)


CHEATS: tuple[Cheat, ...] = (
    SlowDrip(
        name="slow drip of the commitment",
        how="sends its commitment byte by byte, so that no single read runs out of time",
        reasons=(RejectReason.MISSING,),
        path="/challenge/start",
    ),
    SlowDrip(
        name="slow drip of the openings",
        how="sends its openings byte by byte, in time for each read and far beyond the two seconds",
        reasons=(RejectReason.OPENING_LATE,),
        path="/challenge/open",
    ),
)
