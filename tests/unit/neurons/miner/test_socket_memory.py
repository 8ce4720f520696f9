"""Sockets of a container hold a quarter of its memory at most, where the kernel counts them apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from neurons.miner.socket_memory import LIMIT, hold_socket_memory, socket_bytes

PID = 4242
V1 = "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n3:pids:/docker/x\n"
V2 = "0::/docker/x\n"
NONE = "9223372036854771712\n"


def group(root: Path, text: str, limit: str | None) -> Path:
    """Write the files of a process and its cgroup, and return the limit's."""
    (root / "proc" / str(PID)).mkdir(parents=True)
    (root / "proc" / str(PID) / "cgroup").write_text(text)
    folder = root / "cgroup" / ("memory/docker/x" if text == V1 else "docker/x")
    folder.mkdir(parents=True)
    if limit is not None:
        (folder / LIMIT).write_text(limit)
    return folder / LIMIT


def hold(root: Path, memory_bytes: int) -> list[str]:
    return hold_socket_memory(PID, memory_bytes, proc=root / "proc", cgroup_root=root / "cgroup")


def test_limit_is_written_where_sockets_are_counted_apart(tmp_path: Path) -> None:
    limit = group(tmp_path, V1, NONE)
    assert hold(tmp_path, 64 << 20) == []
    assert int(limit.read_text()) == 16 << 20


@pytest.mark.parametrize("text", [V1, V2])
def test_kernel_without_the_limit_is_left_alone(tmp_path: Path, text: str) -> None:
    limit = group(tmp_path, text, None)
    assert hold(tmp_path, 64 << 20) == []
    assert not limit.exists()


def test_limit_that_the_kernel_refuses_is_an_error(tmp_path: Path) -> None:
    limit = group(tmp_path, V1, None)
    limit.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        hold(tmp_path, 64 << 20)


def test_limit_is_a_whole_number_of_pages() -> None:
    """The kernel counts in pages; any other would be read back smaller."""
    assert [socket_bytes(size) for size in (16384, 16383, 32767)] == [4096, 0, 4096]
