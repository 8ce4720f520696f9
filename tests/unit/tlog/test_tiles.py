"""Static tiles: the specification's own numbers, and a tree rebuilt from nothing but the exported files."""

from __future__ import annotations

from pathlib import Path

import pytest

from polarise import merkle
from polarise.checkpoint import open_checkpoint
from polarise.notes import Ed25519Verifier
from polarise.signing import SigningKey
from tlog.store import LogStore
from tlog.tiles import Tile, export, parse_tile, read_tile, tiles_of

KEY = SigningKey(bytes([3]) * 32)
LOG = Ed25519Verifier("log.example/one", KEY.public_key)


def test_the_tree_of_70000_leaves_has_the_tiles_of_the_specification() -> None:
    tiles = list(tiles_of(70_000))
    of_level = {level: [tile for tile in tiles if tile.level == level] for level in (0, 1, 2, None)}
    assert [(len(of_level[level]), of_level[level][-1].width) for level in (0, 1, 2)] == [(274, 112), (2, 17), (1, 1)]
    assert len(of_level[None]) == 274
    assert [tile.path for tile in tiles_of(256)] == ["0/000", "1/000.p/1", "entries/000"]


def test_paths_are_the_ones_of_the_specification() -> None:
    assert Tile(0, 1234067, 256).path == "0/x001/x234/067"
    for tile in (Tile(0, 0, 1), Tile(3, 999, 255), Tile(None, 1000, 256), Tile(63, 5, 7)):
        assert parse_tile(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        *("", "0", "0/0", "0/1234", "00/000", "0/000.p/0", "0/000.p/256", "0/000.p/01", "0/x000/001", "64/000"),
        *("0/000/001", "entries/../000", "0/x001/067/", "-1/000", "0/\u0660\u0660\u0660", f"0/{'x001/' * 40}001"),
    ],
)
def test_another_spelling_names_no_tile(path: str) -> None:
    assert parse_tile(path) is None


def test_root_and_entries_are_rebuilt_from_the_exported_files(tmp_path: Path) -> None:
    lines = [f"line {index}".encode() * (index % 5) for index in range(600)]
    with LogStore(tmp_path / "log.sqlite", LOG.name) as log:
        assert export(log, tmp_path / "out") == 0
        log.append_many(lines)
        signed = log.checkpoint(KEY)
        log.append(b"behind the checkpoint")
        assert export(log, tmp_path / "out") == 8
        assert export(log, tmp_path / "out") == 1, "only the checkpoint is written again"
    root = tmp_path / "out"
    size = open_checkpoint((root / "checkpoint").read_bytes(), LOG).checkpoint.size
    entries: list[bytes] = []
    hashes: list[bytes] = []
    for tile in tiles_of(size):
        content = (root / "tile" / tile.path).read_bytes()
        if tile.level == 0:
            hashes.extend(content[place : place + 32] for place in range(0, len(content), 32))
        while tile.level is None and content:
            length = int.from_bytes(content[:2], "big")
            entries.append(content[2 : 2 + length])
            content = content[2 + length :]
    assert entries == lines
    assert hashes == [merkle.leaf_hash(line) for line in lines]
    assert merkle.root_of_hashes(hashes) == signed.checkpoint.root
    level_one = (root / "tile/1/000.p/2").read_bytes()
    assert level_one == merkle.root_of_hashes(hashes[:256]) + merkle.root_of_hashes(hashes[256:512])


def test_a_tile_the_log_has_not_reached_does_not_exist(tmp_path: Path) -> None:
    with LogStore(tmp_path / "log.sqlite", LOG.name) as log:
        log.append_many([b"a", b"b"])
        assert read_tile(log, Tile(0, 0, 2)) == merkle.leaf_hash(b"a") + merkle.leaf_hash(b"b")
        for tile in (Tile(0, 0, 3), Tile(0, 1, 1), Tile(1, 0, 1), Tile(None, 0, 3)):
            assert read_tile(log, tile) is None
