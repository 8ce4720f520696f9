"""A machine that `deploy/install` was run for, and its services run as their units say, without a service manager.

A mount namespace lays the installed root over this machine's: /opt, /etc and /var/lib are what the installer made, with
this machine's own programs below. The line that is run is the unit's ExecStart, word for word.

Rules:
- Nothing of this machine is written to: what a service writes lies below the installed root.
- What of a unit is applied: user, capabilities, no new privileges, read-only system, private /var/tmp, the credential, limits, the
  filter of system calls and address families, and no writable code. What is not, `systemd-analyze` alone has looked at.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
UNITS = CHECKOUT / "deploy" / "systemd"
CONFINE = CHECKOUT / "tests" / "support" / "confine.py"
SECONDS = 60.0
PROGRAMS = ("systemd-analyze", "systemd-sysusers", "systemd-tmpfiles", "setpriv", "unshare", "nsenter")
# Users and groups that the base of every machine has.
ACCOUNTS = ("passwd", "group", "shadow", "gshadow")
_OVERLAY = """
set -eu
umask 022
root=$1
for place in opt etc var/lib; do
    mkdir -p "$root/$place" "$root/.work/$place"
    mount -t overlay overlay -o "lowerdir=/$place,upperdir=$root/$place,workdir=$root/.work/$place" "/$place"
