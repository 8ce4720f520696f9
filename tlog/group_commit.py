"""Many threads, one commit: whoever comes first writes for all who wait.

A durable commit costs a disk flush however much is in it. While one thread flushes, the others queue up; the next to
get the lock takes the whole queue, so that the rate grows with the load and a single caller never waits for a timer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class GroupCommit(Generic[ItemT, ResultT]):
    """Turns a function that writes many items at once into one that is called with a single item.

    Args:
        write: Writes the items in order and durably, and returns for each its result or the error of that item
            alone; raising means that nothing of the batch was written.
        batch_max: Items per call of ``write``.
    """

    def __init__(
        self, write: Callable[[Sequence[ItemT]], Sequence[ResultT | Exception]], *, batch_max: int = 1024
    ) -> None:
        self._write = write
        self._batch_max = batch_max
        self._queue: list[_Waiting[ItemT, ResultT]] = []
        self._queue_lock = threading.Lock()
        self._write_lock = threading.Lock()

    def submit(self, item: ItemT) -> ResultT:
        """Write one item and return its result; it is durable by then."""
        waiting: _Waiting[ItemT, ResultT] = _Waiting(item)
        with self._queue_lock:
            self._queue.append(waiting)
        while not waiting.is_done:
            with self._write_lock:
                if not waiting.is_done:
                    self._write_batch()
        return waiting.outcome()

    def _write_batch(self) -> None:
        with self._queue_lock:
            batch, self._queue = self._queue[: self._batch_max], self._queue[self._batch_max :]
        try:
            results = self._write([waiting.item for waiting in batch])
        except BaseException as err:
            for waiting in batch:
                waiting.finish(err)
            if not isinstance(err, Exception):
                raise
            return
        for waiting, result in zip(batch, results, strict=True):
            waiting.finish(result)


class _Waiting(Generic[ItemT, ResultT]):
    """One caller's item and, once written, what came of it."""

    def __init__(self, item: ItemT) -> None:
        self.item = item
        self.is_done = False
        self._result: ResultT | BaseException | None = None

    def finish(self, result: ResultT | BaseException) -> None:
        self._result = result
        self.is_done = True

    def outcome(self) -> ResultT:
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result  # type: ignore[return-value]  # finish() ran: is_done was seen
