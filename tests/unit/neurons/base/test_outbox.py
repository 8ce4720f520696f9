"""The outbox and a real ledger that is away, comes back, refuses, forgets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurons.base.outbox import EntryState, Outbox
from neurons.ledger.node import LEDGER_FILE
from polarise.errors import RequestRejected, Unavailable
from polarise.ledger_client import LedgerClient
from polarise.transaction import SetValue
from tests.support.miners import wait_until
from tests.support.worker import free_port
from tests.unit.ledger.small_market import VALIDATOR, Sender
from tests.unit.neurons.ledger.ledger_process import SLOW, running
from utils.clock import SystemClock

FOLDER = f"/epochs/{VALIDATOR.public_key}"


def commit(epoch: int) -> SetValue:
    return SetValue(path=f"{FOLDER}/{epoch:010d}/commit", value=f"c{epoch}")


@pytest.fixture
def port() -> int:
    return free_port()


def outbox_at(path: Path, port: int) -> Outbox:
    client = LedgerClient(f"http://127.0.0.1:{port}", SLOW, timeout_seconds=5)
    return Outbox(path, VALIDATOR, client, SystemClock())


@pytest.fixture
def outbox(tmp_path: Path, port: int) -> Iterator[Outbox]:
    with outbox_at(tmp_path / "outbox.sqlite", port) as made:
        yield made


def states(outbox: Outbox, *keys: str) -> list[EntryState | None]:
    entries = [outbox.entry(key) for key in keys]
    return [None if entry is None else entry.state for entry in entries]


def drain(outbox: Outbox) -> None:
    while outbox.step():
        pass


def test_a_ledger_that_is_down_loses_nothing(tmp_path: Path, port: int) -> None:
    """Queued while it is away and we restart, sent in order when it is back, final with a proof."""
    path = tmp_path / "outbox.sqlite"
    with outbox_at(path, port) as outbox:
        keys = [outbox.put(commit(epoch)) for epoch in (1, 2, 3)]
        with pytest.raises(Unavailable):
            outbox.step()
    with outbox_at(path, port) as outbox, running(tmp_path / "ledger", port) as (node, _):
        drain(outbox)
        assert states(outbox, *keys) == [EntryState.ACCEPTED] * 3
        node.ledger.make_block()
        drain(outbox)
        assert states(outbox, *keys) == [EntryState.FINAL] * 3
        assert [name for name, _ in node.ledger.views.children(FOLDER)] == ["0000000001", "0000000002", "0000000003"]


def test_ledger_that_nobody_finds_is_said_at_the_start_with_nothing_to_send(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=outbox.run, args=(stop,))
    thread.start()
    wait_until(lambda: bool(caplog.records), 10, "nothing was said")
    stop.set()
    thread.join(10)
    (record,) = caplog.records
    assert record.message == "ledger unavailable"
    assert "nothing listens there" in vars(record)["cause"]
    assert "ledger.endpoint" in vars(record)["hint"]


def test_putting_twice_writes_once(outbox: Outbox, tmp_path: Path, port: int) -> None:
    with running(tmp_path / "ledger", port) as (node, _):
        first = outbox.put(commit(1))
        assert outbox.put(commit(1)) == first
        outbox.put(SetValue(path=f"/registry/{VALIDATOR.public_key}", value="a"), key="registry-1")
        outbox.put(SetValue(path=f"/registry/{VALIDATOR.public_key}", value="b"), key="registry-1")
        drain(outbox)
        assert outbox.put(commit(1)) == first
        drain(outbox)
        assert node.ledger.log.size == 2


def test_a_refusal_is_logged_with_what_to_do(
    outbox: Outbox, tmp_path: Path, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path / "ledger", port):
        outbox.put(SetValue(path="/roots/" + VALIDATOR.public_key + "/system", value="a"))
        outbox.put(SetValue(path="/nowhere", value="a"))
        drain(outbox)
    refused = [record for record in caplog.records if record.message == "ledger refused"]
    assert refused
    assert all(getattr(record, "hint", "") for record in refused)


def test_a_refusal_ends_the_entry_and_not_those_behind_it(outbox: Outbox, tmp_path: Path, port: int) -> None:
    with running(tmp_path / "ledger", port) as (node, _):
        keys = [outbox.put(op) for op in (commit(2), commit(1), commit(3))]
        drain(outbox)
        assert states(outbox, *keys) == [EntryState.ACCEPTED, EntryState.REFUSED, EntryState.ACCEPTED]
        refused = outbox.entry(keys[1])
        assert refused is not None
        assert "CONFLICT" in (refused.reason or "")
        assert node.ledger.log.size == 2


def test_a_crash_between_sending_and_the_answer_sends_the_same_bytes(outbox: Outbox, tmp_path: Path, port: int) -> None:
    with running(tmp_path / "ledger", port) as (node, _):
        key = outbox.put(commit(1))
        drain(outbox)
        with outbox.transaction() as connection:
            connection.execute("UPDATE entry SET state = 'queued'")
        drain(outbox)
        assert states(outbox, key) == [EntryState.ACCEPTED]
        assert node.ledger.log.size == 1


def test_a_nonce_somebody_else_used_is_signed_anew(outbox: Outbox, tmp_path: Path, port: int) -> None:
    """Signed while another process with the same key was faster."""
    with running(tmp_path / "ledger", port) as (node, _):
        key = outbox.put(commit(1))
        (row,) = outbox.query("SELECT * FROM entry")
        outbox._signed(row)
        node.ledger.submit(Sender(VALIDATOR, net=SLOW.net).register("elsewhere").raw)
        drain(outbox)
        assert states(outbox, key) == [EntryState.ACCEPTED]
        assert node.ledger.log.size == 2


def test_what_the_ledger_forgot_goes_out_again(outbox: Outbox, tmp_path: Path, port: int) -> None:
    """A ledger restored from a backup that is older than its yes."""
    folder = tmp_path / "ledger"
    with running(folder, port):
        key = outbox.put(commit(1))
        drain(outbox)
    for file in folder.glob(f"{LEDGER_FILE}*"):
        file.unlink()
    with running(folder, port) as (node, _):
        drain(outbox)
        node.ledger.make_block()
        drain(outbox)
        assert states(outbox, key) == [EntryState.FINAL]


def test_what_no_ledger_could_take_is_refused_at_once(outbox: Outbox) -> None:
    for value in (0.5, "x" * 70_000):
        with pytest.raises(RequestRejected):
            outbox.put(SetValue(path="/registry/x", value=value))
    assert outbox.query("SELECT * FROM entry") == []


def test_the_service_empties_the_outbox_and_stops_when_asked(outbox: Outbox, tmp_path: Path, port: int) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=outbox.run, args=(stop,))
    thread.start()
    try:
        with running(tmp_path / "ledger", port) as (node, _):
            key = outbox.put(commit(1))
            for _ in range(100):
                if states(outbox, key) == [EntryState.ACCEPTED]:
                    break
                stop.wait(0.1)
            node.ledger.make_block()
            found = outbox.wait(key, 20)
            assert found is not None
            assert (found.state, found.height) == (EntryState.FINAL, node.ledger.last_block.block.height)
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()
