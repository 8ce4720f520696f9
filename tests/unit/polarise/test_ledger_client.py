"""The ledger's client against a ledger that answers in the right shape and never comes to an end."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from polarise.errors import AnswerInvalid
from polarise.ledger_client import LedgerClient
from tests.unit.ledger.small_market import GENESIS
from tests.unit.polarise.small_miner import raw_server


def test_a_listing_of_empty_pages_ends_at_the_first() -> None:
    """Each page names a later one and nothing else."""
    answered: list[int] = []

    def script(connection: socket.socket, _: threading.Event) -> None:
        answered.append(1)
        body = json.dumps({"children": [], "next": f"{len(answered):09d}"}).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with raw_server(script) as url, pytest.raises(AnswerInvalid, match="out of order"):
        list(LedgerClient(url, GENESIS).children("/registry"))
    assert len(answered) == 1
