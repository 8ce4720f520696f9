"""What the demo's command lets through between the lines of its story."""

from __future__ import annotations

import subprocess
import sys

import pytest

WARN = "import logging, neurons.demo.command as demo; {}; logging.getLogger('neurons.miner').warning('solvers run as root')"


@pytest.mark.parametrize(("first", "printed"), [("demo.keep_logs_out()", ""), ("pass", "solvers run as root\n")])
def test_no_log_line_stands_between_the_lines_of_the_story(first: str, printed: str) -> None:
    """In a process of its own, as pytest's handlers would catch the line; without the call it is there."""
    done = subprocess.run(
        [sys.executable, "-c", WARN.format(first)], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("", printed)
