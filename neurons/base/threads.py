"""A bounded pool of threads that never keeps the process from ending.

`concurrent.futures.ThreadPoolExecutor` joins its threads when the interpreter ends; one that is stuck in a call to
somebody else's program would then outlive every stop deadline. These threads are daemons: whoever wants to wait for
them says how long.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(Executor):
    """Runs jobs in the order they come, at most so many at once.

    Args:
        name: Prefix of the threads' names.
        count_max: Threads; they start as jobs need them.
    """

    def __init__(self, name: str, count_max: int) -> None:
        self._name = name
        self._count_max = count_max
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._is_closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a job.

        Raises:
            RuntimeError: The pool was shut down.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._is_closed:
                raise RuntimeError(f"the threads {self._name} were shut down")
            self._jobs.put(lambda: _complete(future, lambda: fn(*args, **kwargs)))
            if not self._idle.acquire(blocking=False) and len(self._threads) < self._count_max:
                thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs; see `join` for a wait that ends."""
        if cancel_futures:
            raise NotImplementedError("queued jobs are never dropped")
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._jobs.put(None)
        if wait:
            self.join(None)

    def join(self, deadline_seconds: float | None) -> bool:
        """Take no more jobs and wait for those at work; returns False when one did not end in time."""
        self.shutdown(wait=False)
        end = None if deadline_seconds is None else time.monotonic() + deadline_seconds
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # or it would hold what it worked on until the next one comes
            self._idle.release()
        self._jobs.put(None)  # so that the next thread ends too


def _complete(future: Future[Any], work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as err:  # noqa: BLE001  a future hands every error to whoever waits for it
        future.set_exception(err)
    else:
        future.set_result(result)
