"""A daemon as a subprocess: started with JSON logs, its events read as they come, ended with SIGTERM."""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from config.loader import CHECKOUT
from polarise.errors import Unavailable

Event = dict[str, object]

STOP_SECONDS = 30
_PR_SET_PDEATHSIG = 1


class Daemon:
    """One real daemon.

    Args:
        name: For messages.
        arguments: What follows ``python``.
        environ: Its whole environment.
        log: Its log lines are also kept here.
        role: What it says of itself in its start line; its name when left out.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], environ: Mapping[str, str], log: Path, *, role: str | None = None
    ) -> None:
        self.name = name
        self.role = role or name
        self._log = log
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=CHECKOUT,
            env=dict(environ),
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  runs one prctl
        )
        self._reader = threading.Thread(target=self._read, name=f"{name}-log", daemon=True)
        self._reader.start()

    def wait_for(self, event: str, seconds: float, **fields: object) -> Event:
        """Return the next log entry with this event and these fields; what comes before it is passed over.

        Raises:
            Unavailable: The daemon ended, or the time is over; the message holds the end of its log.
        """
        for entry in self.events(seconds):
            if entry.get("event") == event and all(entry.get(name) == value for name, value in fields.items()):
                return entry
        raise Unavailable(f"the {self.name} did not say {event!r} within {seconds:g} s\n{self.tail()}")

    def events(self, seconds: float | None = None) -> EventStream:
        """Iterate over log entries for so many seconds, or until the daemon ends."""
        return EventStream(self, self._events, None if seconds is None else time.monotonic() + seconds)

    def stop(self) -> int:
        """Ask the daemon to end, insist when it does not, and return its exit status."""
        self._process.terminate()
        try:
            status = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._reader.join(5)
        return status

    def tail(self, count: int = 15) -> str:
        """Return the last lines of its log."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines() if self._log.exists() else []
        return "\n".join(f"  {self.name}: {line}" for line in lines[-count:])

    def _read(self) -> None:
        pipe = self._process.stderr
        if pipe is None:
            return
        with pipe, self._log.open("ab") as kept:
            for line in pipe:
                kept.write(line)
                kept.flush()
                if entry := _entry(line):
                    self._events.put(entry)
        self._events.put(None)


class EventStream:
    """Iterates over a daemon's log entries."""

    def __init__(self, daemon: Daemon, events: queue.SimpleQueue[Event | None], end: float | None) -> None:
        self._daemon = daemon
        self._events = events
        self._end = end

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> Event:
        """Return the next entry.

        Raises:
            StopIteration: The time is over.
            Unavailable: The daemon ended by itself.
        """
        remaining = None if self._end is None else self._end - time.monotonic()
        if remaining is not None and remaining <= 0:
            raise StopIteration
        try:
            entry = self._events.get(timeout=remaining)
        except queue.Empty as err:
            raise StopIteration from err
        if entry is None:
            self._events.put(None)
            raise Unavailable(f"the {self._daemon.name} ended\n{self._daemon.tail()}")
        return entry


def _entry(line: bytes) -> Event | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _end_with_parent() -> None:
    """Let the kernel end this process when the demo is killed, so that no daemon is left behind."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:
        os._exit(1)
