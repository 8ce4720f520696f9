"""Running programs: bounded, never raising, and root only where it is asked for."""

import io
import sys

import pytest

from neurons.setup import shell
from neurons.setup.errors import SetupError
from neurons.setup.progress import Progress
from neurons.setup.shell import NOT_FOUND, TIMED_OUT, as_root, run


def test_missing_program_is_an_outcome_not_an_exception() -> None:
    assert run(["polarise-no-such-program"]).status == NOT_FOUND


def test_program_that_hangs_is_ended() -> None:
    assert (
        run([sys.executable, "-c", "input and __import__('time').sleep(60)"], timeout_seconds=0.2).status == TIMED_OUT
    )


def test_root_without_sudo_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "is_root", lambda: False)
    monkeypatch.setattr(shell, "find_program", lambda name: None)
    with pytest.raises(SetupError, match="needs root to start dockerd, and there is no sudo"):
        as_root(["dockerd"], "start dockerd")


def test_sudo_is_used_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "is_root", lambda: False)
    monkeypatch.setattr(shell, "find_program", lambda name: f"/usr/bin/{name}")
    assert as_root(["dockerd"], "start dockerd") == ["/usr/bin/sudo", "--", "dockerd"]


def test_steps_are_numbered_and_end_in_one_line_each() -> None:
    stream = io.StringIO()
    progress = Progress(2, stream)
    for name in ("first", "second"):
        progress.begin(name)
        progress.end("already there")
    lines = stream.getvalue().splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["[1/2]", "first", "already", "there"],
        ["[2/2]", "second", "already", "there"],
    ]
    assert all(line.endswith(" s") for line in lines)


def test_long_command_is_ended_at_its_deadline_and_says_so() -> None:
    progress = Progress(1, io.StringIO())
    progress.begin("hangs")
    program = "print('half way', flush=True); __import__('time').sleep(60)"
    outcome = progress.run([sys.executable, "-c", program], timeout_seconds=0.5)
    assert outcome.status == TIMED_OUT
    assert "ended after" in outcome.output
