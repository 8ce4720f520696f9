"""Renting and logging in: what is asked, what is refused, and that everything is given back."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from neurons.validator.bandwidth import Transfer
from neurons.validator.inspection import Inspector
from neurons.validator.login import PinnedLogin
from neurons.validator.login_process import LoginProcess
from polarise.clients import MinerClient
from polarise.errors import ErrorCode, ProofRejected, RejectReason
from polarise.generations import Generations
from polarise.signing import Purpose
from polarise.ssh_keys import fingerprint, generate_key_pair, parse_public_key
from tests.support.evidence import receipt
from tests.support.proving_miner import MINER, VALIDATOR
from tests.support.ssh_server import (
    TRANSFERRED_BYTES,
    Behave,
    Serve,
    SshServer,
    answering,
    complaining,
    echoing,
    echoing_another_file,
    endless_packet,
    failing,
    granting_a_byte_at_a_time,
    guessing_the_hash,
    hanging_up,
    mute,
    never_answering_exec,
    no_text,
    running,
    shouting,
    silent,
)
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


def test_miner_that_drains_is_told_so_beside_the_points_that_it_costs(miner: SmallMiner) -> None:
    body = b'{"status": "failure", "code": "DRAINING", "message": "no new leases", "hint": ""}'
    miner.refuse["/allocate"] = (503, {}, body)
    verdict = _inspector().inspect(MinerClient(miner.endpoint, MINER.public_key, VALIDATOR)).verdict
    assert verdict.reason is RejectReason.ALLOCATE_FAILED
    assert verdict.message.startswith("DRAINING: ")


def test_less_than_asked_for_is_a_broken_promise_and_is_given_back(miner: SmallMiner) -> None:
    assert _reason(miner, _inspector(LIMITS.memory_bytes + 4096)) is RejectReason.LIMIT_NOT_HELD
    assert miner.leases == {}


def test_a_receipt_by_a_replaced_subkey_is_none_and_the_container_is_given_back(miner: SmallMiner) -> None:
    generations = Generations()
    generations.learn({(MINER.public_key, Purpose.STATEMENT): 1})
    inspector = Inspector(
        VALIDATOR.public_key,
        memory_bytes=LIMITS.memory_bytes,
        cpu_milli=LIMITS.cpu_milli,
        allow_private=True,
        generations=generations,
    )
    evidence = inspector.inspect(MinerClient(miner.endpoint, MINER.public_key, VALIDATOR))
    assert evidence.verdict.reason is RejectReason.ALLOCATE_FAILED
    assert evidence.receipt is None
    assert miner.leases == {}


def test_container_without_ssh_is_given_back(miner: SmallMiner) -> None:
    """Nothing listens where the receipt points."""
    assert _reason(miner, _inspector()) is RejectReason.SSH_FAILED
    assert miner.leases == {}


def _run(server: SshServer, host_key: str | None = None, *, allow_private: bool = True, seconds: float = 1.0) -> bytes:
    private, _ = generate_key_pair()
    receipt = server.receipt(host_key)
    with PinnedLogin(receipt, private, allow_private=allow_private, deadline_seconds=seconds) as login:
        return login.run("python3 -", "x" * 100, max_bytes=65536)


def test_login_with_the_key_of_the_receipt() -> None:
    with SshServer(running(answering)) as server:
        assert _run(server, seconds=10) == b"hello"


def test_another_host_key_is_refused() -> None:
    _, other = generate_key_pair()
    with SshServer(running(answering)) as server, pytest.raises(ProofRejected) as caught:
        _run(server, parse_public_key(other), seconds=10)
    assert caught.value.reason is RejectReason.HOST_KEY_MISMATCH
    assert caught.value.got == fingerprint(server.host_key)


HOSTILE = {
    "shouts": running(shouting),
    "complains": running(complaining),
    "fails": running(failing),
    "is silent": running(silent),
    "grants one byte at a time": running(granting_a_byte_at_a_time, window_bytes=1),
    "never answers exec": never_answering_exec(),
    "is mute": mute,
    "offers no text": no_text,
}


@pytest.mark.parametrize("serve", HOSTILE.values(), ids=HOSTILE.keys())
def test_whatever_a_server_does_is_an_ssh_failure(serve: Serve) -> None:
    with SshServer(serve) as server, pytest.raises(ProofRejected) as caught:
        _run(server)
    assert caught.value.reason is RejectReason.SSH_FAILED
    assert caught.value.message.isprintable()


def _transfer(serve: Serve, seconds: float = 20.0) -> Transfer:
    private, _ = generate_key_pair()
    with (
        SshServer(serve) as server,
        PinnedLogin(server.receipt(), private, allow_private=True, deadline_seconds=30) as login,
    ):
        return login.transfer(TRANSFERRED_BYTES, seconds)


def test_bytes_that_come_through_both_ways_are_counted_on_our_clock() -> None:
    found = _transfer(running(echoing))
    assert found.sent_bytes == found.received_bytes == found.asked_bytes == TRANSFERRED_BYTES
    assert found.bits_per_second > 0
    assert min(found.send_us, found.receive_us) > 0


@pytest.mark.parametrize(
    ("serve", "sent_bytes"),
    [
        (running(echoing_another_file), TRANSFERRED_BYTES),
        (running(guessing_the_hash), 0),
        (running(hanging_up), 0),
        (running(silent), 0),
        (running(shouting), 0),
        (running(granting_a_byte_at_a_time, window_bytes=1), 0),
        (never_answering_exec(), 0),
    ],
)
def test_transfer_that_does_not_come_back_whole_is_worth_nothing(serve: Serve, sent_bytes: int) -> None:
    found = _transfer(serve, 0.5)
    assert (found.sent_bytes, found.received_bytes, found.bits_per_second) == (sent_bytes, 0, 0)


def test_process_brings_the_transfer_back_beside_the_output() -> None:
    """The second command of the same login is the probe."""
    commands: list[Behave] = [echoing, answering]

    def behave(channel: paramiko.Channel) -> None:
        commands.pop(0)(channel)

    private, _ = generate_key_pair()
    with SshServer(running(behave)) as server:
        login = LoginProcess(server.receipt(), private, allow_private=True)
        output = login.run(
            "python3 -",
            "",
            max_bytes=65536,
            deadline_seconds=30,
            transfer_bytes=TRANSFERRED_BYTES,
            transfer_seconds=10,
        )
    assert output == b"hello"
    assert login.transfer is not None
    assert login.transfer.received_bytes == TRANSFERRED_BYTES


def test_receipt_does_not_lead_into_our_own_network() -> None:
    private, _ = generate_key_pair()
    with (
        pytest.raises(ProofRejected, match="not a public address"),
        PinnedLogin(receipt(), private, allow_private=False, deadline_seconds=1),
    ):
        pass


def test_process_logs_in_and_brings_the_output_back() -> None:
    private, _ = generate_key_pair()
    with SshServer(running(answering)) as server:
        login = LoginProcess(server.receipt(), private, allow_private=True)
        assert login.run("python3 -", "", max_bytes=65536, deadline_seconds=30) == b"hello"
    assert login.login_ms is not None


@pytest.mark.parametrize(
    ("serve", "is_logged_in"),
    [(endless_packet, False), (running(complaining), True), (never_answering_exec(), True)],
)
def test_process_answers_for_a_server_that_hangs_or_floods(serve: Serve, is_logged_in: bool) -> None:
    """The flood that filled 3.7 GB and the packet of 2 GiB end with the process; ours stays as small as it was."""
    private, _ = generate_key_pair()
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with SshServer(serve) as server:
        login = LoginProcess(server.receipt(), private, allow_private=True)
        with pytest.raises(ProofRejected) as caught:
            login.run("python3 -", "", max_bytes=65536, deadline_seconds=6)
    assert caught.value.reason is RejectReason.SSH_FAILED
    assert (login.login_ms is not None) is is_logged_in
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 64 << 10


def test_process_that_hangs_itself_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where even the watch inside does not help: it is stopped before it can look at its own deadline."""
    private, _ = generate_key_pair()
    monkeypatch.setattr("neurons.validator.login_process.PROCESS_SECONDS", -600.0)
    with SshServer(never_answering_exec()) as server, pytest.raises(ProofRejected, match="did not end within 4 s"):
        LoginProcess(server.receipt(), private, allow_private=True).run("x", "", max_bytes=1, deadline_seconds=4)


def test_process_that_cannot_start_costs_the_miner_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, _ = generate_key_pair()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(ProofRejected) as caught:
        LoginProcess(receipt(), private, allow_private=True).run("x", "", max_bytes=1, deadline_seconds=5)
    assert caught.value.reason is RejectReason.NOT_MEASURED


@pytest.mark.parametrize(("mib", "fits"), [(32, True), (80, False)])
def test_memory_of_the_process_is_bounded(mib: int, fits: bool) -> None:
    program = f"from neurons.validator.login import limit_memory\nlimit_memory(64 << 20)\nbytearray({mib} << 20)"
    end = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, timeout=60)
    assert (b"MemoryError" not in end.stderr) is (end.returncode == 0) is fits
