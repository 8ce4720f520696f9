"""The reading of a miner's log: how long one miner may take of everybody's epoch."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from neurons.validator.telemetry import TelemetryReader
from polarise.errors import RejectReason
from polarise.registry import STATEMENT_KIND, RegistryEntry
from polarise.sse import HEARTBEAT
from polarise.telemetry_client import TelemetryClient
from telemetry.archive import Archive
from tests.support.proving_miner import MINER, VALIDATOR, entry_of
from tests.unit.polarise.small_miner import raw_server

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _heartbeats(connection: socket.socket, stop: threading.Event) -> None:
    connection.sendall(HEAD)
    while not stop.wait(0.02):
        connection.sendall(b"%x\r\n%s\r\n" % (len(HEARTBEAT), HEARTBEAT))


def _one_endless_line(connection: socket.socket, stop: threading.Event) -> None:
    """The length of a chunk, zero by zero: no piece is ever complete."""
    connection.sendall(HEAD)
    while not stop.wait(0.02):
        connection.sendall(b"0")


@pytest.mark.parametrize("script", [_heartbeats, _one_endless_line])
def test_log_that_drips_for_ever_is_missing_and_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Callable[[socket.socket, threading.Event], None]
) -> None:
    """Each single read succeeds, so that no silence ends it."""
    monkeypatch.setattr("neurons.validator.telemetry.PULL_SECONDS", 0.3)
    with raw_server(script) as url, Archive(tmp_path / "archive.sqlite") as archive:
        entry = entry_of(url).open(STATEMENT_KIND, RegistryEntry)
        reader = TelemetryReader(
            archive, lambda _entry: TelemetryClient(url, MINER.public_key, VALIDATOR), is_pace_judged=True
        )
        evidence = reader.read(entry)
    assert evidence.verdict.reason is RejectReason.MISSING
    assert evidence.new_lines == 0
