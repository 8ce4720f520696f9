"""The miner's agent as a child process: started first, watched, started again when it dies, ended last.

Rules:
- An agent that serves already, because a service manager runs it, is used and left alone.
- The child gets the log subkey and nothing else; it ends with this process, whatever ends this process.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from config.schema import Config
from neurons.base.agent_client import AgentClient
from polarise.errors import ConfigError, Unavailable
from polarise.signing import Identity, Purpose

logger = logging.getLogger(__name__)

START_SECONDS = 20.0
STOP_SECONDS = 10.0
LOOK_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1


class AgentProcess:
    """Runs the agent of one node.

    Args:
        config: The node's settings.
        node_dir: The node's data directory.
        identity: The node; its log subkey is handed on.
        agent: How the agent is called.
    """

    name = "agent"

    def __init__(self, config: Config, node_dir: Path, identity: Identity, agent: AgentClient) -> None:
        self._config = config
        self._node_dir = node_dir
        self._identity = identity
        self._agent = agent
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Start the agent unless one serves, and wait until it answers.

        Raises:
            ConfigError: It does not start.
        """
        if self._answers():
            logger.info("agent found")
            return
        self._start()

    def run(self, stop: threading.Event) -> None:
        """Watch the child until ``stop`` is set, then end it; a dead one is a failure that the supervisor answers."""
        if self._process is None and not self._answers():
            self._start()
        while not stop.wait(LOOK_SECONDS):
            if self._process is None:
                if not self._answers():
                    raise RuntimeError("the agent that was found does not answer any more")
            elif self._process.poll() is not None:
                status, self._process = self._process.returncode, None
                raise RuntimeError(f"the agent ended by itself with status {status}")
        self._end()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "neurons.agent.child"],
            stdin=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  runs one prctl
        )
        if self._process.stdin is not None:
            with self._process.stdin as pipe:
                pipe.write(self._orders())
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            status = self._process.poll()
            if status is not None or time.monotonic() > end:
                self._end()
                raise ConfigError(
                    f"the agent did not start (status {status})",
                    key_path="telemetry.start_agent",
                    allowed="see its log lines above; no other agent may hold the data directory",
                )
            time.sleep(0.02)

    def _orders(self) -> bytes:
        subkey = self._identity.subkey(Purpose.LOG)
        orders = {
            "config": self._config.model_dump_json(),
            "node_dir": str(self._node_dir),
            "node_key": self._identity.public_key,
            "log_seed": subkey.key.private.private_bytes_raw().hex(),
            "certificate": subkey.certificate.to_wire(),
        }
        return json.dumps(orders).encode()

    def _answers(self) -> bool:
        try:
            self._agent.open_streams()
        except Unavailable:
            return False
        return True

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("agent did not stop in time")
            process.kill()
            process.wait()


def _end_with_parent() -> None:
    """Let the kernel end the child when this process dies, so that no agent is left without its miner."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:
        os._exit(1)
