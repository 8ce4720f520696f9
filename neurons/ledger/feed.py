"""GET /subscribe: blocks as server-sent events, each behind the leaves it covers for the first time.

``event: leaf`` carries {index, transaction}, ``event: block`` {height, note}; a subscriber that holds the log's key adds
each leaf to its own tree and finds the root in the note. ``id`` of a block is its height: go on with ``from`` = id + 1.
"""

from __future__ import annotations

import json
from threading import Event

from ledger.embedded import EmbeddedLedger
from polarise.block import Block, open_block

WAIT_SECONDS = 1.0
LEAVES_PER_CHUNK = 64


class BlockFeed:
    """Chunks of one subscriber's stream; see `neurons.base.http_app.ChunkSource`.

    Args:
        ledger: Where blocks come from.
        first: Height of the first block to send.
        gone: Set when the subscriber has hung up.
    """

    def __init__(self, ledger: EmbeddedLedger, first: int, gone: Event) -> None:
        self._ledger = ledger
        self._height = first
        self._gone = gone
        before = ledger.blocks(first - 1, 1) if first else []
        self._index = open_block(before[0], ledger.genesis.log).block.size if before else 0
        self._block: Block | None = None
        self._note = b""

    def next_chunk(self) -> bytes | None:
        """See `ChunkSource`."""
        if self._gone.is_set():
            return None
        if self._block is None and not self._next_block():
            return b""
        if self._block is not None and self._index < self._block.size:
            return self._leaves(self._block)
        return self._end_block()

    def close(self) -> None:
        """See `ChunkSource`; nothing is held."""

    def _next_block(self) -> bool:
        if not self._ledger.wait_for_block(self._height, WAIT_SECONDS):
            return False
        self._note = self._ledger.blocks(self._height, 1)[0]
        self._block = open_block(self._note, self._ledger.genesis.log).block
        return True

    def _leaves(self, block: Block) -> bytes:
        lines = self._ledger.log.read(self._index, min(block.size, self._index + LEAVES_PER_CHUNK))
        events = [
            _event("leaf", {"index": index, "transaction": line.decode()})
            for index, line in enumerate(lines, start=self._index)
        ]
        self._index += len(lines)
        return b"".join(events)

    def _end_block(self) -> bytes:
        event = _event("block", {"height": self._height, "note": self._note.decode()}, identifier=self._height)
        self._height += 1
        self._block = None
        return event


def _event(name: str, data: dict[str, object], *, identifier: int | None = None) -> bytes:
    head = f"event: {name}\n" + ("" if identifier is None else f"id: {identifier}\n")
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
