"""The kernel's list of mounts, as proc(5) describes its lines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from utils.mounts import MountedAt, read_mounts

LINES = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
90 22 0:52 /usr /data/a\040b\134c rw,nosuid - overlay polarise-0-1 rw,lowerdir=/x,upperdir=/y\011
91 22 0:53 / /ro ro,nosuid master:1 propagate_from:2 - tmpfs tmpfs rw,size=4k
92 22 0:54 / /super rw - ext4 /dev/loop0 ro
"""


def test_lines_with_and_without_optional_fields_are_read(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "mountinfo").write_text(LINES, encoding="ascii")
    assert read_mounts("7", proc=tmp_path) == [
        MountedAt("254:0", "/", False, "ext4", "/dev/vda", ("rw", "discard")),
        MountedAt("0:52", "/data/a b\\c", False, "overlay", "polarise-0-1", ("rw", "lowerdir=/x", "upperdir=/y\t")),
        MountedAt("0:53", "/ro", True, "tmpfs", "tmpfs", ("rw", "size=4k")),
        MountedAt("0:54", "/super", True, "ext4", "/dev/loop0", ("ro",)),
    ]


def test_option_is_found_by_its_whole_name() -> None:
    mounted = MountedAt("0:52", "/usr", False, "overlay", "p", ("rw", "lowerdir=/x=1", "xupperdir=/z"))
    assert mounted.option("lowerdir") == "/x=1"
    assert mounted.option("upperdir") is None
    assert mounted.option("rw") is None


def test_our_own_are_read() -> None:
    mounted = {mount.point: mount for mount in read_mounts()}
    number = Path("/proc").stat().st_dev
    assert mounted["/proc"].device == f"{os.major(number)}:{os.minor(number)}"


def test_process_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_mounts("1", proc=tmp_path)
