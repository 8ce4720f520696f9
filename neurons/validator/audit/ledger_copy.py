"""A copy of a ledger in a folder: its leaves and its signed blocks, exact bytes, one per line.

Rules:
- ``leaves.jsonl`` holds the transactions themselves, which are JSON without line breaks; ``blocks.jsonl`` holds each
  note as a JSON text. The line number is the index or the height; other tools can read both.
- Leaves are written before the block that covers them. What a crash left behind the last block is cut off when the
  download goes on.
- Reading believes nothing: a broken line is handed on as it is, and whoever replays it names it.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from polarise.block import block_of
from polarise.checkpoint import parse_checkpoint
from polarise.errors import ConfigError
from polarise.notes import MAX_NOTE_BYTES, NoteInvalid, parse_note
from polarise.transaction import MAX_TRANSACTION_BYTES

LEAVES_FILE = "leaves.jsonl"
BLOCKS_FILE = "blocks.jsonl"


class LedgerCopy:
    """One folder.

    Args:
        folder: Made by the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._leaves = folder / LEAVES_FILE
        self._blocks = folder / BLOCKS_FILE
        self._offsets = array("Q")

    def check_exists(self) -> None:
        """See that there is a copy.

        Raises:
            ConfigError: There is none.
        """
        if not self._leaves.is_file() or not self._blocks.is_file():
            raise ConfigError(
                "there is no copy of a ledger",
                origin=str(self.folder),
                allowed="a folder that `python main.py audit --ledger URL --download DIR` has filled",
            )

    def leaves(self) -> Iterator[bytes]:
        """Yield the leaves from the first on, and remember where each begins."""
        self._offsets = array("Q")
        with self._leaves.open("rb") as handle:
            while line := handle.readline(MAX_TRANSACTION_BYTES + 2):
                self._offsets.append(handle.tell() - len(line))
                yield line.removesuffix(b"\n")

    def leaf(self, index: int) -> bytes:
        """Return one leaf that `leaves` has passed."""
        with self._leaves.open("rb") as handle:
            handle.seek(self._offsets[index])
            return handle.readline(MAX_TRANSACTION_BYTES + 2).removesuffix(b"\n")

    def notes(self) -> Iterator[bytes]:
        """Yield the signed notes of the blocks from height 0 on."""
        with self._blocks.open("rb") as handle:
            # A byte of a note takes six in JSON at most.
            while line := handle.readline(6 * MAX_NOTE_BYTES):
                yield _decoded(line)

    def add(self, leaves: Sequence[bytes], note: bytes) -> None:
        """Append a block with the leaves it covers for the first time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._leaves.open("ab") as handle:
            handle.writelines(line + b"\n" for line in leaves)
        with self._blocks.open("ab") as handle:
            handle.write(_encoded(note))

    def clear(self) -> None:
        """Begin anew."""
        self._leaves.unlink(missing_ok=True)
        self._blocks.unlink(missing_ok=True)

    def cut(self) -> int:
        """Cut off what is behind the last whole block, and return how many blocks there are.

        Raises:
            ConfigError: The last block is not readable; the copy has to be made anew.
        """
        if not self._blocks.exists() or not self._leaves.exists():
            self.clear()
            return 0
        kept, count, last = 0, 0, b""
        with self._blocks.open("rb") as handle:
            for line in handle:
                if line.endswith(b"\n"):
                    kept, count, last = kept + len(line), count + 1, line
        _truncate(self._blocks, kept)
        size = self._size_of(last) if count else 0
        with self._leaves.open("rb") as handle:
            end = sum(map(len, islice(handle, size)))
        _truncate(self._leaves, end)
        return count

    def _size_of(self, line: bytes) -> int:
        try:
            return block_of(parse_checkpoint(parse_note(_decoded(line)).text)).size
        except NoteInvalid as err:
            raise ConfigError(
                f"its last block is not readable: {err}", origin=str(self._blocks), allowed="an empty folder"
            ) from err


def _encoded(note: bytes) -> bytes:
    # Of a damaged file, too, the very bytes are kept.
    return json.dumps(note.decode("utf-8", "surrogateescape")).encode() + b"\n"


def _decoded(line: bytes) -> bytes:
    try:
        note = json.loads(line)
        return note.encode("utf-8", "surrogateescape") if isinstance(note, str) else line
    except ValueError:
        return line


def _truncate(path: Path, size: int) -> None:
    if path.stat().st_size != size:
        with path.open("r+b") as handle:
            handle.truncate(size)
