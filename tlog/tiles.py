"""The log as static files (c2sp.org/tlog-tiles): any web server can serve them, anyone's tools can check them.

Rules:
- A tile holds up to 256 hashes of one level; level l counts subtrees of 256^l leaves. A bundle holds up to 256 entries,
  each behind its length as two bytes.
- A path is accepted in its one spelling only; a tile that is not complete to the width asked for does not exist.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from polarise.checkpoint import parse_checkpoint
from polarise.notes import parse_note
from tlog.store import LogStore

WIDTH = 256
BUNDLE_BYTES_MAX = WIDTH * (2 + 65535)

_PATH = re.compile(r"(entries|0|[1-9]\d?)((?:/x\d{3})*/\d{3})(?:\.p/([1-9]\d{0,2}))?")


@dataclass(frozen=True, slots=True)
class Tile:
    """Name of one file.

    Attributes:
        level: Level of the hashes; None for a bundle of entries.
        index: Place in the level.
        width: Hashes or entries in it, 1..256.
    """

    level: int | None
    index: int
    width: int

    @property
    def path(self) -> str:
        """Path behind ``tile/``."""
        digits = f"{self.index:d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        parts = [digits[place : place + 3] for place in range(0, len(digits), 3)]
        name = "/".join([f"x{part}" for part in parts[:-1]] + parts[-1:])
        head = "entries" if self.level is None else str(self.level)
        return f"{head}/{name}" + ("" if self.width == WIDTH else f".p/{self.width}")


def parse_tile(path: str) -> Tile | None:
    """Return the tile a path behind ``tile/`` names, None when it names none."""
    match = re.fullmatch(_PATH, path) if len(path) <= 64 and path.isascii() else None
    if match is None:
        return None
    level = None if match[1] == "entries" else int(match[1])
    tile = Tile(level, int(re.sub(r"\D", "", match[2])), int(match[3] or WIDTH))
    return tile if tile.path == path and (level or 0) < 64 else None


def read_tile(log: LogStore, tile: Tile) -> bytes | None:
    """Return the content of a tile, None when the log has not got that far."""
    start, end = tile.index * WIDTH, tile.index * WIDTH + tile.width
    level = 8 * (tile.level or 0)
    if end > log.size >> level:
        return None
    if tile.level is not None:
        return b"".join(log.nodes(level, start, end))
    entries: list[bytes] = []
    while len(entries) < tile.width:
        entries.extend(log.read(start + len(entries), end))
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def tiles_of(size: int) -> Iterator[Tile]:
    """Yield every tile and bundle of a log of so many leaves."""
    level = 0
    while size >> (8 * level):
        yield from _row(level, size >> (8 * level))
        level += 1
    yield from _row(None, size)


def export(log: LogStore, folder: Path) -> int:
    """Write the newest checkpoint and all tiles below it; files that are there already stay as they are.

    Returns:
        How many files were written; 0 before the first checkpoint.
    """
    note = log.latest_checkpoint()
    if note is None:
        return 0
    written = 0
    for tile in tiles_of(parse_checkpoint(parse_note(note).text).size):
        target = folder / "tile" / tile.path
        content = None if target.exists() else read_tile(log, tile)
        if content is not None:
            _write(target, content)
            written += 1
    # Last, so that whoever reads the checkpoint finds every tile it needs.
    _write(folder / "checkpoint", note)
    return written + 1


def _row(level: int | None, count: int) -> Iterator[Tile]:
    for index in range(count // WIDTH):
        yield Tile(level, index, WIDTH)
    if count % WIDTH:
        yield Tile(level, count // WIDTH, count % WIDTH)


def _write(target: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(target)
