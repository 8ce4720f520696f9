"""The Docker engine: asked first, started only when it does not answer, and never our child.

Rules:
- The engine counts, not the command: a newer `docker` client in front of an older engine is fine.
- Where systemd runs, systemd starts it. Elsewhere dockerd starts in a session of its own, with its own log file and no
  pipe to us, so that it outlives the set-up and whatever started the set-up.
- A pid file left by a machine that died is removed only when its process is not a dockerd.
"""

from __future__ import annotations

import time
from pathlib import Path

from neurons.setup.cgroups import mount_missing_cgroups
from neurons.setup.errors import SetupError
from neurons.setup.progress import ALREADY_THERE, Progress
from neurons.setup.shell import Outcome, as_root, find_program, is_root, run

LOG = Path("/var/log/polarise-dockerd.log")
PID_FILE = Path("/var/run/docker.pid")
SYSTEMD = Path("/run/systemd/system")
START_DEADLINE_SECONDS = 60.0
POLL_SECONDS = 0.25
TAIL_LINES = 15
# The shell ends at once and dockerd belongs to init from then on; $! is dockerd itself, because setsid only execs.
_START_SCRIPT = 'setsid dockerd </dev/null >>"$1" 2>&1 & echo $!'


def docker(arguments: list[str]) -> list[str]:
    """Return a docker command line that reaches the engine: as we are, or through sudo where the socket refuses us."""
    command = ["docker", *arguments]
    if not is_root() and "permission denied" in _info().errors.lower():
        return as_root(command, "talk to the Docker engine (or membership in the group docker)")
    return command


def engine_version() -> str | None:
    """Return the version of the engine that answers, or None."""
    if find_program("docker") is None:
        return None
    outcome = run(docker(["version", "--format", "{{.Server.Version}}"]))
    version = outcome.output.strip()
    return version if outcome.ok and version and version != "<no value>" else None


def start_engine(progress: Progress) -> str:
    """See to it that a Docker engine answers.

    Returns:
        The result line of the step.

    Raises:
        SetupError: There is none, or it does not come up; the message holds the end of its log.
    """
    version = engine_version()
    if version is not None:
        return f"{ALREADY_THERE}: {version}"
    if mount_missing_cgroups():
        progress.note("mounted the control groups on /sys/fs/cgroup")
    if SYSTEMD.exists():
        _start_by_systemd()
        return f"started {_wait_for_engine(None)} with systemd"
    if find_program("dockerd") is None:
        raise SetupError("there is no Docker engine on this machine", "install Docker, then run `make setup` again")
    _remove_stale_pid_file()
    progress.note(f"starting dockerd by hand as root; its log is {LOG}")
    return f"started {_wait_for_engine(_start_by_hand())} by hand"


def _info() -> Outcome:
    return run(["docker", "info", "--format", "{{.ServerVersion}}"])


def _start_by_systemd() -> None:
    outcome = run(as_root(["systemctl", "enable", "--now", "docker"], "start Docker"), timeout_seconds=120)
    if not outcome.ok:
        raise SetupError(f"systemd could not start docker:\n{outcome.tail()}", "read `journalctl -u docker -n 50`")


def _start_by_hand() -> int:
    outcome = run(as_root(["sh", "-c", _START_SCRIPT, "sh", str(LOG)], "start dockerd"))
    if not outcome.ok:
        raise SetupError(f"could not start dockerd: {outcome.tail()}", f"is {LOG.parent} writable for root?")
    return int(outcome.output)


def _wait_for_engine(pid: int | None) -> str:
    """Poll until the engine answers; `pid` is dockerd's where we started it, and its death ends the wait."""
    deadline = time.monotonic() + START_DEADLINE_SECONDS
    while time.monotonic() < deadline:
        version = engine_version()
        if version is not None:
            return version
        if pid is not None and not _is_alive(pid):
            break
        time.sleep(POLL_SECONDS)
    raise SetupError(
        f"dockerd did not come up. The end of {LOG}:\n{_log_tail()}",
        "the last line names the cause; in a container, start it with the rights Docker needs, or use another machine",
    )


def _is_alive(pid: int) -> bool:
    """Whether the process runs; one that died stays in /proc as a zombie where nobody is init."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False


def _log_tail() -> str:
    return run(as_root(["tail", "-n", str(TAIL_LINES), str(LOG)], "read dockerd's log")).output


def _remove_stale_pid_file() -> None:
    if not PID_FILE.exists():
        return
    pid = PID_FILE.read_text(encoding="utf-8").strip()
    name = Path(f"/proc/{pid}/comm")
    if name.exists() and name.read_text(encoding="utf-8").strip() == "dockerd":
        raise SetupError(
            f"a dockerd runs (process {pid}) but does not answer", f"see why in its log; `kill {pid}` if it hangs"
        )
    run(as_root(["rm", "-f", str(PID_FILE)], "remove dockerd's stale pid file"))
