"""Anchors the node's logs on the ledger, so that nobody can change afterwards what they say; not even this node.

Rules:
- The newest checkpoints of the system stream and of the audit log are anchored every minute, where they grew; a lease's
  stream when the lease ends: size, root and the hash of the signed note on ``/roots/<node>/<stream>``.
- What is queued is on disk (`neurons.base.outbox`); a ledger that is away delays an anchor and stops nothing.
- A node that knows no ledger anchors nothing.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from neurons.base.outbox import EntryState, Outbox
from polarise.checkpoint import parse_checkpoint
from polarise.errors import RequestRejected, Unavailable
from polarise.notes import parse_note
from polarise.transaction import SetValue

logger = logging.getLogger(__name__)

EVERY_SECONDS = 60.0
LOOK_SECONDS = 0.5


def anchor_path(node_key: str, stream_id: str) -> str:
    """Return where a stream's newest anchored checkpoint stands on the ledger."""
    return f"/roots/{node_key}/{stream_id}"


class Anchor:
    """Puts checkpoints on the ledger.

    Args:
        node_key: This node's public key.
        latest: Returns the newest signed checkpoint of a stream, None before the first.
        outbox: Takes them to the ledger; its service must run.
        streams: Anchored every minute.
    """

    name = "anchor"

    def __init__(
        self, node_key: str, latest: Callable[[str], bytes | None], outbox: Outbox, streams: Sequence[str]
    ) -> None:
        self._node_key = node_key
        self._latest = latest
        self._streams = streams
        self._outbox = outbox
        self._due: queue.SimpleQueue[str] = queue.SimpleQueue()

    def prepare(self) -> None:
        """Need nothing."""

    def request(self, stream_id: str) -> None:
        """Anchor a stream soon; returns at once."""
        self._due.put(stream_id)

    def run(self, stop: threading.Event) -> None:
        """Anchor what is due until ``stop`` is set."""
        waited = EVERY_SECONDS
        while not stop.wait(LOOK_SECONDS):
            waited += LOOK_SECONDS
            if waited >= EVERY_SECONDS:
                for stream_id in self._streams:
                    self.request(stream_id)
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
        note = self._latest(stream_id)
        if note is None:
            return
        checkpoint = parse_checkpoint(parse_note(note).text)
        # The log's own name: the system stream has another one after a restore.
        path = anchor_path(self._node_key, checkpoint.origin.rpartition("/")[2])
        value = {
            "size": checkpoint.size,
            "root": checkpoint.root.hex(),
            "note": hashlib.sha256(note).hexdigest(),
        }
        key = f"{path}#{checkpoint.size}"
        if (earlier := self._outbox.entry(key)) is not None and earlier.state is EntryState.REFUSED:
            # Before `join` the ledger takes nothing of a miner, and a log that stands still has no other size afterwards.
            key += f"@{time.time_ns() // int(EVERY_SECONDS * 1e9)}"
        self._outbox.put(SetValue(path=path, value=value), key=key)
