"""A miner that changes its log afterwards: every few seconds one old line is rewritten and the whole log signed anew.

Each signed checkpoint is perfect by itself. A reader that kept the last one sees that its lines are no longer the first
ones of the new tree. Caught as LOG_FORK, with both signed checkpoints as proof.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from neurons.base.agent_client import AgentClient
from neurons.base.event_log import SCHEMA
from neurons.base.service import Service
from neurons.miner.agent_process import AgentProcess
from neurons.miner.node import MinerNode
from polarise.signing import Identity, Purpose
from polarise.stream import SYSTEM, origin_of
from tlog.store import LogStore

logger = logging.getLogger(__name__)

EDIT_SECONDS = 5.0
EDITED = b'"tstamp":1'


class EditingAgentProcess(AgentProcess):
    """Stops the honest agent now and then, rewrites its log, and starts it again."""

    def run(self, stop: threading.Event) -> None:
        """Edit until ``stop`` is set."""
        next_edit = time.monotonic() + EDIT_SECONDS
        while not stop.wait(0.2):
            if time.monotonic() >= next_edit:
                self._end()
                rewrite(self._node_dir / "agent", self._identity)
                self._start()
                next_edit = time.monotonic() + EDIT_SECONDS
        self._end()


class EventEditor(MinerNode):
    """An honest miner but for its agent."""

    def build_services(self) -> Sequence[Service]:
        """Replace the honest agent."""
        services = list(super().build_services())
        agent = EditingAgentProcess(self.config, self.data_dir.root, self.identity, AgentClient(self.data_dir.root))
        return [agent if isinstance(service, AgentProcess) else service for service in services]


def rewrite(folder: Path, identity: Identity) -> None:
    """Build the system stream's log again with its first line changed, signed by the node's real log key."""
    path = folder / "system.sqlite"
    edited = path.with_suffix(".edited")
    origin = origin_of(identity.public_key, SYSTEM)
    with LogStore(path, origin) as old:
        lines = old.read(0, old.size)
    if not lines:
        return
    first = lines[0].replace(b'"tstamp":', EDITED, 1)
    with LogStore(edited, origin, schema=SCHEMA) as new:
        new.append_many([first, *lines[1:]])
        new.checkpoint(identity.subkey(Purpose.LOG).key)
    for leftover in folder.glob("system.sqlite*"):
        leftover.unlink()
    for part in folder.glob("system.edited*"):
        part.replace(folder / part.name.replace("system.edited", "system.sqlite"))
