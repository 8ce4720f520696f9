"""The real ledger in this process, on loopback, with a block a second: for tests of whoever reads and writes it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from config.schema import Config
from neurons.ledger.genesis import new_genesis
from neurons.ledger.node import GENESIS_FILE, LedgerNode
from neurons.miner.join import post_entry
from polarise.genesis import Genesis, Member, write_genesis
from polarise.ledger_client import LedgerClient
from polarise.signing import Certificate, Identity, Purpose, SigningKey
from polarise.statement import SignedStatement
from tests.support.proving_miner import MINER, OWNER, VALIDATOR

LEDGER_KEY = SigningKey(b"l" * 32)
LEDGER = Identity(LEDGER_KEY, Certificate.issue(OWNER, LEDGER_KEY.public_key, Purpose.NODE))
START_SECONDS = 10


@dataclass(frozen=True)
class SmallLedger:
    """A running ledger.

    Attributes:
        url: Its API.
        genesis: Its beginning.
        genesis_file: Where that lies.
    """

    url: str
    genesis: Genesis
    genesis_file: Path

    def client(self) -> LedgerClient:
        """Return a client that remembers nothing."""
        return LedgerClient(self.url, self.genesis)

    def register(self, statement: SignedStatement, identity: Identity = MINER) -> None:
        """Put a registry entry on the ledger and wait until it is final."""
        post_entry(self.client(), identity, statement)

    def settings(self) -> dict[str, object]:
        """Return the section ``ledger`` of whoever uses it."""
        return {"endpoint": self.url, "genesis": self.genesis_file}


@contextlib.contextmanager
def small_ledger(folder: Path) -> Iterator[SmallLedger]:
    """Run a ledger, whose only validator is the tests' own, until the block ends."""
    genesis = new_genesis(
        LEDGER,
        "test",
        [Member(key=VALIDATOR.public_key, stake=1)],
        block_seconds=1,
        final_confirmations=1,
        created_unix_ms=time.time_ns() // 1_000_000,
    )
    data_dir = folder / "ledger"
    write_genesis(data_dir / GENESIS_FILE, genesis)
    node = LedgerNode(Config.model_validate({"network": {"port": 0}}), data_dir, LEDGER)
    thread = threading.Thread(target=node.run, name="small-ledger")
    thread.start()
    try:
        yield SmallLedger(f"http://127.0.0.1:{_port(node)}", genesis, data_dir / GENESIS_FILE)
    finally:
        node.stop()
        thread.join()


def _port(node: LedgerNode) -> int:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(AttributeError, RuntimeError):
            if node.supervisors:
                return node.http.port
        time.sleep(0.01)
    raise TimeoutError("the ledger did not start")