done
# Its own files are no part of the overlay: disks of leases lie on them.
mkdir -p /var/lib/polarise && mount --bind "$root/var/lib/polarise" /var/lib/polarise
# Python and its packages, where any user may read them: a checkout may lie in a home folder.
mkdir -p /opt/python /opt/packages /opt/venv/bin "/opt/venv/lib/$4/site-packages"
mount --bind "$2" /opt/python
mount --bind "$3" /opt/packages
printf 'home = /opt/python/bin\n' >/opt/venv/pyvenv.cfg
echo /opt/packages >"/opt/venv/lib/$4/site-packages/packages.pth"
ln -s "/opt/python/bin/$4" /opt/venv/bin/python
[ ! -e /opt/polarise ] || ln -sfn /opt/venv /opt/polarise/.venv
echo ready
exec sleep infinity
"""
_READ_ONLY = """
set -eu
state=$1 credentials=$2; shift 2
mount --bind "$state" "$state"
mount --bind "$credentials" "$credentials"
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
for place in / /opt /etc /var/lib; do mount -o remount,bind,ro "$place"; done
exec "$@"
"""


def why_no_installing() -> str | None:
    """Return why nothing can be installed into a root of its own here, None when it can."""
    if os.geteuid() != 0:
        return "users and mounts of an installed root need root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"there is no program {missing[0]!r} on this machine" if missing else None


@dataclass(frozen=True)
class Unit:
    """A service file: the values of each key of its [Service] section, in their order."""

    name: str
    values: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls, name: str, folder: Path = UNITS) -> Unit:
        """Read a unit by its name."""
        values: dict[str, list[str]] = {}
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            key, separator, value = line.partition("=")
            if separator and not line.startswith("#"):
                values.setdefault(key, []).append(value)
        return cls(name, values)

    def one(self, key: str, default: str = "") -> str:
        """Return the last value of a key."""
        return self.values.get(key, [default])[-1]

    def is_set(self, key: str) -> bool:
        """Whether a switch is on."""
        return self.one(key) in {"yes", "true", "strict"}


class Machine:
    """One installed root, laid over this machine in a mount namespace; use it as a context manager.

    Args:
        root: An empty folder.
        network: Words that enter a network namespace, before every command; none for this machine's own network.
    """

    def __init__(self, root: Path, network: Sequence[str] = ()) -> None:
        self.root = root
        self.network = tuple(network)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Machine:
        (self.root / "etc").mkdir(parents=True)
        (self.root / "etc").chmod(0o755)
        for name in ACCOUNTS:
            shutil.copy2(Path("/etc") / name, self.root / "etc" / name)
        return self

    def install(self, role: str, *options: str) -> str:
        """Run `deploy/install` for this root, with this checkout's Python environment; before `boot`."""
        return script("install", "--role", role, "--root", str(self.root), "--venv", sys.prefix, *options)

    def boot(self) -> None:
        """Lay the root over this machine; from here on its files are changed at `path` only."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        words = [str(self.root), sys.base_prefix, sysconfig.get_path("purelib"), version]
        holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", _OVERLAY, "sh", *words],
            stdout=subprocess.PIPE,
        )
        self._stack.callback(_end, holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        self.mounts = ("nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", "--")
        self._files = Path(f"/proc/{holder.pid}/root")

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def path(self, name: str) -> Path:
        """Return where this process finds a file of the machine."""
        return self._files / name.removeprefix("/")

    def command(self, *words: str) -> list[str]:
        """Return the command line that runs something on this machine."""
        return [*self.network, *self.mounts, *words]

    def run(self, *words: str) -> str:
        """Run something on this machine, as root, and return what it prints."""
        done = subprocess.run(
            self.command(*words),
            env=clean_environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            umask=0o022,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def run_as(self, role: str, *words: str) -> str:
        """Run a command of main.py as the installed run-as does."""
        return self.run("/opt/polarise/deploy/run-as", role, *words)

    def start(self, unit: Unit, log: Path) -> subprocess.Popen[bytes]:
        """Start a service as its unit says; the caller stops it."""
        with log.open("ab") as stream:
            return subprocess.Popen(
                self.command(*self.confined(unit)),
                env={**clean_environ(), **self._environ(unit)},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    @contextlib.contextmanager
    def running(self, name: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Run a service for a while, and stop it as systemd does: SIGTERM, then wait."""
        process = self.start(Unit.read(name, self.path("/etc/systemd/system")), log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(SECONDS)
        assert status == 0, log.read_text(encoding="utf-8")[-3000:]

    def confined(self, unit: Unit) -> list[str]:
        """Return the words before and with ExecStart."""
        user, state = unit.one("User"), f"/var/lib/{unit.one('StateDirectory')}"
        credentials = f"/var/lib/polarise/.credentials-{unit.name}"
        name, _, source = unit.one("LoadCredential").partition(":")
        self.run("install", "-d", "-m", "0700", "-o", user, credentials)
        self.run("install", "-m", "0400", "-o", user, source, f"{credentials}/{name}")
        words: list[str] = []
        if unit.is_set("ProtectSystem"):
            words += [
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                _READ_ONLY,
                "sh",
                state,
                credentials,
            ]
        capabilities = [f"+{word.removeprefix('CAP_').lower()}" for word in unit.one("CapabilityBoundingSet").split()]
        words += ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--inh-caps=-all"]
        words += [f"--bounding-set={','.join(['-all', *capabilities])}"]
        words += ["--no-new-privs"] if unit.is_set("NoNewPrivileges") else []
        line = unit.one("ExecStart").split()
        return [*words, "--", line[0], "-c", CONFINE.read_text(encoding="utf-8"), json.dumps(_wanted(unit)), *line]

    def _environ(self, unit: Unit) -> dict[str, str]:
        own = dict(item.split("=", 1) for line in unit.values.get("Environment", ()) for item in line.split())
        return {
            **own,
            "CREDENTIALS_DIRECTORY": f"/var/lib/polarise/.credentials-{unit.name}",
            "HOME": "/",
            "TMPDIR": "/var/tmp",
        }


def script(name: str, *options: str, expect: int = 0) -> str:
    """Run a script of `deploy/`, from a shell that keeps everything to itself, and return what it prints."""
    done = subprocess.run(
        [str(CHECKOUT / "deploy" / name), *options],
        env={**clean_environ(), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        umask=0o077,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def clean_environ() -> dict[str, str]:
    """Return an environment such as a service manager gives: settings of the caller's are kept out."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        # A Python that was built here looks for its own library where it was built.
        "LD_LIBRARY_PATH": "/opt/python/lib",
    }


def call_groups() -> dict[str, list[str]]:
    """Return systemd's groups of system calls, as `systemd-analyze syscall-filter` prints them."""
    printed = subprocess.run(["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True).stdout
    groups: dict[str, list[str]] = {}
    for line in printed.splitlines():
        if line.startswith("@"):
            groups[line.strip()] = members = []
        elif line.startswith("    ") and not line.lstrip().startswith("#"):
            members.append(line.strip())
    return groups


def allowed_calls(unit: Unit) -> list[str]:
    """Return the names a unit's SystemCallFilter lets through; later lines add and take away, as systemd reads them."""
    groups = call_groups()

    def expand(word: str) -> set[str]:
        return set().union(*(expand(member) for member in groups[word])) if word.startswith("@") else {word}

    allowed: set[str] = set()
    for line in unit.values.get("SystemCallFilter", ()):
        for word in line.removeprefix("~").split():
            allowed = allowed - expand(word) if line.startswith("~") else allowed | expand(word)
    # systemd lets these through whatever a filter says, because it makes them itself before the program begins.
    return sorted(allowed | expand("@default")) if allowed else []


def _wanted(unit: Unit) -> dict[str, object]:
    limits = {
        f"RLIMIT_{key.removeprefix('Limit')}": int(unit.one(key))
        for key in unit.values
        if key.startswith("Limit") and unit.one(key).isdigit()
    }
    return {
        "folder": unit.one("WorkingDirectory"),
        "limits": limits,
        "refuses_writable_code": unit.is_set("MemoryDenyWriteExecute"),
        "calls": allowed_calls(unit),
        "families": unit.one("RestrictAddressFamilies").split(),
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(SECONDS)
    if process.stdout is not None:
        process.stdout.close()
