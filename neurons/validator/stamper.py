"""The daemon's end of the stamping process: batches of jobs go in, stamps and raw answers come out as they come.

Rules:
- One batch at a time; an answer is handed on while the others of its batch are still awaited.
- A process that dies takes only its batch with it: `StamperDied` is our own failure, and the next batch starts a new one.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from neurons.validator.stamper_process import PingJob, Stamped, StartJob, main
from polarise.errors import SubnetError

STOP_SECONDS = 5.0


class StamperDied(SubnetError):
    """The stamping process ended in the middle of a batch; what it had not answered was not measured."""


class Stamper:
    """Owns the process; use it as a context manager, which ends it. It is spawned at the first batch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._process: BaseProcess | None = None

    def __enter__(self) -> Stamper:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id; None while there is none."""
        return None if self._process is None else self._process.pid

    def run(self, jobs: Sequence[PingJob | StartJob]) -> Iterator[Stamped]:
        """Run a batch; yields one outcome per job, in the order in which they come.

        Raises:
            StamperDied: Not all outcomes came.
        """
        if not jobs:
            return
        with self._lock:
            connection = self._ensure()
            try:
                connection.send(tuple(jobs))
                while (stamped := connection.recv()) is not None:
                    yield stamped
            except (EOFError, OSError) as err:
                self._end()
                raise StamperDied("the stamping process ended in the middle of a wave") from err
            except GeneratorExit:
                # Nobody wants the rest; a batch cannot be called back.
                self._end()
                raise

    def close(self) -> None:
        """End the process; it has nothing to lose. A batch that is under way ends with `StamperDied`."""
        process = self._process
        if process is not None:
            process.terminate()
        # Whoever waits on the pipe notices and cleans up; its end is closed by nobody else.
        if self._lock.acquire(timeout=STOP_SECONDS):
            try:
                self._end()
            finally:
                self._lock.release()

    def _ensure(self) -> Connection:
        if self._connection is None:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            self._process = context.Process(target=main, args=(theirs,), name="stamper", daemon=True)
            self._process.start()
            theirs.close()
            self._connection = ours
        return self._connection

    def _end(self) -> None:
        connection, self._connection = self._connection, None
        process, self._process = self._process, None
        if connection is not None:
            connection.close()
        if process is not None:
            process.terminate()
            process.join(STOP_SECONDS)
