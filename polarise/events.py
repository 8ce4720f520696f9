#!/usr/bin/env python3
"""Tell what a program in a container does: ``emit("training.epoch", {"epoch": 1, "loss": 0.3})``.

One file, the standard library only, Python 3.8 and later, also where Debian's python3-minimal has no ``json`` module.

Rules:
- `emit` never raises and never waits: it encodes the event and appends it to a bounded queue; a thread of its own sends.
- The agent acknowledges what is on its disk. Events without an acknowledgement are sent again after a reconnect; the
  agent knows them by their ``message_id`` and keeps each once.
- When the queue is full the oldest event is dropped; how many were is told with the next event that is sent.
- The socket decides who speaks: nothing in an event names the container.

From a shell: ``python3 events.py emit training.epoch '{"loss": 0.1}'``. The agent checks the payload.
Wire: one JSON object per line there, one decimal number per line back: lines of this connection handled so far.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import os
import select
import socket
import sys
import threading
import time

try:
    import json

    # Made once: json.dumps makes a new encoder for every call that has settings.
    _dumps = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
except ImportError:  # python3-minimal
    json = None  # type: ignore[assignment]

# The public API names only what runs on every Python this file supports.
__all__ = ["Emitter", "emit", "flush"]

SOCKET_VARIABLE = "POLARISE_EVENTS_SOCKET"
DEFAULT_SOCKET = "/run/polarise/events.sock"
QUEUE_EVENTS_MAX = 20000
# Sent and not yet acknowledged; also what one reconnect sends again at once.
WINDOW_EVENTS = 256
# The agent takes lines of 16 KiB, envelope included.
EVENT_CHARACTERS_MAX = 12 * 1024
KINDS_MAX = 64
DEPTH_MAX = 16
RETRY_SECONDS_MIN = 0.05
RETRY_SECONDS_MAX = 2.0
EXIT_FLUSH_SECONDS = 2.0
SAFE_INTEGER = 2**53 - 1


class Emitter:
    """A queue and the thread that empties it into the agent's socket.

    Args:
        path: The agent's socket; the environment's or the default one when left out.
        queue_events_max: Events kept while the agent is away.
    """

    def __init__(self, path: str | None = None, queue_events_max: int = QUEUE_EVENTS_MAX) -> None:
        self.path = path or os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET
        self.queue_events_max = queue_events_max
        self._start_afresh()
        if hasattr(os, "register_at_fork"):
            # A forked child has the queue but not the thread; what was queued belongs to the parent.
            os.register_at_fork(after_in_child=self._start_afresh)

    def emit(self, kind: str, payload: object = None) -> bool:
        """Queue one event; False when it cannot be encoded or is too large, never an exception.

        Args:
            kind: Dotted name, for example ``training.epoch``.
            payload: A dictionary of plain values; NaN and infinities become text.
        """
        try:
            return self._queue_line(str(kind), encode({} if payload is None else payload))
        except Exception:  # noqa: BLE001  training code must never fail for its telemetry
            self.refused_count += 1
            return False

    def emit_text(self, kind: str, text: str) -> bool:
        """Queue one event whose payload is JSON text already; only the agent looks into it."""
        try:
            return self._queue_line(str(kind), " ".join(text.split("\n")))
        except Exception:  # noqa: BLE001  as in emit
            self.refused_count += 1
            return False

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything emitted so far is on the agent's disk; False when it is not in time."""
        deadline = time.monotonic() + timeout
        target = self._queued_count
        while self._settled_count < target:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.002)
        return True

    @property
    def dropped_count(self) -> int:
        """Events the full queue pushed out."""
        return self._dropped_count

    def _start_afresh(self) -> None:
        # Re-entrant, because a signal handler may emit while this thread is emitting.
        self._lock = threading.RLock()
        self._quoted_kinds: dict[str, str] = {}
        self._waiting: collections.deque[tuple[str, str]] = collections.deque()
        self._sent: collections.deque[tuple[str, str, int]] = collections.deque()
        self._queued_count = 0
        self._settled_count = 0  # acknowledged or dropped
        self._dropped_count = 0
        self._dropped_told = 0
        self.refused_count = 0
        self._thread: threading.Thread | None = None
        self._is_asleep = False
        self._wake_read = self._wake_write = -1

    def _queue_line(self, kind: str, payload_text: str) -> bool:
        if kind not in self._quoted_kinds:
            if len(self._quoted_kinds) >= KINDS_MAX:
                self._quoted_kinds.clear()
            self._quoted_kinds[kind] = _quoted(kind)
        head = f'{{"message_id":"{_uuid4()}","kind":{self._quoted_kinds[kind]},"date":"{time.time_ns()}"'
        # As text: the other thread turns it into bytes.
        entry = (head, payload_text)
        if len(head) + len(payload_text) > EVENT_CHARACTERS_MAX:
            self.refused_count += 1
            return False
        with self._lock:
            self._waiting.append(entry)
            self._queued_count += 1
            if len(self._waiting) > self.queue_events_max:
                self._waiting.popleft()
                self._dropped_count += 1
                self._settled_count += 1
            if self._thread is None:
                self._start_thread()
        if self._is_asleep:
            self._is_asleep = False
            with contextlib.suppress(OSError):
                os.write(self._wake_write, b"!")
        return True

    def _start_thread(self) -> None:
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._thread = threading.Thread(target=self._run, name="polarise-events", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        retry_seconds = RETRY_SECONDS_MIN
        while True:
            try:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                with connection:
                    connection.settimeout(5.0)
                    connection.connect(self.path)
                    retry_seconds = RETRY_SECONDS_MIN
                    self._serve(connection)
            except Exception:  # noqa: BLE001, S110  whatever it was, the next connection is the answer
                pass
            with self._lock:
                # Unacknowledged events go back to the front, in their order.
                self._waiting.extendleft((head, payload) for head, payload, _ in reversed(self._sent))
                self._sent.clear()
            time.sleep(retry_seconds)
            retry_seconds = min(2 * retry_seconds, RETRY_SECONDS_MAX)

    def _serve(self, connection: socket.socket) -> None:
        acknowledged, received = 0, b""
        while True:
            batch = self._take(WINDOW_EVENTS - len(self._sent))
            if batch:
                connection.sendall(batch)
            if self._wait(connection, may_sleep=not batch):
                piece = connection.recv(4096)
                if not piece:
                    return
                lines = (received + piece).split(b"\n")
                received = lines.pop()
                if lines:
                    count = int(lines[-1])
                    self._settle(count - acknowledged)
                    acknowledged = count

    def _wait(self, connection: socket.socket, may_sleep: bool) -> bool:
        """Wait for an acknowledgement or a new event; say whether there is one to read."""
        is_full = len(self._sent) >= WINDOW_EVENTS
        watched = [connection.fileno()] if is_full else [connection.fileno(), self._wake_read]
        self._is_asleep = may_sleep
        # An event queued between the last look and the line above wrote nothing into the pipe.
        timeout = 1.0 if may_sleep and (is_full or not self._waiting) else 0.0
        readable = select.select(watched, [], [], timeout)[0]
        self._is_asleep = False
        if self._wake_read in readable:
            os.read(self._wake_read, 4096)
        return connection.fileno() in readable

    def _take(self, count: int) -> bytes:
        """Move up to ``count`` events to those sent, and return their bytes."""
        lines: list[str] = []
        with self._lock:
            while self._waiting and len(lines) < count:
                head, payload = self._waiting.popleft()
                dropped = self._dropped_count
                self._sent.append((head, payload, dropped))
                # Told until an event that told it is acknowledged.
                told = f',"dropped":{dropped}' if dropped > self._dropped_told else ""
                lines.append(f'{head}{told},"payload":{payload}}}\n')
        return "".join(lines).encode("utf-8", "replace")

    def _settle(self, count: int) -> None:
        with self._lock:
            for _ in range(min(count, len(self._sent))):
                self._dropped_told = self._sent.popleft()[2]
                self._settled_count += 1


def encode(payload: object) -> str:
    """Return a payload as JSON; what JSON cannot say (NaN, other objects) becomes text."""
    if json is not None:
        try:
            return _dumps(payload)
        except (TypeError, ValueError, RecursionError):
            pass
    return _encode(payload, 0)


def _encode(value: object, depth: int) -> str:  # noqa: PLR0911  one line per type
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, int):
        return str(int(value)) if abs(value) <= SAFE_INTEGER else f'"{value}"'
    if isinstance(value, float):
        # NaN is the one number that differs from itself; infinities differ from themselves minus themselves.
        return float.__repr__(value) if value - value == 0 else _quoted(float.__repr__(value))
    if depth >= DEPTH_MAX:
        return _quoted("...")
    if isinstance(value, dict):
        parts = (f"{_quoted(str(name))}:{_encode(inner, depth + 1)}" for name, inner in value.items())
        return "{" + ",".join(parts) + "}"
    if isinstance(value, (list, tuple, set, frozenset)):
        return "[" + ",".join(_encode(inner, depth + 1) for inner in value) + "]"
    if hasattr(value, "item"):  # a numpy or torch scalar
        return _encode(value.item(), depth + 1)
    return _quoted(str(value))


