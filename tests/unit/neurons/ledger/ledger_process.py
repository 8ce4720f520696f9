"""The real ledger daemon, in this process or as one of its own: `python -m tests....ledger_process DIR PORT`."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from config.schema import Config
from neurons.ledger.node import GENESIS_FILE, LedgerNode
from polarise.genesis import Genesis, write_genesis
from tests.unit.ledger.small_market import LEDGER, genesis

# The daemon lives by the machine's clock. An hour between blocks: the tests make theirs when they need one.
SLOW = genesis(created_unix_ms=1_600_000_000_000, block_seconds=3600)


def node_in(folder: Path, port: int = 0, *, of: Genesis = SLOW) -> LedgerNode:
    """Build the daemon on a data directory."""
    if not (folder / GENESIS_FILE).exists():
        write_genesis(folder / GENESIS_FILE, of)
    return LedgerNode(Config.model_validate({"role": "ledger", "network": {"port": port}}), folder, LEDGER)


@contextlib.contextmanager
def running(folder: Path, port: int = 0, *, of: Genesis = SLOW) -> Iterator[tuple[LedgerNode, str]]:
    """Run the daemon in a thread; yields it with its URL."""
    node = node_in(folder, port, of=of)
    thread = threading.Thread(target=node.run, name="ledger-node")
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not node.supervisors or len(node.supervisors) < 2 or not node.supervisors[-1].is_healthy:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the ledger did not start")
            time.sleep(0.01)
        yield node, f"http://127.0.0.1:{node.http.port}"
    finally:
        node.stop()
        thread.join(30)


if __name__ == "__main__":
    sys.exit(node_in(Path(sys.argv[1]), int(sys.argv[2])).run())
