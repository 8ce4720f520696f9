"""Starting an engine by hand, with a small stand-in for dockerd: it must outlive us, and its death must be told."""

import os
import signal
import time
from pathlib import Path

import pytest

from neurons.setup import engine
from neurons.setup.cgroups import MOUNT_POINT, mount_commands, mounted_controllers
from neurons.setup.errors import SetupError
from neurons.setup.progress import Progress
from neurons.setup.shell import is_root

needs_root = pytest.mark.skipif(not is_root(), reason="dockerd is started as root")
# `docker` answers as soon as the stand-in has written its process id.
CLIENT = """#!/bin/sh
test -s {folder}/pid && echo 20.10.24
"""
ENGINE_THAT_RUNS = """#!/bin/sh
echo $$ > {folder}/pid
exec sleep 60
"""
ENGINE_THAT_DIES = """#!/bin/sh
echo "failed to start daemon: no space left on device" >&2
exit 1
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, dockerd: str) -> None:
    """Put docker and dockerd first on PATH, and the files the engine step writes into the folder."""
    for name, text in (("docker", CLIENT), ("dockerd", dockerd)):
        (folder / name).write_text(text.format(folder=folder), encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(engine, "LOG", folder / "dockerd.log")
    monkeypatch.setattr(engine, "PID_FILE", folder / "docker.pid")
    monkeypatch.setattr(engine, "SYSTEMD", folder / "no-systemd")
    monkeypatch.setattr(engine, "mount_missing_cgroups", lambda: False)


@needs_root
def test_dockerd_started_by_hand_is_nobodys_child_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, ENGINE_THAT_RUNS)
    assert engine.start_engine(Progress(1)) == "started 20.10.24 by hand"
    pid = int((tmp_path / "pid").read_text())
    try:
        assert os.getsid(pid) != os.getsid(0)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        assert int(fields[1]) != os.getpid()
        assert os.readlink(f"/proc/{pid}/fd/1") == str(tmp_path / "dockerd.log")
    finally:
        os.kill(pid, signal.SIGKILL)


@needs_root
def test_death_of_dockerd_is_told_at_once_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, ENGINE_THAT_DIES)
    started = time.monotonic()
    with pytest.raises(SetupError, match="no space left on device"):
        engine.start_engine(Progress(1))
    assert time.monotonic() - started < engine.START_DEADLINE_SECONDS


@needs_root
def test_pid_file_of_another_program_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, ENGINE_THAT_DIES)
    (tmp_path / "docker.pid").write_text(f"{os.getpid()}\n")
    with pytest.raises(SetupError, match="no space left"):
        engine.start_engine(Progress(1))
    assert not (tmp_path / "docker.pid").exists()


def test_controllers_are_found_in_both_layouts() -> None:
    mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n"
    assert mounted_controllers(mounts, "") >= {"cpu", "memory"}
    assert "pids" not in mounted_controllers(mounts, "")
    assert mounted_controllers("", "cpuset cpu io memory pids\n") >= {"cpu", "memory", "pids"}


def test_version_2_is_mounted_where_no_hierarchy_holds_a_controller() -> None:
    table = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t1\t1\nmemory\t0\t1\t1\npids\t0\t1\t1\n"
    assert mount_commands(table) == [["mount", "-t", "cgroup2", "cgroup2", str(MOUNT_POINT)]]


def test_version_1_is_mounted_where_it_holds_one_needed_controller() -> None:
    table = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t3\t1\t1\nmemory\t0\t1\t1\npids\t0\t1\t0\n"
    commands = mount_commands(table)
    assert commands[0][:3] == ["mount", "-t", "tmpfs"]
    assert ["mount", "-t", "cgroup", "-o", "cpu", "cgroup", f"{MOUNT_POINT}/cpu"] in commands
    assert not any("pids" in command for command in commands)
