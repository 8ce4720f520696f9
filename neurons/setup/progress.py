"""What the set-up shows while it works: one numbered line per step, and a sign of life during the long ones.

Rules:
- Each step ends in one line: number, name, result, seconds. "already there" means that nothing was changed.
- A long command shows its last line of output: in place on a terminal, every ten seconds elsewhere.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import IO, TextIO

from neurons.setup.shell import NOT_FOUND, TIMED_OUT, Outcome, child_environment

ALREADY_THERE = "already there"
NAME_WIDTH = 20
RESULT_WIDTH = 66
KEPT_LINES = 200
TERMINAL_TICK_SECONDS = 0.5
PLAIN_TICK_SECONDS = 10.0


class Progress:
    """Numbers the steps of one set-up and times each."""

    def __init__(self, step_count: int, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._step_count = step_count
        self._step_index = 0
        self._name = ""
        self._step_started = self._started = time.monotonic()

    def begin(self, name: str) -> None:
        """Start the next step."""
        self._step_index += 1
        self._name = name
        self._step_started = time.monotonic()
        if self._stream.isatty():
            self._rewrite("...")

    def end(self, result: str) -> None:
        """Close the step with what it did."""
        if self._stream.isatty():
            self._stream.write("\r\033[K")
        self._say(f"{self._head()}{result:<{RESULT_WIDTH}} {self._step_seconds():6.1f} s")

    def note(self, text: str) -> None:
        """Say something about the running step, on a line of its own."""
        if self._stream.isatty():
            self._stream.write("\r\033[K")
        self._say(f"{'':6}{text}")

    def finish(self, text: str) -> None:
        """Say the last line, with the time of the whole set-up."""
        self._say(f"{text} ({time.monotonic() - self._started:.1f} s)")

    def run(
        self, command: Sequence[str], *, timeout_seconds: float, environment: Mapping[str, str] | None = None
    ) -> Outcome:
        """Run a long command and show its last line while it works; never raises for what the command does."""
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=child_environment(environment),
            )
        except FileNotFoundError:
            return Outcome(NOT_FOUND, f"{command[0]}: not found")
        lines: deque[str] = deque(maxlen=KEPT_LINES)
        assert process.stdout is not None  # noqa: S101  we asked for the pipe two lines above
        reader = threading.Thread(target=_collect, args=(process.stdout, lines), name="progress-reader", daemon=True)
        reader.start()
        status = self._watch(process, lines, timeout_seconds)
        reader.join(timeout=5)
        return Outcome(status, "".join(lines))

    def _watch(self, process: subprocess.Popen[str], lines: deque[str], timeout_seconds: float) -> int:
        """Wait for the process, ticking; end it when its time is up."""
        deadline = time.monotonic() + timeout_seconds
        tick_seconds = TERMINAL_TICK_SECONDS if self._stream.isatty() else PLAIN_TICK_SECONDS
        while time.monotonic() < deadline:
            try:
                return process.wait(timeout=min(tick_seconds, max(0.01, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                self._tick(lines[-1].strip() if lines else "")
        process.kill()
        process.wait()
        lines.append(f"ended after {timeout_seconds:.0f} s\n")
        return TIMED_OUT

    def _tick(self, last_line: str) -> None:
        if self._stream.isatty():
            self._rewrite(last_line[: RESULT_WIDTH - 1])
        else:
            self._say(f"{'':6}{self._name}: {self._step_seconds():.0f} s  {last_line[:RESULT_WIDTH]}")

    def _rewrite(self, text: str) -> None:
        self._stream.write(f"\r\033[K{self._head()}{text:<{RESULT_WIDTH}} {self._step_seconds():6.1f} s")
        self._stream.flush()

    def _head(self) -> str:
        return f"[{self._step_index}/{self._step_count}] {self._name:<{NAME_WIDTH}} "

    def _step_seconds(self) -> float:
        return time.monotonic() - self._step_started

    def _say(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def _collect(stream: IO[str], lines: deque[str]) -> None:
    """Read everything, so that the command never blocks on a full pipe."""
    with stream:
        for line in stream:
            if line.strip():
                lines.append(line)
