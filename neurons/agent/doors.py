"""One socket per container, in a folder of its own that is mounted into it: which door is used decides who speaks.

Rules:
- What comes in is a line of the container's own: message_id, kind, date, payload and the count of dropped events.
  It cannot name another client, another stream or another topic, nor use the kinds the agent speaks in.
- The answer is the number of lines of this connection that are dealt with: on disk, or refused for good. A refused
  line is counted and acknowledged, so that it does not come again for ever.
- Bounded: connections per door, bytes per line, lines per second, bytes per stream.
One thread serves all doors: a round reads at most one batch of each connection and costs one disk flush per stream.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from neurons.agent.container_message import container_draft
from neurons.agent.streams import Streams
from neurons.base.event_log import BATCH_LINES_MAX
from neurons.base.metrics import MetricsTracker
from neurons.base.unix_socket import listen
from polarise import events
from polarise.errors import RequestRejected
from polarise.ingress import Draft, draft_of
from polarise.line import MAX_LINE_BYTES

logger = logging.getLogger(__name__)

SOCKET_NAME = "events.sock"
CLIENT_NAME = "events.py"
CONNECTIONS_MAX = 16
# A line costs about 60 us of the agent's CPU: a container may burst, and then has 3 % of a core.
BURST_LINES_MAX = 20_000
LINES_PER_SECOND_MAX = 500
STREAM_BYTES_MAX = 1024 * 1024 * 1024
POLL_SECONDS = 0.2
_READ_BYTES = 64 * 1024


@dataclass(slots=True)
class _Door:
    """A listening socket of one lease."""

    lease_id: str
    folder: Path
    listener: socket.socket
    connections: set[socket.socket] = field(default_factory=set)
    allowance_lines: float = BURST_LINES_MAX
    counted_at: float = field(default_factory=time.monotonic)

    def pause_seconds(self, lines_count: int) -> float:
        """Take lines off the allowance, which grows with time; return how long to listen no more when it is used up."""
        now = time.monotonic()
        grown = self.allowance_lines + (now - self.counted_at) * LINES_PER_SECOND_MAX
        self.allowance_lines, self.counted_at = min(grown, BURST_LINES_MAX) - lines_count, now
        return max(-self.allowance_lines / LINES_PER_SECOND_MAX, 0.0)


@dataclass(slots=True)
class _Visitor:
    """One connection of a container."""

    door: _Door
    connection: socket.socket
    unread: bytes = b""
    lines_count: int = 0
    dropped_told: int = 0
    paused_until: float = 0.0


class Doors:
    """Serves the sockets of all open lease streams.

    Args:
        folder: Holds one folder per lease; only this user may enter it.
        streams: Where the events go.
        metrics: Counters.
    """

    name = "doors"

    def __init__(self, folder: Path, streams: Streams, metrics: MetricsTracker) -> None:
        self._folder = folder
        self._streams = streams
        self._metrics = metrics
        self._selector = selectors.DefaultSelector()
        self._doors: dict[str, _Door] = {}
        self._lock = threading.Lock()
        self._paused: list[_Visitor] = []

    def folder_of(self, lease_id: str) -> Path:
        """Return the folder that is mounted into a lease's container."""
        return self._folder / lease_id

    def prepare(self) -> None:
        """Open the doors of the leases that go on, and remove what is left of others."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder.chmod(0o700)
        wanted = {stream.lease_id for stream in self._streams.open_leases()}
        for left in self._folder.iterdir():
            if left.name not in wanted:
                shutil.rmtree(left, ignore_errors=True)
        for lease_id in wanted:
            self.open(lease_id)

    def open(self, lease_id: str) -> Path:
        """Listen for a lease's container and return the folder to mount; a second call changes nothing."""
        with self._lock:
            if lease_id not in self._doors:
                folder = self.folder_of(lease_id)
                folder.mkdir(exist_ok=True)
                folder.chmod(0o755)
                # The client comes with its socket: no image has to carry it, and it fits this agent's version.
                client = folder / CLIENT_NAME
                client.write_bytes(Path(events.__file__).read_bytes())
                client.chmod(0o644)
                # Any user of the container may emit; users of the host cannot come through the folder above.
                listener = listen(folder / SOCKET_NAME, 0o666)
                listener.setblocking(False)
                door = self._doors[lease_id] = _Door(lease_id, folder, listener)
                self._selector.register(listener, selectors.EVENT_READ, door)
            return self._doors[lease_id].folder

    def close(self, lease_id: str) -> None:
        """Listen no more and remove the folder."""
        with self._lock:
            door = self._doors.pop(lease_id, None)
            if door is None:
                return
            self._selector.unregister(door.listener)
            door.listener.close()
            for connection in list(door.connections):
                self._hang_up(door, connection)
            shutil.rmtree(door.folder, ignore_errors=True)

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set."""
        try:
            while not stop.is_set():
                for key, _ in self._selector.select(self._wake_paused()):
                    with self._lock:
                        self._serve(key.data)
        finally:
            # After a failure the supervisor runs us again: containers connect anew and send what was not acknowledged.
            with self._lock:
                for door in self._doors.values():
                    for connection in list(door.connections):
                        self._hang_up(door, connection)

    def _serve(self, who: _Door | _Visitor) -> None:
        if isinstance(who, _Door):
            if self._doors.get(who.lease_id) is who:
                self._welcome(who)
        elif who.connection in who.door.connections:
            try:
                self._listen_to(who)
            except (OSError, RequestRejected) as err:
                # It went away, does not read its answers, or its lease ended at this moment.
                logger.debug("hung up", extra={"lease_id": who.door.lease_id, "cause": str(err)})
                self._hang_up(who.door, who.connection)

    def _welcome(self, door: _Door) -> None:
        try:
            connection, _ = door.listener.accept()
        except OSError:
            return
        if len(door.connections) >= CONNECTIONS_MAX:
            connection.close()
            return
        connection.setblocking(False)
        door.connections.add(connection)
        self._selector.register(connection, selectors.EVENT_READ, _Visitor(door, connection))

    def _listen_to(self, visitor: _Visitor) -> None:
        piece = visitor.connection.recv(_READ_BYTES)
        if not piece:
            self._hang_up(visitor.door, visitor.connection)
            return
        *lines, visitor.unread = (visitor.unread + piece).split(b"\n")
        if len(visitor.unread) > MAX_LINE_BYTES:
            logger.warning("a container sends without line feeds", extra={"lease_id": visitor.door.lease_id})
            self._hang_up(visitor.door, visitor.connection)
            return
        for start in range(0, len(lines), BATCH_LINES_MAX):
            self._store(visitor, lines[start : start + BATCH_LINES_MAX])
        if lines:
            visitor.lines_count += len(lines)
            # A container that does not read its few bytes of answers is hung up on by the error this raises.
            visitor.connection.sendall(b"%d\n" % visitor.lines_count)
            if pause := visitor.door.pause_seconds(len(lines)):
                self._pause(visitor, pause)

    def _store(self, visitor: _Visitor, lines: list[bytes]) -> None:
        lease_id = visitor.door.lease_id
        drafts = list(self._drafts(visitor, lines))
        if not drafts:
            return
        if self._streams.size_bytes(lease_id) >= STREAM_BYTES_MAX:
            self._refuse(lease_id, "the stream is full", len(drafts))
            return
        for result in self._streams.append(lease_id, drafts):
            if isinstance(result, RequestRejected):
                self._refuse(lease_id, str(result))
            else:
                self._metrics.count("polarise_events_received_total")

    def _drafts(self, visitor: _Visitor, lines: list[bytes]) -> Iterator[Draft]:
        for line in lines:
            try:
                draft, dropped = container_draft(line, visitor.door.lease_id)
            except RequestRejected as err:
                self._refuse(visitor.door.lease_id, str(err))
                continue
            yield draft
            if dropped > visitor.dropped_told:
                visitor.dropped_told = dropped
                yield draft_of({"kind": "stream.dropped", "payload": {"dropped_count": dropped}})

    def _refuse(self, lease_id: str, reason: str, count: int = 1) -> None:
        for _ in range(count):
            self._metrics.count("polarise_events_refused_total")
        logger.debug("event refused", extra={"lease_id": lease_id, "reason": reason})

    def _pause(self, visitor: _Visitor, seconds: float) -> None:
        visitor.paused_until = time.monotonic() + seconds
        self._selector.unregister(visitor.connection)
        self._paused.append(visitor)

    def _wake_paused(self) -> float:
        """Listen again to those whose pause is over; return how long until the next one's is."""
        with self._lock:
            now = time.monotonic()
            awake = [visitor for visitor in self._paused if visitor.paused_until <= now]
            self._paused = [visitor for visitor in self._paused if visitor.paused_until > now]
            for visitor in awake:
                if visitor.connection in visitor.door.connections:
                    self._selector.register(visitor.connection, selectors.EVENT_READ, visitor)
            return min([POLL_SECONDS, *(visitor.paused_until - now for visitor in self._paused)])

    def _hang_up(self, door: _Door, connection: socket.socket) -> None:
        door.connections.discard(connection)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection)
        connection.close()
