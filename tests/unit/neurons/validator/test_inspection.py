"""Renting and logging in: what is asked, what is refused, and that everything is given back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import paramiko
import pytest

from neurons.validator.inspection import Inspector
from neurons.validator.login import PinnedLogin
from polarise.clients import MinerClient
from polarise.errors import ErrorCode, ProofRejected, RejectReason
from polarise.receipt import Receipt
from polarise.ssh_keys import fingerprint, generate_key_pair, parse_public_key
from tests.support.evidence import receipt
from tests.support.proving_miner import MINER, VALIDATOR
from tests.unit.polarise.small_miner import LIMITS, SmallMiner


@pytest.fixture
def miner() -> Iterator[SmallMiner]:
    with SmallMiner(MINER).running() as miner:
        yield miner


def _inspector(memory_bytes: int = LIMITS.memory_bytes) -> Inspector:
    return Inspector(VALIDATOR.public_key, memory_bytes=memory_bytes, cpu_milli=LIMITS.cpu_milli, allow_private=True)


def _reason(miner: SmallMiner, inspector: Inspector) -> RejectReason | None:
    client = MinerClient(miner.endpoint, MINER.public_key, VALIDATOR)
    return inspector.inspect(client).verdict.reason


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (409, ErrorCode.NO_CAPACITY, RejectReason.NOT_MEASURED),
        (429, ErrorCode.TOO_MANY_REQUESTS, RejectReason.NOT_MEASURED),
        (422, ErrorCode.EXCEEDS_HOST, RejectReason.ALLOCATE_FAILED),
        (403, ErrorCode.NOT_PERMITTED, RejectReason.ALLOCATE_FAILED),
        (503, ErrorCode.UNAVAILABLE, RejectReason.ALLOCATE_FAILED),
    ],
)
def test_refusal_to_rent(miner: SmallMiner, status: int, code: ErrorCode, reason: RejectReason) -> None:
    body = f'{{"status": "failure", "code": "{code}", "message": "no", "hint": ""}}'.encode()
    miner.refuse["/allocate"] = (status, {}, body)
    assert _reason(miner, _inspector()) is reason


def test_less_than_asked_for_is_a_broken_promise_and_is_given_back(miner: SmallMiner) -> None:
    assert _reason(miner, _inspector(LIMITS.memory_bytes + 4096)) is RejectReason.LIMIT_NOT_HELD
    assert miner.leases == {}


def test_container_without_ssh_is_given_back(miner: SmallMiner) -> None:
    """Nothing listens where the receipt points."""
    assert _reason(miner, _inspector()) is RejectReason.SSH_FAILED
    assert miner.leases == {}


class _Server(paramiko.ServerInterface):
    def __init__(self, behave: Callable[[paramiko.Channel], None]) -> None:
        self._behave = behave

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.common.AUTH_SUCCESSFUL

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._behave, args=(channel,), daemon=True).start()
        return True


class _SshServer:
    """One connection of a container's sshd, as the other side wants it."""

    def __init__(self, behave: Callable[[paramiko.Channel], None]) -> None:
        import io

        private, public = generate_key_pair()
        self.host_key = parse_public_key(public)
        self._key = paramiko.Ed25519Key.from_private_key(io.StringIO(private))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._behave = behave
        self._thread = threading.Thread(target=self._serve)
        self._transport: paramiko.Transport | None = None

    def __enter__(self) -> _SshServer:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._thread.join()
        if self._transport is not None:
            self._transport.close()
        self._listener.close()

    def receipt(self, host_key: str | None = None) -> Receipt:
        line = host_key or self.host_key
        port = self._listener.getsockname()[1]
        changes = {"ssh_port": port, "host_key": line, "host_key_fingerprint": fingerprint(line)}
        return receipt().model_copy(update=changes)

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        self._transport = paramiko.Transport(connection)
        self._transport.add_server_key(self._key)
        try:
            self._transport.start_server(server=_Server(self._behave))
        except (paramiko.SSHException, EOFError):
            return


def _read_input(channel: paramiko.Channel) -> None:
    while channel.recv(4096):
        pass


def _answering(channel: paramiko.Channel) -> None:
    _read_input(channel)
    channel.sendall(b"hello")
    channel.send_exit_status(0)
    channel.close()


def _shouting(channel: paramiko.Channel) -> None:
    try:
        while True:
            channel.sendall(b"x" * 4096)
    except (OSError, EOFError, paramiko.SSHException):
        return


def _silent(channel: paramiko.Channel) -> None:
    channel.get_transport()


def _failing(channel: paramiko.Channel) -> None:
    _read_input(channel)
    channel.sendall_stderr(b"sh: python3: \x1b[2Jnot found")
    channel.send_exit_status(127)
    channel.close()


def _run(server: _SshServer, host_key: str | None = None, *, allow_private: bool = True) -> bytes:
    private, _ = generate_key_pair()
    with PinnedLogin(server.receipt(host_key), private, allow_private=allow_private) as login:
        return login.run("python3 -", "", max_bytes=65536, deadline_seconds=1.0)


def test_login_with_the_key_of_the_receipt() -> None:
    with _SshServer(_answering) as server:
        assert _run(server) == b"hello"


def test_another_host_key_is_refused() -> None:
    _, other = generate_key_pair()
    with _SshServer(_answering) as server, pytest.raises(ProofRejected) as caught:
        _run(server, parse_public_key(other))
    assert caught.value.reason is RejectReason.HOST_KEY_MISMATCH
    assert caught.value.got == fingerprint(server.host_key)


@pytest.mark.parametrize("behave", [_shouting, _silent, _failing])
def test_probe_that_shouts_hangs_or_fails_is_an_ssh_failure(behave: Callable[[paramiko.Channel], None]) -> None:
    with _SshServer(behave) as server, pytest.raises(ProofRejected) as caught:
        _run(server)
    assert caught.value.reason is RejectReason.SSH_FAILED
    assert caught.value.message.isprintable()


def test_receipt_does_not_lead_into_our_own_network() -> None:
    private, _ = generate_key_pair()
    with pytest.raises(ProofRejected, match="not a public address"):
        PinnedLogin(receipt(), private, allow_private=False).__enter__()
