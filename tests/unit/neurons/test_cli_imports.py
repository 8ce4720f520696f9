"""Commands of every role are one program: it must start where only validators and renters run, which need no Unix."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from neurons.cli import SETUP_COMMANDS, describe, exit_status, main
from neurons.setup.command import RUN
from polarise.errors import ErrorCode, Unavailable

ROOT = Path(__file__).resolve().parents[3]
WITHOUT_UNIX = """
import sys
MISSING = {"fcntl", "grp", "pwd", "resource", "termios"}
class Without:
    def find_spec(self, name, path=None, target=None):
        if name in MISSING:
            raise ModuleNotFoundError(name)
for name in MISSING:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Without())
from neurons.cli import build_parser
print(build_parser().prog)
"""


def test_unknown_command_names_every_command_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["foo"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert [name for name in (*RUN, "miner", "audit") if f"'{name}'" not in said] == []
    assert set(SETUP_COMMANDS) == set(RUN)


def test_draining_miner_is_an_error_with_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    err = Unavailable("no new leases", retry_after_seconds=300, code=ErrorCode.DRAINING)
    assert exit_status(err) == 4
    assert describe(err).endswith("fix: rent from another miner (--miner URL), or ask again in 300 s")


def test_command_line_is_built_where_there_are_no_modules_of_unix() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_UNIX], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
