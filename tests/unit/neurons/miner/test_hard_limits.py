"""What the engine may open and lock bounds what its containers get; an engine that cannot be seen bounds nothing."""

import os
import resource
import socket
from pathlib import Path

import pytest

from neurons.miner.hard_limits import HardLimits, engine_limits, read_limits
from neurons.miner.profile import LOCKED_BYTES_MAX, OPEN_FILES_MAX, QUEUE_BYTES_MAX, SIGNALS_MAX, Profile
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


MOST = (OPEN_FILES_MAX, LOCKED_BYTES_MAX, SIGNALS_MAX, QUEUE_BYTES_MAX)


@pytest.mark.parametrize(
    ("engine", "given"),
    [((None,) * 4, MOST), (tuple(most - 1 for most in MOST),) * 2, (tuple(most + 1 for most in MOST), MOST)],
)
def test_container_gets_no_more_than_the_engine_has(engine: tuple[int | None, ...], given: tuple[int, ...]) -> None:
    files, locked, signals, queue = engine
    limits = Profile().options(lease(1), HardLimits(files, locked, 0, signals, queue))["ulimits"]
    names = ("core", "nofile", "memlock", "sigpending", "msgqueue")
    assert {limit.name: limit.hard for limit in limits} == dict(zip(names, (0, *given), strict=True))


def test_tenants_stay_below_what_the_host_s_root_may_have() -> None:
    """The kernel adds up what all processes of a user have, and asks each about its own limit."""
    signals, _ = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    queue, _ = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    for most, own in ((SIGNALS_MAX, signals), (QUEUE_BYTES_MAX, queue)):
        assert own == resource.RLIM_INFINITY or most < own