def _quoted(text: str) -> str:
    escaped = []
    for character in text:
        code = ord(character)
        if character in '"\\':
            escaped.append("\\" + character)
        elif code < 0x20 or 0xD800 <= code <= 0xDFFF:
            escaped.append(f"\\u{code if code < 0x20 else 0xFFFD:04x}")
        else:
            escaped.append(character)
    return '"' + "".join(escaped) + '"'


def _uuid4() -> str:
    # Version 4, variant 10xx with its two free bits at zero: 120 random bits.
    text = os.urandom(16).hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-8{text[17:20]}-{text[20:]}"


_shared = Emitter()


def emit(kind: str, payload: object = None) -> bool:
    """Queue one event with the emitter of this process; see `Emitter.emit`."""
    return _shared.emit(kind, payload)


def flush(timeout: float = 5.0) -> bool:
    """Wait until everything emitted so far is on the agent's disk; see `Emitter.flush`."""
    return _shared.flush(timeout)


def main(arguments: list[str]) -> int:
    """Run ``emit KIND [PAYLOAD]``; 0 when the agent has it on its disk, 1 when not, 2 for another command line."""
    if len(arguments) not in (2, 3) or arguments[0] != "emit":
        sys.stderr.write("usage: events.py emit KIND [PAYLOAD]\n")
        return 2
    _shared.emit_text(arguments[1], arguments[2] if len(arguments) == 3 else "{}")
    if flush(5.0):
        return 0
    sys.stderr.write(f"the agent did not answer on {_shared.path}\n")
    return 1


@atexit.register
def _flush_at_exit() -> None:
    if os.path.exists(_shared.path):
        _shared.flush(EXIT_FLUSH_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
