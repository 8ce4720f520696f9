"""The user a node's solvers run as: one of their own without any right, where the miner is root.

Rules:
- A solver computes and speaks over its pipes: of the host it needs the program's own files, to read. So it gets a user that owns nothing and is in no group.
- The user's number follows from the node's, out of a range that nobody hands out: two nodes on a host share no user, and no tenant has it.
- It is tried first: where that user cannot read the program (a checkout in root's home) or the kernel knows no such number (a user namespace), solvers
  stay with the miner's own user, and the log says so.
- On a GPU they stay too: what the driver's files and caches ask of a user was tried by nobody. So they do with the compiled scan, which lies in the
  node's private folder.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # solvers import this file too, and need no pydantic
    from polarise.hardware import DeviceClaim

logger = logging.getLogger(__name__)

# Between what container managers take for user namespaces and what the file formats of disk images reserve (systemd, UIDS-GIDS).
USERS = range(0x7000_0000, 0x7FFE_0000)
TRY_SECONDS = 30.0
READABLE = (
    "have Python and this program where every user may read them, not in root's home (remove .venv, then PYTHON=/usr/bin/python3 make setup); "
    "the miner works all the same"
)
_TRIAL = "import importlib.util, numpy, neurons.miner.solver; importlib.util.find_spec('torch')"


def user_of(node_id: str) -> int:
    """Return the number of the user that a node's solvers have; its mark is 12 hex digits."""
    return USERS[int(node_id, 16) % len(USERS)]


def solver_user(
    node_id: str,
    devices: Sequence[DeviceClaim],
    *,
    is_wanted: bool,
    compiled_pow: bool,
    on_missing: Callable[[str], None] = lambda cause: logger.warning(
        "solvers run as root", extra={"cause": cause, "hint": READABLE}
    ),
) -> int | None:
    """Return the user for a node's solvers; None where they keep the miner's own.

    Args:
        node_id: The node's mark, 12 hex digits.
        devices: What will be proven.
        is_wanted: ``miner.unprivileged_solver``.
        compiled_pow: Whether solvers load the compiled scan.
        on_missing: Called with the cause where root's solvers could not be given another user.
    """
    if not is_wanted or os.name != "posix" or os.geteuid() != 0:
        return None
    if compiled_pow or any(device.kind == "gpu" for device in devices):
        return None
    user = user_of(node_id)
    cause = _why_not(user)
    if cause is not None:
        on_missing(cause)
        return None
    return user


def _why_not(user: int) -> str | None:
    """Return why this user cannot run a solver, None when it can."""
    try:
        tried = subprocess.run(
            [sys.executable, "-c", _TRIAL],
            user=user,
            group=user,
            extra_groups=[],
            env=solver_environ(user),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRY_SECONDS,
            check=False,
        )
    except PermissionError:
        # The name in the environment is often a link: what that user may not reach is where it leads.
        return f"user {user} may not run {os.path.realpath(sys.executable)}"
    except (OSError, ValueError, OverflowError, subprocess.SubprocessError) as err:
        return f"no process can be started as user {user}: {err}"[:200]
    if tried.returncode == 0:
        return None
    lines = tried.stderr.decode(errors="replace").strip().splitlines()
    return f"user {user} cannot run the program: {lines[-1][:150] if lines else f'status {tried.returncode}'}"


def solver_environ(user: int | None) -> dict[str, str]:
    """Return the environment of a solver; another user has no home, so that nothing looks for one in root's."""
    return dict(os.environ) if user is None else {**os.environ, "HOME": "/"}
