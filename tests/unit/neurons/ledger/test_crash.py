"""kill -9 of the ledger in the middle of its work: what it said yes to is there, and the file holds."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from config.loader import CHECKOUT
from ledger.fsck import fsck
from neurons.ledger.node import LEDGER_FILE
from polarise.errors import Unavailable
from polarise.http_client import HttpClient
from polarise.ledger_client import LedgerClient
from tests.support.worker import free_port
from tests.unit.ledger.small_market import MINER, VALIDATOR, Sender
from tests.unit.neurons.ledger.ledger_process import SLOW

KILLS = 3


def started(folder: Path, port: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.neurons.ledger.ledger_process", str(folder), str(port)],
        cwd=CHECKOUT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if HttpClient(f"http://127.0.0.1:{port}").request("GET", "/readyz", timeout_seconds=2).status == 200:
                return process
        except Unavailable:
            time.sleep(0.05)
    process.kill()
    raise RuntimeError("the ledger did not start")


def test_nothing_acknowledged_is_lost_under_kill_9(tmp_path: Path) -> None:
    """Two senders write without pause; each kill comes while they do, and each goes on with the same bytes."""
    port = free_port()
    client = LedgerClient(f"http://127.0.0.1:{port}", SLOW, timeout_seconds=5)
    acknowledged: dict[str, int] = {}
    stop = threading.Event()

    def work(sender: Sender) -> None:
        while not stop.is_set():
            sent = sender.register(sender.nonce)
            while not stop.is_set():
                try:
                    acknowledged[sent.hash] = client.submit(sent).index
                    break
                except Unavailable:
                    stop.wait(0.02)

    writers = [threading.Thread(target=work, args=(Sender(identity, net=SLOW.net),)) for identity in (MINER, VALIDATOR)]
    process = started(tmp_path, port)
    for writer in writers:
        writer.start()
    try:
        for _ in range(KILLS):
            before = len(acknowledged)
            deadline = time.monotonic() + 30
            while len(acknowledged) < before + 40 and time.monotonic() < deadline:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = started(tmp_path, port)
        stop.set()
        for writer in writers:
            writer.join()
        assert len(acknowledged) >= KILLS * 40
        for name, index in acknowledged.items():
            found = client.transaction(name)
            assert found is not None
            assert found.index == index
    finally:
        stop.set()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    report = fsck(tmp_path / LEDGER_FILE, SLOW)
    assert report.leaves_count >= len(acknowledged)
    assert report.pending_count == 0, "the last block before the end covers everything"
