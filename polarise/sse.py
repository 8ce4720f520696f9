"""Server-sent events (HTML standard, section 9.2): the frames of a telemetry stream, written and read.

Rules:
- A frame is an event name, an id and the data; data with line feeds travels as several ``data:`` lines.
- A reader holds at most one frame, of bounded size, whatever the peer sends, and looks at no byte twice, in however
  small pieces it comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from polarise.errors import AnswerInvalid

MAX_FRAME_BYTES = 256 * 1024
MEDIA_TYPE = "text/event-stream"
# A comment, which readers skip: says that the stream lives while there is nothing to tell.
HEARTBEAT = b": alive\n\n"


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame.

    Attributes:
        event: What it is: ``line``, ``checkpoint``, ``certificate``.
        data: Its bytes, without carriage returns.
        id: Sequence number of a line, else empty.
    """

    event: str
    data: bytes
    id: str = ""

    def encode(self) -> bytes:
        """Return the bytes that travel."""
        head = f"event: {self.event}\n" + (f"id: {self.id}\n" if self.id else "")
        return head.encode() + b"".join(b"data: " + part + b"\n" for part in self.data.split(b"\n")) + b"\n"


class BlockReader:
    """Takes pieces of a stream and gives what stands between empty lines.

    Args:
        max_bytes: Largest block.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Return the blocks that are complete now.

        Raises:
            AnswerInvalid: A block is larger than the bound.
        """
        begin, looked_at = 0, max(len(self._rest) - 1, 0)
        self._rest += piece
        while (end := self._rest.find(b"\n\n", looked_at)) >= 0:
            self._check_size(end - begin)
            yield bytes(self._rest[begin:end])
            begin = looked_at = end + 2
        del self._rest[:begin]
        self._check_size(len(self._rest))

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise AnswerInvalid(f"a frame of the stream has more than {self._max_bytes} bytes")


class FrameReader:
    """Takes pieces of a stream and gives whole frames."""

    def __init__(self) -> None:
        self._blocks = BlockReader(MAX_FRAME_BYTES)

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """Return the frames that are complete now.

        Raises:
            AnswerInvalid: A frame is larger than any of ours.
        """
        for block in self._blocks.feed(piece):
            frame = _frame(block)
            if frame.event:
                yield frame


def _frame(block: bytes) -> Frame:
    fields: dict[bytes, list[bytes]] = {}
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        fields.setdefault(name, []).append(value.removeprefix(b" "))
    event = fields.get(b"event", [b""])[-1].decode("ascii", "replace")
    return Frame(event, b"\n".join(fields.get(b"data", [])), fields.get(b"id", [b""])[-1].decode("ascii", "replace"))
