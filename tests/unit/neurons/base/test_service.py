"""Supervision: what fails starts again, what is asked to stop stops, and health says which."""

import logging
import threading
from collections.abc import Iterator

import pytest

from neurons.base.service import Supervisor
from tests.support.miners import wait_until


class Worker:
    """Fails the first ``failures`` times it runs, then works until it is stopped."""

    name = "worker"

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.runs = 0
        self.is_working = threading.Event()

    def prepare(self) -> None:
        """Nothing to take."""

    def run(self, stop: threading.Event) -> None:
        self.runs += 1
        if self.runs <= self.failures:
            raise OSError(f"failure {self.runs}")
        self.is_working.set()
        stop.wait()


class Stubborn(Worker):
    """Ignores being asked to stop until ``release`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def run(self, stop: threading.Event) -> None:
        self.is_working.set()
        self.release.wait()


@pytest.fixture
def started() -> Iterator[list[Supervisor]]:
    supervisors: list[Supervisor] = []
    yield supervisors
    for supervisor in supervisors:
        assert supervisor.stop(5)


def test_service_runs_in_a_thread_of_its_name_and_is_healthy(started: list[Supervisor]) -> None:
    worker = Worker()
    supervisor = Supervisor(worker)
    supervisor.start()
    started.append(supervisor)
    assert worker.is_working.wait(5)
    assert "worker" in {thread.name for thread in threading.enumerate()}
    assert supervisor.is_healthy


def test_failed_service_runs_again_after_a_second(started: list[Supervisor], caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker(failures=1)
    supervisor = Supervisor(worker)
    with caplog.at_level(logging.ERROR):
        supervisor.start()
        started.append(supervisor)
        assert worker.is_working.wait(5)
    assert (worker.runs, supervisor.restarts_count) == (2, 1)
    assert supervisor.last_error == "OSError: failure 1"
    assert not supervisor.is_healthy
    record = next(record for record in caplog.records if record.message == "service failed")
    assert record.exc_info is not None
    assert vars(record)["restart_in_seconds"] == 1


def test_stop_does_not_wait_for_the_back_off(started: list[Supervisor]) -> None:
    supervisor = Supervisor(Worker(failures=100))
    supervisor.start()
    wait_until(lambda: supervisor.restarts_count == 2, 5, "it did not fail twice")  # now it waits two seconds
    assert supervisor.stop(1)


def test_service_that_does_not_stop_is_reported_and_not_waited_for() -> None:
    worker = Stubborn()
    supervisor = Supervisor(worker)
    supervisor.start()
    assert worker.is_working.wait(5)
    assert not supervisor.stop(0.05)
    worker.release.set()
    assert supervisor.stop(5)
