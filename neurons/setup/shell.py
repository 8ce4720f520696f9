"""Running other programs: bounded in time, never through a shell, and as root only where that is asked for.

Rules:
- `run` never raises for what the program does: a missing program is status 127, a timeout is 124, as in a shell.
- Only `as_root` adds sudo, and only when this process is not root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neurons.setup.errors import SetupError

NOT_FOUND = 127
TIMED_OUT = 124
DEFAULT_TIMEOUT_SECONDS = 30.0
# Debian keeps dockerd, iptables and mkfs where an ordinary user's PATH does not look.
ADMIN_PATH = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: its exit status, and stdout followed by stderr as text."""

    status: int
    output: str
    errors: str = ""

    @property
    def ok(self) -> bool:
        """Whether the program exited 0."""
        return self.status == 0

    def tail(self, count: int = 15) -> str:
        """Return the last lines of what the program said, for an error message."""
        return "\n".join((self.output + self.errors).strip().splitlines()[-count:])


def run(
    command: Sequence[str],
    *,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    environment: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> Outcome:
    """Run a program to its end and return what it said; `environment` is added to ours."""
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            input=stdin if stdin is not None else "",
            env=child_environment(environment),
        )
    except FileNotFoundError:
        return Outcome(NOT_FOUND, "", f"{command[0]}: not found")
    except PermissionError as error:
        return Outcome(NOT_FOUND, "", f"{command[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Outcome(TIMED_OUT, "", f"{command[0]}: no answer within {timeout_seconds:.0f} s")
    return Outcome(done.returncode, done.stdout, done.stderr)


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return our environment with the administrators' folders on PATH and messages in English."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    if os.name == "posix":
        path = f"{path}:{ADMIN_PATH}"
    return {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8", **(extra or {})}


def find_program(name: str) -> str | None:
    """Return the path of a program, looking in the administrators' folders too."""
    return shutil.which(name, path=child_environment()["PATH"])


def is_root() -> bool:
    """Whether this process may do everything; False where the question has no meaning."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def as_root(command: Sequence[str], why: str) -> list[str]:
    """Return the command such that it runs as root.

    Args:
        command: The program and its arguments.
        why: What it is for, in words that finish "needs root to ...".

    Raises:
        SetupError: We are not root and there is no sudo.
    """
    if is_root():
        return list(command)
    sudo = find_program("sudo")
    if sudo is None:
        raise SetupError(f"needs root to {why}, and there is no sudo", "run `make setup` as root once")
    return [sudo, "--", *command]
