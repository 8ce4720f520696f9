"""A real agent as a process of its own, for tests that kill it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from neurons.base.agent_client import AgentClient
from polarise.errors import Unavailable
from polarise.signing import Identity, Purpose, SigningKey
from tests.support import worker

ROOT = Path(__file__).parents[4]
# Its network and its containers are found by its key on the whole host: each worker has one of its own.
SEED = bytes([0x70 + worker.NUMBER]) * 32
IDENTITY = Identity(SigningKey(SEED))
NODE_KEY = IDENTITY.public_key
RENTER = SigningKey(b"\x08" * 32).public_key
LEASE = "ab" * 16


class AgentProcess:
    """Starts, kills and starts again."""

    def __init__(self, node_dir: Path) -> None:
        self.node_dir = node_dir
        self.client = AgentClient(node_dir)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> AgentProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> AgentProcess:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.node_dir)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                self.client.open_streams()
                return self
            except Unavailable:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.02)

    def kill(self) -> None:
        """End it without a chance to tidy up."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """Ask it to end and return its exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
        return self._process.wait(20)


if __name__ == "__main__":
    from config.schema import Config
    from neurons.agent.node import AgentNode
    from utils.logging import configure_logging

    configure_logging("INFO", "text", None)
    sys.exit(AgentNode(Config(), Path(sys.argv[1]), NODE_KEY, IDENTITY.subkey(Purpose.LOG)).run())
