"""What files behind loop devices can still grow, told by a folder made as the kernel's."""

from __future__ import annotations

import os
from pathlib import Path

from utils.loops import growth_bytes

SIZE = 1 << 20


def sparse(path: Path, written: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(os.urandom(written))
        file.truncate(SIZE)
        file.flush()
        os.fsync(file.fileno())
    return path


def tell(devices: Path, number: int, text: str) -> None:
    told = devices / f"loop{number}" / "loop" / "backing_file"
    told.parent.mkdir(parents=True)
    told.write_text(f"{text}\n", encoding="utf-8")


def test_what_is_not_written_yet_counts_once_and_without_our_own(tmp_path: Path) -> None:
    devices, ours = tmp_path / "block", tmp_path / "ours"
    empty, half = sparse(tmp_path / "a b" / "1"), sparse(tmp_path / "2", SIZE // 2)
    for number, path in enumerate((empty, empty, half, sparse(ours / "lease" / "3"), sparse(tmp_path / "4", SIZE))):
        tell(devices, number, str(path))
    assert growth_bytes(tmp_path, leave_out=ours, devices=devices) == SIZE + SIZE // 2
    assert growth_bytes(tmp_path, leave_out=tmp_path / "other", devices=devices) == 2 * SIZE + SIZE // 2


def test_files_that_are_gone_or_on_another_file_system_do_not_count(tmp_path: Path) -> None:
    devices = tmp_path / "block"
    tell(devices, 0, f"{tmp_path}/gone (deleted)")
    tell(devices, 1, "/proc/version")
    (devices / "loop2").mkdir()
    assert growth_bytes(tmp_path, leave_out=tmp_path / "ours", devices=devices) == 0
    assert growth_bytes(tmp_path, leave_out=tmp_path / "ours", devices=tmp_path / "none") == 0


def test_our_own_do_not_count_either_where_their_folder_is_reached_by_a_link(tmp_path: Path) -> None:
    devices = tmp_path / "block"
    tell(devices, 0, str(sparse(tmp_path / "real" / "lease" / "1")))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert growth_bytes(tmp_path, leave_out=tmp_path / "link", devices=devices) == 0
