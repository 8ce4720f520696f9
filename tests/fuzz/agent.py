"""Targets: what containers say through their doors, what the miner asks of its agent, and what the agent answers."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from neurons.agent.control import Control
from neurons.agent.cosigned import Cosigned
from neurons.agent.doors import SOCKET_NAME as DOOR_NAME
from neurons.agent.doors import Doors
from neurons.agent.sampling import Sampling
from neurons.agent.streams import Streams
from neurons.base.agent_client import AgentClient
from neurons.base.agent_wire import ANSWER_BYTES_MAX, REQUEST_BYTES_MAX, SOCKET_NAME
from neurons.base.metrics import MetricsTracker
from neurons.base.unix_socket import connect, listen
from polarise.errors import RequestRejected, Unavailable
from polarise.line import MAX_LINE_BYTES
from polarise.signing import Purpose
from telemetry.sampler import Sampler
from telemetry.thresholds import Limits, Thresholds
from tests.fuzz.json_values import UUID, messages
from tests.fuzz.target import KIB, Call, Target
from tests.support.clock import ManualClock
from tests.unit.neurons.agent.agent_process import IDENTITY, LEASE, NODE_KEY, RENTER
from tlog.cosignatures import Cosignatures
from utils.gpu import GpuReading


class NoCards:
    """A machine without GPUs."""

    def read(self) -> tuple[GpuReading, ...]:
        return ()


@contextlib.contextmanager
def small_agent() -> Iterator[tuple[Doors, Control, Streams, Path]]:
    """The parts of an agent that listen, its logs and its folder; nothing runs by itself."""
    # The name is short: a socket's path has 107 bytes.
    with tempfile.TemporaryDirectory(prefix="pl-") as name:
        folder, clock = Path(name), ManualClock()
        with Streams(folder, NODE_KEY, IDENTITY.subkey(Purpose.LOG), clock) as streams:
            metrics = MetricsTracker()
            doors = Doors(folder / "events", streams, metrics)
            doors.prepare()
            streams.open(LEASE, RENTER, [])
            doors.open(LEASE)
            sampling = Sampling(streams, Sampler(NoCards()), Thresholds(Limits()), clock)
            with Cosignatures(folder / "cosignatures.sqlite") as kept:
                cosigned = Cosigned(streams, kept, clock)
                yield doors, Control(folder / "run", streams, cosigned, doors, sampling, metrics), streams, folder
                for stream in streams.open_leases():
                    doors.close(stream.lease_id)


@contextlib.contextmanager
def _door() -> Iterator[Call]:
    """A container's connection; the answer is the number of lines that are dealt with, or the door is shut."""
    with small_agent() as (doors, _control, _streams, _folder):
        stop = threading.Event()
        thread = threading.Thread(target=doors.run, args=(stop,), name="doors")
        thread.start()

        def call(raw: bytes) -> bytes:
            received = b""
            with connect(doors.folder_of(LEASE) / DOOR_NAME, 30) as connection, contextlib.suppress(ConnectionError):
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(4096):
                    received += piece
            assert thread.is_alive()
            return received

        try:
            yield call
        finally:
            stop.set()
            thread.join()


@contextlib.contextmanager
def _control() -> Iterator[Call]:
    with small_agent() as (_doors, control, _streams, _folder):

        def call(raw: bytes) -> object:
            answer = control.answer(raw)
            # What goes back must be readable on the other side.
            return type(answer).model_validate_json(answer.model_dump_json(), strict=True)

        yield call


@contextlib.contextmanager
def _client() -> Iterator[Call]:
    """An agent that answers every call with the same line."""
    with tempfile.TemporaryDirectory(prefix="pl-") as name:
        (Path(name) / "run").mkdir()
        listener = listen(Path(name) / "run" / SOCKET_NAME, 0o600)
        sent: list[bytes] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(sent[-1])

        thread = threading.Thread(target=serve, name="agent that lies", daemon=True)
        thread.start()

        def call(raw: bytes) -> object:
            sent[:] = [raw]
            return AgentClient(Path(name)).info("system")

        try:
            yield call
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join()


def _container_lines() -> list[bytes]:
    line = {"message_id": UUID, "kind": "training.epoch", "date": "1700000000000000000", "payload": {"epoch": 1}}
    return [json.dumps(line).encode() + b"\n", json.dumps({**line, "dropped": 3}).encode() + b"\n{}\n\n"]


def _calls() -> list[bytes]:
    events = [json.loads(raw) for raw in messages()]
    calls: list[dict[str, object]] = [
        {"op": "append", "stream": LEASE, "events": events},
        {"op": "open", "stream": LEASE, "renter_key": RENTER, "devices": []},
        {"op": "list"},
        {"op": "info", "stream": LEASE},
        {"op": "read", "stream": LEASE, "first": 0},
        {"op": "checkpoint", "stream": LEASE, "first": 0, "size": 0},
        {"op": "proof", "stream": LEASE, "first": 0},
        {"op": "watch", "stream": LEASE, "container_id": "0" * 64, "pid": 1},
        {"op": "metrics"},
    ]
    return [json.dumps(call).encode() + b"\n" for call in calls]


TARGETS = (
    Target(
        "neurons.agent.doors.Doors",
        _door,
        _container_lines,
        (),
        4 * MAX_LINE_BYTES,
        memory_base_bytes=1024 * KIB,
        weight=6,
    ),
    Target(
        "neurons.agent.control.Control.answer",
        _control,
        _calls,
        (),
        REQUEST_BYTES_MAX,
        memory_base_bytes=1024 * KIB,
        weight=6,
    ),
    Target(
        "neurons.base.agent_client.AgentClient",
        _client,
        lambda: [b'{"size":3,"lines":["a"]}\n'],
        (Unavailable, RequestRejected),
        ANSWER_BYTES_MAX,
        memory_base_bytes=1024 * KIB,
        weight=3,
    ),
)
