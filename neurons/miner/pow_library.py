"""The compiled scan of the proof of work: made by this node for itself, at its start, where its owner asks for it.

Rules:
- `cc` gets one fixed text, `challenges/pow_native.c`, on stdin, and fixed flags; nothing that came from elsewhere is in
  the command or in its environment. It has half a minute, in a session of its own that ends with it.
- The library lies in a folder of the node's that only this user may enter, and is put there in one step.
- It is tried in a process of its own, each time the node starts: code for another processor ends that process and not
  the miner, and what differs from hashlib is made anew once and then not used.
- No challenge waits for a compiler: solvers are only told where the library lies.
- Whatever goes wrong, numpy proves instead, and the log says why.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from challenges.pow_native import SOURCE, NativeUnavailable
from neurons.miner.solver import SOLVER_COMMAND
from utils import host

logger = logging.getLogger(__name__)

FOLDER = "native"
COMPILER = "cc"
FLAGS = (
    *("-x", "c", "-std=gnu11", "-O3", "-march=native"),
    *("-shared", "-fPIC", "-ffreestanding", "-nostdlib"),
)
COMPILE_SECONDS = 30.0
TRY_SECONDS = 30.0


def _warn(cause: str) -> None:
    logger.warning("the proof of work stays with numpy", extra={"cause": cause})


def solver_command(root: Path, *, compiled_pow: bool, on_missing: Callable[[str], None] = _warn) -> tuple[str, ...]:
    """Return how this node's solvers are started: with the compiled scan where that is wanted and can be had.

    Args:
        root: The node's folder.
        compiled_pow: Whether its owner asks for it.
        on_missing: Called with the cause where it is wanted and cannot be had.
    """
    if not compiled_pow:
        return SOLVER_COMMAND
    try:
        return (*SOLVER_COMMAND, str(ensure_library(root / FOLDER)))
    except NativeUnavailable as err:
        on_missing(str(err))
        return SOLVER_COMMAND


def ensure_library(folder: Path, *, compiler: str = COMPILER, compile_seconds: float = COMPILE_SECONDS) -> Path:
    """Return a library that was tried just now; compile it where there is none for this source and this processor.

    Args:
        folder: Where it lies; made with mode 0700.
        compiler: Name or path of the C compiler.
        compile_seconds: How long it may take.

    Raises:
        NativeUnavailable: No compiler, it failed, or what it made hashes wrongly.
    """
    source = SOURCE.read_bytes()
    name = hashlib.sha256(b"\n".join((source, " ".join(FLAGS).encode(), host.cpu_identity().encode()))).hexdigest()
    library = folder / f"pow-{name[:16]}.so"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if library.exists():
            with contextlib.suppress(NativeUnavailable):
                return _tried(library)
        return _compiled(source, library, compiler, compile_seconds)
    except OSError as err:
        raise NativeUnavailable(f"{folder}: {err.strerror or err}") from err


def _compiled(source: bytes, library: Path, compiler: str, seconds: float) -> Path:
    path = shutil.which(compiler)
    if path is None:
        raise NativeUnavailable(f"there is no C compiler {compiler!r} on the PATH; on Debian: apt-get install gcc")
    # The ending stays: nothing but a library may be loaded, and two starts at once do not meet.
    fresh = library.with_name(f"new-{os.getpid()}.so")
    try:
        _compile([path, *FLAGS, "-o", str(fresh), "-"], source, library.parent, seconds)
        _tried(fresh)
        for old in library.parent.glob("pow-*.so"):
            old.unlink(missing_ok=True)
        return fresh.replace(library)
    finally:
        fresh.unlink(missing_ok=True)


def _compile(command: list[str], source: bytes, folder: Path, seconds: float) -> None:
    # What a compiler reads from the environment (CPATH, CFLAGS, a preloaded library) stays outside.
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TMPDIR": str(folder)}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environment,
        umask=0o077,
        start_new_session=True,
    ) as process:
        try:
            _, said = process.communicate(source, seconds)
        except subprocess.TimeoutExpired as err:
            raise NativeUnavailable(f"{command[0]} took longer than {seconds:g} s") from err
        finally:
            # Also what it started: a killed driver would leave the compiler proper at work.
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        lines = said.decode(errors="replace").strip().splitlines()
        raise NativeUnavailable(
            f"{command[0]} ended with {process.returncode}: {lines[-1][:200] if lines else 'no word'}"
        )


def _tried(library: Path) -> Path:
    command = [sys.executable, "-m", "challenges.pow_native", str(library)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TRY_SECONDS, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as err:
        raise NativeUnavailable(f"{library.name} took longer than {TRY_SECONDS:g} s to be tried") from err
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        cause = lines[-1][:300] if lines else f"status {done.returncode}"
        raise NativeUnavailable(f"the compiled library does not pass its trial: {cause}")
    return library
