"""What the engine may open and lock bounds what its containers get; an engine that cannot be seen bounds nothing."""

import os
import resource
import socket
from pathlib import Path

import pytest

from neurons.miner.hard_limits import HardLimits, engine_limits, read_limits
from neurons.miner.profile import LOCKED_BYTES_MAX, OPEN_FILES_MAX, Profile
from tests.support.leases import lease


def test_limits_are_those_of_the_process_that_listens(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        found = engine_limits(f"unix://{path}")
    assert found == read_limits(os.getpid())
    assert found.open_files == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:1", "unix:///nowhere/docker.sock"])
def test_engine_that_is_elsewhere_or_away_has_unknown_limits(host: str) -> None:
    assert engine_limits(host) == HardLimits()


def test_unlimited_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "limits").write_text(
        "Max open files            1024    4096    files\nMax locked memory  1  unlimited  b\n"
    )
    assert read_limits(7, proc=tmp_path) == HardLimits(4096, None, None)


@pytest.mark.parametrize(
    ("engine", "files", "locked"),
    [
        (HardLimits(), OPEN_FILES_MAX, LOCKED_BYTES_MAX),
        (HardLimits(OPEN_FILES_MAX - 1, LOCKED_BYTES_MAX - 1), OPEN_FILES_MAX - 1, LOCKED_BYTES_MAX - 1),
        (HardLimits(OPEN_FILES_MAX + 1, LOCKED_BYTES_MAX + 1), OPEN_FILES_MAX, LOCKED_BYTES_MAX),
    ],
)
def test_container_gets_no_more_than_the_engine_has(engine: HardLimits, files: int, locked: int) -> None:
    limits = {limit.name: limit.hard for limit in Profile().options(lease(1), engine)["ulimits"]}
    assert limits == {"core": 0, "nofile": files, "memlock": locked}
