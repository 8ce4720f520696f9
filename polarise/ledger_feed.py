"""GET /subscribe as verified blocks: the leaves of each are added up, and only a root that was signed lets them out.

Rules:
- Blocks come in order of height without gaps, each chained to the one before; the first must go on from what the
  client has seen.
- An event has a bound and so have the leaves between two blocks; a stream that breaks off ends in `Unavailable`, and the
  caller goes on with the height after the last block it got.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from polarise.answers import MAX_REFUSAL_BYTES, printable, refusal_of
from polarise.block import SignedBlock
from polarise.block_follower import check_chain
from polarise.decode import decode_model
from polarise.errors import AnswerInvalid, RequestRejected
from polarise.frontier import Frontier
from polarise.http_client import ByteStream
from polarise.ledger_client import LedgerClient
from polarise.ledger_messages import FeedBlock, FeedLeaf
from polarise.merkle import leaf_hash
from polarise.sse import BlockReader

MAX_EVENT_BYTES = 512 * 1024
BLOCK_LEAVES_MAX = 1_000_000
IDLE_SECONDS = 3600.0 + 60

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Followed:
    """A block with what it covers for the first time.

    Attributes:
        block: The block, verified.
        first: Index of the first leaf.
        leaves: Exact bytes of the new leaves.
    """

    block: SignedBlock
    first: int
    leaves: tuple[bytes, ...]


def follow(
    client: LedgerClient, first: int = 0, *, idle_seconds: float = IDLE_SECONDS
) -> Generator[Followed, None, None]:
    """Yield the blocks from a height on as they are made; ends when the caller closes the generator.

    Raises:
        LogFork: A block contradicts the one before it.
        AnswerInvalid: The leaves do not lead to a block's root, or the stream is not of the format.
        Unavailable: The stream ended.
    """
    before = next(client.blocks(first - 1)) if first else None
    edge = Frontier() if before is None else client.frontier(before)
    with client.stream(first, idle_seconds) as stream:
        if stream.status >= 400:
            body = stream.read_rest(MAX_REFUSAL_BYTES, 10.0)
            raise refusal_of(stream.status, stream.headers.get("retry-after"), body)
        leaves: list[bytes] = []
        is_accepted = False
        for name, data in _events(stream):
            if name == "leaf":
                leaves.append(_add_leaf(edge, data))
                if len(leaves) > BLOCK_LEAVES_MAX:
                    raise AnswerInvalid(f"more than {BLOCK_LEAVES_MAX} leaves without a block")
            elif name == "block":
                note = _decoded(FeedBlock, data).note.encode()
                # The first goes on from the last block seen anywhere; the chain holds the others together.
                block = client.accept(note) if not is_accepted else client.opened(note)
                is_accepted = True
                _check_block(before, block, edge, first)
                yield Followed(block, edge.size - len(leaves), tuple(leaves))
                before, leaves, first = block, [], first + 1


def _add_leaf(edge: Frontier, data: bytes) -> bytes:
    leaf = _decoded(FeedLeaf, data)
    if leaf.index != edge.size:
        raise AnswerInvalid(f"leaf {leaf.index} came where {edge.size} was due")
    line = leaf.transaction.encode()
    edge.add(leaf_hash(line))
    return line


def _check_block(before: SignedBlock | None, block: SignedBlock, edge: Frontier, height: int) -> None:
    if block.block.height != height:
        raise AnswerInvalid(f"block {block.block.height} came where {height} was due")
    if before is not None:
        check_chain(before, block)
    if (block.block.size, block.block.root) != (edge.size, edge.root()):
        raise AnswerInvalid(f"the leaves do not lead to the root of block {height}")


def _events(stream: ByteStream) -> Iterator[tuple[str, bytes]]:
    """Yield (event, data) of a server-sent event stream; comments and ids are passed over."""
    blocks = BlockReader(MAX_EVENT_BYTES)
    for chunk in stream:
        for event in blocks.feed(chunk):
            fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
            yield fields.get(b"event", b"").decode("ascii", "replace"), fields.get(b"data", b"")


def _decoded(model: type[ModelT], data: bytes) -> ModelT:
    try:
        return decode_model(model, data, max_bytes=MAX_EVENT_BYTES)
    except RequestRejected as err:
        raise AnswerInvalid(f"the event is no {model.__name__}: {printable(err.message)}") from err
