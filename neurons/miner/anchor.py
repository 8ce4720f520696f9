"""Anchors the node's logs on the ledger, so that nobody can change afterwards what they say; not even this node.

Rules:
- The system stream's newest checkpoint is anchored every minute, a lease's stream when the lease ends: size, root and the
  hash of the signed note on ``/roots/<node>/<stream>``.
- What is queued is on disk (`neurons.base.outbox`); a ledger that is away delays an anchor and stops nothing.
- A miner that knows no ledger anchors nothing.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading

from neurons.base.agent_client import AgentClient
from neurons.base.outbox import Outbox
from polarise.checkpoint import parse_checkpoint
from polarise.errors import RequestRejected, Unavailable
from polarise.notes import parse_note
from polarise.stream import SYSTEM
from polarise.transaction import SetValue

logger = logging.getLogger(__name__)

SYSTEM_SECONDS = 60.0
LOOK_SECONDS = 0.5


def anchor_path(node_key: str, stream_id: str) -> str:
    """Return where a stream's newest anchored checkpoint stands on the ledger."""
    return f"/roots/{node_key}/{stream_id}"


class Anchor:
    """Puts checkpoints on the ledger.

    Args:
        node_key: This node's public key.
        agent: Gives the checkpoints.
        outbox: Takes them to the ledger; its service must run.
    """

    name = "anchor"

    def __init__(self, node_key: str, agent: AgentClient, outbox: Outbox) -> None:
        self._node_key = node_key
        self._agent = agent
        self._outbox = outbox
        self._due: queue.SimpleQueue[str] = queue.SimpleQueue()

    def prepare(self) -> None:
        """Need nothing."""

    def request(self, stream_id: str) -> None:
        """Anchor a stream soon; returns at once."""
        self._due.put(stream_id)

    def run(self, stop: threading.Event) -> None:
        """Anchor what is due until ``stop`` is set."""
        waited = SYSTEM_SECONDS
        while not stop.wait(LOOK_SECONDS):
            waited += LOOK_SECONDS
            if waited >= SYSTEM_SECONDS:
                self.request(SYSTEM)
                waited = 0.0
            self.anchor_due()

    def anchor_due(self) -> None:
        """Queue an anchor for every stream that was asked for; one whose agent is away is tried at the next look."""
        for _ in range(self._due.qsize()):
            stream_id = self._due.get()
            try:
                self._anchor(stream_id)
            except Unavailable as err:
                logger.debug("anchor postponed", extra={"stream": stream_id, "cause": err.message})
                self._due.put(stream_id)
                return
            except RequestRejected as err:
                logger.warning("stream not anchored", extra={"stream": stream_id, "cause": err.message})

    def _anchor(self, stream_id: str) -> None:
        if stream_id == SYSTEM:
            stream_id = self._agent.epochs().system
        note = self._agent.checkpoint(stream_id).note
        if note is None:
            return
        checkpoint = parse_checkpoint(parse_note(note.encode()).text)
        path = anchor_path(self._node_key, stream_id)
        value = {
            "size": checkpoint.size,
            "root": checkpoint.root.hex(),
            "note": hashlib.sha256(note.encode()).hexdigest(),
        }
        self._outbox.put(SetValue(path=path, value=value), key=f"{path}#{checkpoint.size}")
