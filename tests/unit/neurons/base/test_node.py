"""The frame of a daemon: order of start and stop, signals, exit status, and what the log says of it."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from neurons.base.node import BaseNode
from neurons.base.service import Service
from polarise.errors import ConfigError
from tests.support.identities import identity

PROGRAM = """\
import sys, threading
from pathlib import Path
from neurons.base.node import BaseNode
from polarise.errors import ConfigError
from tests.support.identities import identity
from utils.logging import configure_logging

def say(line):
    # One write: the threads of a node must not cut each other's lines.
    sys.stdout.write(line + "\\n")
    sys.stdout.flush()

class Step:
    def __init__(self, name): self.name = name
    def prepare(self): say("prepare " + self.name)
    def run(self, stop):
        say("run " + self.name)
        stop.wait()
        say("end " + self.name)

class Node(BaseNode):
    role = "test"
    def build_services(self): return [Step("a"), Step("b"), Step("c")]

configure_logging("INFO", "json", None)
try:
    status = Node(Path(sys.argv[1]), identity("node").public_key).run()
except ConfigError as err:
    print(err, flush=True)
    status = 2
print("status", status, flush=True)
sys.exit(status)
"""


@contextlib.contextmanager
def start(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM, str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], words: set[str]) -> list[str]:
    """Read lines until every one of ``words`` has come."""
    assert process.stdout is not None
    lines: list[str] = []
    while not words <= set(lines):
        line = process.stdout.readline()
        assert line, lines
        lines.append(line.strip())
    return lines


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_node_prepares_all_then_starts_in_order_and_ends_in_reverse_with_status_0(
    tmp_path: Path, signal_number: signal.Signals
) -> None:
    with start(tmp_path) as process:
        lines = read_until(process, {"run a", "run b", "run c"})
        process.send_signal(signal_number)
        rest, log = process.communicate(timeout=20)
    assert lines[:3] == ["prepare a", "prepare b", "prepare c"]
    assert rest.splitlines() == ["end c", "end b", "end a", "status 0"]
    events = [json.loads(line) for line in log.splitlines()]
    assert [event["event"] for event in events] == ["started", "stopped"]
    assert events[0]["role"] == "test"
    assert events[0]["node_key"] == identity("node").public_key


def test_second_process_on_the_same_data_directory_ends_with_2_and_names_the_first(tmp_path: Path) -> None:
    with start(tmp_path) as first:
        read_until(first, {"run c"})
        with start(tmp_path) as second:
            output, _ = second.communicate(timeout=20)
        assert second.returncode == 2
        assert f"process {first.pid} already runs on {tmp_path}" in output
        first.terminate()
        first.communicate(timeout=20)
    assert first.returncode == 0


class CannotStart:
    """A service whose port is taken."""

    name = "cannot start"

    def prepare(self) -> None:
        raise ConfigError("the port is taken")

    def run(self, stop: object) -> None:
        raise AssertionError("must not run")


def test_node_whose_service_cannot_prepare_starts_none_and_gives_the_directory_back(tmp_path: Path) -> None:
    class Node(BaseNode):
        def build_services(self) -> Sequence[Service]:
            return [CannotStart()]

    for _ in range(2):
        node = Node(tmp_path, identity("node").public_key)
        with pytest.raises(ConfigError, match="the port is taken"):
            node.run()
        assert node.supervisors == []


TAKEN = """\
import os, resource, sys
from pathlib import Path
from neurons.base.node import BaseNode
from tests.support.identities import identity

class Look:
    name = "look"
    def prepare(self): pass
    def run(self, stop):
        Path(sys.argv[1], "made").touch()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        print(soft == hard, oct(Path(sys.argv[1], "made").stat().st_mode & 0o777), flush=True)
        node.stop()

class Node(BaseNode):
    def build_services(self): return [Look()]

resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
os.umask(0o022)
node = Node(Path(sys.argv[1]), identity("node"))
sys.exit(node.run())
"""


def test_daemon_makes_private_files_and_may_open_as_many_as_its_user(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TAKEN, str(tmp_path)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "True 0o600\n"
