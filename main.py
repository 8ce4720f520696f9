"""python main.py COMMAND: the one door to every role; `python main.py --help` lists them.

Rules:
- `setup`, `doctor` and `image` need nothing but the standard library, so they run with the system's Python before any venv exists.
- Every other command runs inside the checkout's .venv: this file changes into it by itself, or names the fix.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

# What every role imports; torch is not among them, because only a miner computes.
NEEDED = (
    *("flask", "docker", "paramiko", "pynvml", "numpy", "cryptography", "yaml"),
    *("pydantic", "rfc8785", "http_message_signatures", "itsdangerous", "uvicorn", "a2wsgi"),
)


def main(argv: list[str]) -> int:
    """Run one command and return its exit status."""
    if sys.version_info < (3, 11):  # noqa: UP036  the sentence is for those who have an older one
        return _refuse("Python 3.11 or newer is required; install it, then: make setup PYTHON=python3.11")
    if argv and argv[0] in ("setup", "doctor", "image"):
        from neurons.setup.command import RUN

        return RUN[argv[0]](argv[1:])
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return _run_in_venv(missing, argv)
    from neurons.cli import main as run_command

    return run_command(argv)


def _run_in_venv(missing: list[str], argv: list[str]) -> int:
    """Change into the Python of the checkout's .venv, once; on Windows as a child, which has no exec."""
    root = Path(__file__).resolve().parent
    python = root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        return _refuse("there is no .venv in this checkout yet; build it with: make setup")
    if Path(sys.prefix).resolve() == (root / ".venv").resolve():
        return _refuse(f".venv lacks {', '.join(missing)}; complete it with: make setup")
    command = [str(python), str(root / "main.py"), *argv]
    if os.name == "nt":
        return subprocess.run(command, check=False).returncode
    os.execv(python, command)  # noqa: S606  no shell is wanted


def _refuse(sentence: str) -> int:
    print(f"polarise: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
