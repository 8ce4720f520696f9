"""Threads that work in order, tell their errors, and never keep a process from ending."""

import subprocess
import sys
import threading

import pytest

from neurons.base.threads import DaemonThreads

STUCK = """\
import threading
from neurons.base.threads import DaemonThreads
threads = DaemonThreads("stuck", 1)
began = threading.Event()
def wait_for_ever():
    began.set()
    threading.Event().wait()
threads.submit(wait_for_ever)
began.wait()
print(threads.join(0.05))
"""


def test_jobs_of_one_thread_run_in_the_order_they_came() -> None:
    threads = DaemonThreads("test", 1)
    order: list[int] = []
    for number in range(50):
        threads.submit(order.append, number)
    assert threads.join(5)
    assert order == list(range(50))


def test_no_more_jobs_run_at_once_than_there_are_threads() -> None:
    threads = DaemonThreads("test", 3)
    together, release = threading.Barrier(4), threading.Event()

    def job() -> None:
        together.wait(5)
        release.wait(5)

    first = [threads.submit(job) for _ in range(3)]
    together.wait(5)  # three are at work at once
    late = threads.submit(lambda: None)
    assert not late.running()
    assert not late.done()
    release.set()
    assert [future.result(5) for future in [*first, late]] == [None] * 4
    assert threads.join(5)


def test_error_of_a_job_is_its_future_s_and_the_thread_goes_on() -> None:
    threads = DaemonThreads("test", 1)
    failed = threads.submit(int, "x")
    worked = threads.submit(int, "7")
    assert isinstance(failed.exception(5), ValueError)
    assert worked.result(5) == 7
    assert threads.join(5)


def test_pool_that_was_shut_down_takes_no_job() -> None:
    threads = DaemonThreads("test", 1)
    threads.shutdown()
    with pytest.raises(RuntimeError):
        threads.submit(print)


def test_stuck_job_keeps_no_process_from_ending() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "False\n"
