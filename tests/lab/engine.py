"""A lab: a Docker engine of its own in a network namespace of its own, on this host's kernel and file system.

Rules:
- No default route may lead out of the lab. That is asked before the engine starts and before each command inside; a lab
  with a way out is not entered, so that no attack ever leaves this machine.
- The host's own engine is only read from, once, for the image. It is never asked to start, stop or change anything.
- Folder, socket, process and namespace carry one name and are gone at the end, whatever happened. Only processes that
  this lab started are ended, by their ids.
- The engine shares kernel, control groups and process table with the host: what it limits is what a miner's would.
  Published ports listen inside the namespace, so whoever needs them runs there (`Lab.command`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import docker
from docker.errors import APIError, DockerException
from docker.models.containers import Container

from neurons.setup.image import base_image_reference
from tests.support.engine import why_no_engine
from utils.docker_utils import connect

PROGRAMS = ("dockerd", "docker", "ip", "nsenter", "iptables")
START_SECONDS = 60.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.1
COMMAND_SECONDS = 120.0
CLONE_NEWNET = 0x40000000
# Its path holds a unix socket, whose name may have 107 bytes.
FOLDER = "/var/tmp"


class NoLab(Exception):
    """The lab cannot be built or entered here; the message says why."""


def why_no_lab() -> str | None:
    """Return why no lab can be built here, None when one can."""
    if os.geteuid() != 0:
        return "a lab needs root: a network namespace and a second Docker engine"
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"there is no program {missing[0]!r} on this machine"
    return why_no_engine()


@dataclass(frozen=True, slots=True)
class Lab:
    """A running lab.

    Attributes:
        name: Of namespace and folder.
        folder: Everything of it on disk; not in memory, because a container's root lies on it.
        image: Reference of the base image inside.
        client: The lab's engine.
        engine: Its dockerd, for whoever wants to hang, end or start it.
        options: Further arguments that its dockerd was started with.
    """

    name: str
    folder: Path
    image: str
    client: docker.DockerClient
    engine: LabEngine
    options: tuple[str, ...] = field(default=())

    @property
    def socket(self) -> Path:
        """Socket of the engine; reached from outside the namespace too."""
        return self.folder / "docker.sock"

    @property
    def host(self) -> str:
        """The engine's address, as `docker.host` in the settings takes it."""
        return f"unix://{self.socket}"

    @property
    def namespace(self) -> Path:
        """The network namespace, for `nsenter --net`."""
        return Path("/run/netns") / self.name

    def command(self, *words: str | Path) -> list[str]:
        """Return the command line that runs ``words`` inside the namespace.

        Raises:
            NoLab: A default route leads out of the lab.
        """
        refuse_way_out(self.name)
        return ["nsenter", f"--net={self.namespace}", "--", *(str(word) for word in words)]

    def run(
        self, *words: str | Path, seconds: float = COMMAND_SECONDS, environ: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside the namespace; its failure is the caller's to judge."""
        return subprocess.run(
            self.command(*words),
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def output(self, *words: str | Path, seconds: float = COMMAND_SECONDS) -> str:
        """Run a program that has to work inside the namespace, and return what it printed."""
        done = self.run(*words, seconds=seconds)
        if done.returncode != 0:
            raise NoLab(f"{' '.join(map(str, words))} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
        return done.stdout


@contextlib.contextmanager
def lab(*options: str, prepare: Callable[[str], None] = lambda _name: None, enter: Sequence[str] = ()) -> Iterator[Lab]:
    """Build a lab, and take all of it away at the end.

    Args:
        options: Further arguments of its dockerd.
        prepare: Called with the namespace's name before the engine starts, to put interfaces into it.
        enter: Words that enter a mount namespace, in which the engine finds what its containers are given.

    Raises:
        NoLab: It cannot be built here, or a default route would lead out of it.
    """
    if cause := why_no_lab():
        raise NoLab(cause)
    name = f"polarise-lab-{secrets.token_hex(4)}"
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=FOLDER))
        stack.callback(_remove_folder, folder)
        _check("ip", "netns", "add", name)
        stack.callback(_check, "ip", "netns", "delete", name)
        _check("ip", "-n", name, "link", "set", "lo", "up")
        prepare(name)
        refuse_way_out(name)
        engine = LabEngine(name, folder, options, enter)
        stack.callback(engine.stop)
        client = stack.enter_context(contextlib.closing(connect(f"unix://{folder / 'docker.sock'}")))
        engine.wait(client)
        stack.callback(_remove_containers, client)
        reference = base_image_reference()
        _copy_image(reference, folder / "docker.sock")
        yield Lab(name, folder, reference, client, engine, options)


class LabEngine:
    """The dockerd of one lab, which begins to run when this is made.

    Args:
        name: The namespace.
        folder: Of the lab.
        options: Further arguments.
        enter: Words before the command, which end in ``--``.
    """

    def __init__(self, name: str, folder: Path, options: Sequence[str], enter: Sequence[str] = ()) -> None:
        self._log = folder / "dockerd.log"
        self._command = [
            *("nsenter", f"--net=/run/netns/{name}", "--", *enter, "dockerd"),
            *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
            *("--pidfile", str(folder / "dockerd.pid"), "--host", f"unix://{folder / 'docker.sock'}"),
            *("--config-file", str(folder / "daemon.json"), *options),
        ]
        (folder / "daemon.json").write_text("{}\n", encoding="ascii")
        self.start()

    def start(self) -> None:
        """Start it; once more after `stop` too, on the same folder."""
        with self._log.open("ab") as log:
            # A group of its own, so that a Ctrl-C at the terminal reaches us first and we take things down in their order.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """Process id of the running dockerd; nsenter became it."""
        return self._process.pid

    def send(self, signal_number: signal.Signals) -> None:
        """Send it a signal: SIGSTOP hangs it, SIGCONT wakes it."""
        self._process.send_signal(signal_number)

    def wait(self, client: docker.DockerClient) -> None:
        """Wait until it can serve.

        Raises:
            NoLab: It does not, in time.
        """
        pause = threading.Event()
        for _ in range(int(START_SECONDS / POLL_SECONDS)):
            if self._process.poll() is not None:
                break
            # `_ping` is answered from the moment the engine can serve.
            with contextlib.suppress(DockerException, OSError):
                if (self._log.parent / "docker.sock").exists() and client.api.ping():
                    return
            pause.wait(POLL_SECONDS)
        tail = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise NoLab(f"the lab's dockerd does not answer; the end of its log:\n{tail}")

    def stop(self) -> None:
        """End it, and with it the containers unless it was started with --live-restore."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS)


def refuse_way_out(name: str) -> None:
    """Look for a default route in any table of a namespace.

    Raises:
        NoLab: There is one; nothing may attack anything from there.
    """
    for family in ("-4", "-6"):
        found = _check("ip", family, "-n", name, "route", "show", "table", "all", "default").strip()
        # The kernel adds this one to a namespace without IPv6 routes; it leads nowhere.
        ways = [line for line in found.splitlines() if not line.startswith(("unreachable ", "prohibit ", "blackhole "))]
        if ways:
            raise NoLab(f"a default route leaves the lab {name}: {ways[0].strip()}")


@contextlib.contextmanager
def inside(built: Lab) -> Iterator[None]:
    """Let the calling thread, and every thread and process that it starts meanwhile, live in the lab's network.

    Raises:
        NoLab: A default route leads out of the lab, or the kernel refuses.
    """
    refuse_way_out(built.name)
    with Path("/proc/thread-self/ns/net").open("rb") as home, built.namespace.open("rb") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(descriptor: int) -> None:
    # Python has os.setns from 3.12 on.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise NoLab(f"setns: {os.strerror(ctypes.get_errno())}")


def _copy_image(reference: str, socket: Path) -> None:
    """Hand the base image from the host's engine to the lab's, without a registry and without a file."""
    save = subprocess.Popen(["docker", "save", reference], stdout=subprocess.PIPE)
    try:
        load = subprocess.run(
            ["docker", "--host", f"unix://{socket}", "load", "--quiet"],
            stdin=save.stdout,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    finally:
        if save.stdout is not None:
            save.stdout.close()
        save.wait(10)
    if load.returncode != 0 or save.returncode != 0:
        raise NoLab(f"the image {reference} cannot be copied into the lab: {load.stderr.strip()}")


def _remove_containers(client: docker.DockerClient) -> None:
    """Remove every container of the lab's engine, which is nobody else's."""
    found: list[Container] = client.containers.list(all=True, ignore_removed=True)
    for container in found:
        with contextlib.suppress(APIError):
            container.remove(force=True, v=True)


def _remove_folder(folder: Path) -> None:
    """Take away what is still mounted below the folder, innermost first, and the folder."""
    table = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    mounted = [line.split()[1] for line in table if line.split()[1].startswith(f"{folder}/")]
    for target in sorted(mounted, key=len, reverse=True):
        subprocess.run(["umount", "--lazy", target], capture_output=True, timeout=30, check=False)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        sys.stderr.write(f"{folder} could not be removed whole\n")


def _check(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise NoLab(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
