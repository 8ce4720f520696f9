"""One throw-away ssh login into a container of the base image: the proof that this machine can serve a renter.

Rules:
- The container has those flags of a lease that a login fails by: all capabilities dropped but the nine sshd and apt need,
  no new privileges, PID 1 off Docker's log pipe, a port on loopback. A login finds what a banner hides: with a capability missing sshd
  greets and then drops the session.
- Both keys are made for this one login; the host key is pinned before the first connect.
- The container and the keys are removed in any case.
- A stamp per image id, engine and kernel spares the next run the two seconds.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import socket
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from neurons.setup.checkout import Checkout
from neurons.setup.engine import docker, engine_version
from neurons.setup.errors import SetupError
from neurons.setup.image import image_id
from neurons.setup.shell import Outcome, run

LABEL = "polarise.preflight"
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SYS_CHROOT", "AUDIT_WRITE",
)  # fmt: skip
MEMORY_LIMIT_BYTES = 256 * 1024 * 1024
READY_DEADLINE_SECONDS = 20.0
POLL_SECONDS = 0.02
LOGIN_TIMEOUT_SECONDS = 20.0
FOLDER = "/etc/polarise-preflight"
STAMP_NAME = "preflight.json"
_SSHD_CONFIG = f"""\
Port 22
HostKey {FOLDER}/host_key
AuthorizedKeysFile {FOLDER}/authorized_keys
AuthenticationMethods publickey
PermitRootLogin prohibit-password
UsePAM no
UseDNS no
"""
_PID_1 = f"mkdir -p /run/sshd; exec /usr/sbin/sshd -D -f {FOLDER}/sshd_config </dev/null >/dev/null 2>&1"
# No host key may be baked in (all renters would share it), and the memory limit must be the one that was asked for.
_QUESTIONS = (
    "ls /etc/ssh/ssh_host_* 2>/dev/null; echo keys-listed; "
    "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
)


@dataclass(frozen=True, slots=True)
class Login:
    """A login that worked: where, with what, and how long start to answer took."""

    image_id: str
    engine: str
    kernel: str
    banner: str
    seconds: float


def preflight(checkout: Checkout, reference: str, *, force: bool) -> tuple[Login, bool]:
    """Log in once, unless this very combination is known to work.

    Args:
        checkout: Holds the stamp.
        reference: The image to try.
        force: Log in even where the stamp says that it works.

    Returns:
        The login, and whether it was made just now.

    Raises:
        SetupError: The login did not work; the message holds what sshd and ssh said.
    """
    identity = image_id(reference)
    if identity is None:
        raise SetupError(f"the engine holds no image {reference}", "run `make setup`")
    stamp = read_login(checkout)
    engine = engine_version() or "unknown"
    if not force and stamp is not None and is_current(stamp, identity, engine, platform.release()):
        return stamp, False
    login = log_in(identity, engine)
    write_login(checkout, login)
    return login, True


def write_login(checkout: Checkout, login: Login) -> None:
    """Keep a login that worked."""
    checkout.state.mkdir(exist_ok=True)
    (checkout.state / STAMP_NAME).write_text(json.dumps(asdict(login), indent=1) + "\n", encoding="utf-8")


def read_login(checkout: Checkout) -> Login | None:
    """Return the last login that worked, or None."""
    try:
        return Login(**json.loads((checkout.state / STAMP_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_current(stamp: Login, identity: str, engine: str, kernel: str) -> bool:
    """Whether the stamp speaks of this image, this engine and this kernel."""
    return (stamp.image_id, stamp.engine, stamp.kernel) == (identity, engine, kernel)


def read_memory_limit(answer: str) -> int | None:
    """Return the limit the container sees, in bytes, from its answer to our questions; None when it sees none.

    Raises:
        SetupError: The image carries an ssh host key of its own.
    """
    listed, _, limit = answer.partition("keys-listed")
    if listed.strip():
        raise SetupError(
            f"the image carries ssh host keys that all renters would share: {' '.join(listed.split())}",
            "remove /etc/ssh/ssh_host_* when building it, or use the image `make setup` builds",
        )
    return int(limit) if re.fullmatch(r"\s*\d+\s*", limit) else None


def log_in(identity: str, engine: str) -> Login:
    """Log in to a throw-away container of an image, whatever the stamp says.

    Args:
        identity: The image's id.
        engine: Version of the engine, for the stamp.

    Raises:
        SetupError: The login did not work.
    """
    started = time.monotonic()
    name = f"polarise-preflight-{time.time_ns():x}"
    keys = Path(tempfile.mkdtemp(prefix="polarise-preflight-"))
    try:
        _make_keys(keys)
        _start_container(name, identity, keys / "container")
        port = _published_port(name)
        banner = _wait_for_banner(name, port)
        answer = _ask(keys, port)
        if not answer.ok:
            raise SetupError(f"sshd greets but the login failed:\n{answer.tail()}", _look_inside(name))
        limit_bytes = read_memory_limit(answer.output)
        if limit_bytes != MEMORY_LIMIT_BYTES:
            raise SetupError(
                f"memory limit: got {limit_bytes}, expected {MEMORY_LIMIT_BYTES} bytes inside the container",
                "the engine holds no memory limits: see `docker info`, and the control groups in `main.py doctor`",
            )
    finally:
        run(docker(["rm", "--force", "--volumes", name]))
        shutil.rmtree(keys, ignore_errors=True)
    return Login(identity, engine, platform.release(), banner, round(time.monotonic() - started, 3))


def _make_keys(folder: Path) -> None:
    """Make a host key and a client key; what goes into the container stands in a folder of its own."""
    inside = folder / "container"
    inside.mkdir(mode=0o700)
    for path in (inside / "host_key", folder / "client_key"):
        outcome = run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "preflight", "-f", str(path)])
        if not outcome.ok:
            raise SetupError(f"ssh-keygen failed: {outcome.tail(3)}", "install openssh-client")
    (inside / "authorized_keys").write_bytes((folder / "client_key.pub").read_bytes())
    (inside / "sshd_config").write_text(_SSHD_CONFIG, encoding="utf-8")
    (inside / "authorized_keys").chmod(0o600)
    host_key = (inside / "host_key.pub").read_text(encoding="utf-8")
    (folder / "known_hosts").write_text(f"preflight {host_key}", encoding="utf-8")


def _start_container(name: str, identity: str, inside: Path) -> None:
    """Create, copy the keys in, start; copying works where a bind mount would not, with an engine elsewhere."""
    flags = [
        *("--name", name, "--label", f"{LABEL}=1", "--publish", "127.0.0.1::22", "--cap-drop", "ALL"),
        *(flag for capability in CAPABILITIES for flag in ("--cap-add", capability)),
        *("--security-opt", "no-new-privileges:true", "--pids-limit", "64", "--restart", "no"),
        *("--memory", str(MEMORY_LIMIT_BYTES), "--memory-swap", str(MEMORY_LIMIT_BYTES)),
    ]
    for arguments in (
        ["create", *flags, identity, "sh", "-c", _PID_1],
        ["cp", str(inside), f"{name}:{FOLDER}"],
        ["start", name],
    ):
        outcome = run(docker(arguments), timeout_seconds=60)
        if not outcome.ok:
            raise SetupError(f"docker {arguments[0]} failed:\n{outcome.tail(5)}", "see docs/troubleshooting.md, no. 1")


def _published_port(name: str) -> int:
    outcome = run(docker(["port", name, "22/tcp"]))
    match = re.search(r":(\d+)\s*$", outcome.output, re.MULTILINE)
    if match is None:
        raise SetupError(f"the container has no published port: {outcome.tail(3)}", _look_inside(name))
    return int(match[1])


def _wait_for_banner(name: str, port: int) -> str:
    """Read `SSH-`: docker-proxy accepts before sshd lives, so a connect alone proves nothing."""
    deadline = time.monotonic() + READY_DEADLINE_SECONDS
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                line = connection.recv(255)
        except OSError:
            line = b""
        if line.startswith(b"SSH-"):
            return line.decode("ascii", "replace").strip()
        time.sleep(POLL_SECONDS)
    raise SetupError(f"no ssh banner on 127.0.0.1:{port} within {READY_DEADLINE_SECONDS:.0f} s", _look_inside(name))


def _ask(keys: Path, port: int) -> Outcome:
    """Log in with the one key and the one known host, and put the questions."""
    options = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "IdentityFile": str(keys / "client_key"),
        "UserKnownHostsFile": str(keys / "known_hosts"),
        "GlobalKnownHostsFile": "none",
        "HostKeyAlias": "preflight",
        "StrictHostKeyChecking": "yes",
        "ConnectTimeout": "10",
    }
    flags = [flag for key, value in options.items() for flag in ("-o", f"{key}={value}")]
    command = ["ssh", "-F", "none", "-p", str(port), *flags, "root@127.0.0.1", _QUESTIONS]
    return run(command, timeout_seconds=LOGIN_TIMEOUT_SECONDS)


def _look_inside(name: str) -> str:
    """Say what the container itself reports, before it is removed."""
    state = run(docker(["inspect", "--format", "{{.State.Status}} {{.State.Error}}", name])).output.strip()
    return f"the container was: {state or 'gone'}; is sshd in the image, and is forwarding to containers allowed?"
