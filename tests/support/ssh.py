"""The OpenSSH client, strict from the first connection; no library stands in for it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from polarise.messages import AllocateAnswer

ASKPASS = """\
#!/bin/sh
printf '%s\\n' "$POLARISE_TEST_PASSWORD"
"""


@dataclass(frozen=True)
class Login:
    """How to log in to one container.

    Attributes:
        folder: Where known_hosts and keys of this test lie.
        port: The ssh port.
        host_key: The pinned host key line.
        key_file: Private key; None logs in by password.
        password: Password; None logs in by key.
        user: Who logs in.
    """

    folder: Path
    port: int
    host_key: str
    key_file: Path | None = None
    password: str | None = None
    user: str = "root"

    @staticmethod
    def to(
        answer: AllocateAnswer, folder: Path, *, private_key: str | None = None, password: str | None = None
    ) -> Login:
        """Prepare a login to what was allocated."""
        key_file = None
        if private_key is not None:
            key_file = folder / f"id-{time.monotonic_ns()}"
            key_file.write_text(private_key, encoding="ascii")
            key_file.chmod(0o600)
        return Login(folder, answer.ssh_port, answer.host_key, key_file, password, answer.ssh_user)

    def run(self, command: str, *, seconds: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run one command over a fresh connection."""
        with self._prepared() as (arguments, environ):
            return subprocess.run(
                [*arguments, command],
                env=environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )

    def put(self, content: bytes, path: str) -> None:
        """Write a program into the container, so that it can be started."""
        with self._prepared() as (arguments, environ):
            command = f"cat >{path} && chmod 755 {path}"
            subprocess.run(
                [*arguments, command], env=environ, input=content, capture_output=True, timeout=60, check=True
            )

    def output(self, command: str) -> str:
        """Run one command that has to work, and return what it printed."""
        done = self.run(command)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Keep one connection open and talk to a shell on it."""
        with self._prepared() as (arguments, environ):
            process = subprocess.Popen(
                [*arguments, "sh"],
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            session = Session(process)
            try:
                yield session
            finally:
                process.kill()
                process.wait(10)
                session.close()

    @contextlib.contextmanager
    def _prepared(self) -> Iterator[tuple[list[str], dict[str, str]]]:
        known_hosts = self.folder / f"known_hosts-{time.monotonic_ns()}"
        known_hosts.write_text(f"[127.0.0.1]:{self.port} {self.host_key}\n", encoding="ascii")
        options = [
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={known_hosts}",
            "GlobalKnownHostsFile=/dev/null",
            "ConnectTimeout=10",
            "ServerAliveInterval=5",
            "LogLevel=ERROR",
        ]
        environ = {name: value for name, value in os.environ.items() if name not in {"SSH_AUTH_SOCK", "DISPLAY"}}
        if self.key_file is not None:
            options += ["BatchMode=yes", "IdentitiesOnly=yes", f"IdentityFile={self.key_file}"]
        else:
            askpass = self.folder / "askpass"
            askpass.write_text(ASKPASS, encoding="ascii")
            askpass.chmod(0o700)
            options += ["PubkeyAuthentication=no", "NumberOfPasswordPrompts=1", "PreferredAuthentications=password"]
            environ |= {
                "SSH_ASKPASS": str(askpass),
                "SSH_ASKPASS_REQUIRE": "force",
                "POLARISE_TEST_PASSWORD": self.password or "",
            }
        arguments = ["ssh", "-F", "/dev/null", "-p", str(self.port), "-l", self.user]
        yield [*arguments, *(part for option in options for part in ("-o", option)), "127.0.0.1"], environ


class Session:
    """A shell at the other end of one connection."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def ask(self, command: str, *, seconds: float = 20.0) -> str:
        """Send a command that prints one line, and return the line; fails when the connection is cut."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            stdin.write(command.encode() + b"\n")
            stdin.flush()
            line = stdout.readline()
        finally:
            timer.cancel()
        assert line, "the connection was cut"
        return line.decode().strip()

    def wait_cut(self, seconds: float) -> float:
        """Wait until the connection ends, and return the monotonic time when it did."""
        self.process.wait(seconds)
        return time.monotonic()

    def close(self) -> None:
        """Close our ends."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
