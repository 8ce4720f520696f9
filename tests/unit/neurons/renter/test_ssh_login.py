"""OpenSSH itself, run by `renter ssh`, against a small SSH server whose host key is, or is not, the pinned one."""

from __future__ import annotations

import contextlib
import io
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from neurons.renter.leases import Lease, LeaseRecord, known_hosts_line
from neurons.renter.ssh import ssh_command
from polarise.receipt import Receipt
from polarise.ssh_keys import fingerprint, generate_key_pair
from tests.unit.polarise.small_miner import LIMITS

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH's client")


class OneCommand(paramiko.ServerInterface):
    """Lets one public key in and answers every command with its own text and exit status 9."""

    def __init__(self, allowed: str) -> None:
        self._allowed = allowed
        self.keys_offered = 0

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self.keys_offered += 1
        is_allowed = f"{key.get_name()} {key.get_base64()}" == self._allowed
        return AUTH_SUCCESSFUL if is_allowed else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=_answer, args=(channel, command), name="answer").start()
        return True


def _answer(channel: paramiko.Channel, command: bytes) -> None:
    channel.sendall(b"ran " + command + b"\n")
    channel.send_exit_status(9)
    channel.close()


@contextlib.contextmanager
def served(host_pem: str, rules: OneCommand) -> Iterator[int]:
    """Serve one connection; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            connection, _ = listener.accept()
            transport = paramiko.Transport(connection)
            transport.add_server_key(paramiko.Ed25519Key.from_private_key(io.StringIO(host_pem)))
            with contextlib.suppress(paramiko.SSHException, EOFError):
                transport.start_server(server=rules)
            transport.join(10)
            transport.close()

        thread = threading.Thread(target=serve, name="small sshd")
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def lease_of(folder: Path, port: int, host_key: str, login_pem: str) -> Lease:
    identity_file = folder / "id_ed25519"
    identity_file.write_text(login_pem)
    identity_file.chmod(0o600)
    receipt = Receipt(
        lease_id="0" * 32,
        container_id="ab" * 32,
        node_key="0" * 64,
        renter_key="0" * 64,
        ssh_host="127.0.0.1",
        ssh_port=port,
        ssh_user="root",
        host_key=host_key,
        host_key_fingerprint=fingerprint(host_key),
        limits=LIMITS,
        devices=(),
        image="x",
        isolation="standard",
        nonce="0" * 64,
        granted_unix_ms=0,
        expires_unix_ms=0,
    )
    record = LeaseRecord(endpoint="http://h", node_key="0" * 64, identity_file=str(identity_file))
    lease = Lease(folder, record, receipt)
    lease.known_hosts.write_text(known_hosts_line(receipt))
    return lease


def run_ssh(lease: Lease) -> subprocess.CompletedProcess[str]:
    command = ssh_command(lease, ["echo", "hello"])
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=20)


def test_the_pinned_host_key_lets_us_in(tmp_path: Path) -> None:
    host_pem, host_key = generate_key_pair()
    login_pem, login_key = generate_key_pair()
    with served(host_pem, OneCommand(login_key)) as port:
        done = run_ssh(lease_of(tmp_path, port, host_key, login_pem))
    assert (done.returncode, done.stdout) == (9, "ran echo hello\n"), done.stderr


def test_another_host_key_is_refused_before_any_login(tmp_path: Path) -> None:
    host_pem, _ = generate_key_pair()
    login_pem, login_key = generate_key_pair()
    rules = OneCommand(login_key)
    with served(host_pem, rules) as port:
        done = run_ssh(lease_of(tmp_path, port, generate_key_pair()[1], login_pem))
    assert done.returncode == 255
    assert "Host key verification failed" in done.stderr
    assert rules.keys_offered == 0
