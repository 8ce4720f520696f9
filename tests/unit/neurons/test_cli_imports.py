"""Commands of every role are one program: it must start where only validators and renters run, which need no Unix."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def test_command_line_is_built_where_there_are_no_modules_of_unix() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_UNIX], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
