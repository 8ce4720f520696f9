"""One process per data directory, and the second one is told who holds it."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from neurons.base.data_dir import DataDir
from polarise.errors import ConfigError

HOLD = """\
import sys, time
from pathlib import Path
from neurons.base.data_dir import DataDir
with DataDir(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_folders_are_made_for_the_owner_alone(tmp_path: Path) -> None:
    with DataDir(tmp_path / "node") as files:
        for folder in (files.root, files.keys, files.leases, files.evidence, files.run):
            assert folder.stat().st_mode & 0o777 == 0o700


def test_second_process_is_refused_by_the_number_of_the_first(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(ConfigError, match=f"process {holder.pid} already runs"), DataDir(tmp_path):
                pass
        finally:
            holder.kill()
    with DataDir(tmp_path):  # a killed process leaves the file, but not the lock
        assert (tmp_path / "lock").read_text(encoding="ascii") == f"{os.getpid()}\n"


def test_lock_is_given_back_on_leaving(tmp_path: Path) -> None:
    for _ in range(2):
        with DataDir(tmp_path):
            pass


def test_folder_that_cannot_be_made_is_the_operators_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot use the data directory"), DataDir(tmp_path / "file" / "node"):
        pass


def test_lock_that_is_a_link_is_refused_and_what_it_leads_to_untouched(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept", encoding="ascii")
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "lock").symlink_to(precious)
    with pytest.raises(ConfigError, match="cannot use the data directory"), DataDir(tmp_path / "node"):
        pass
    assert precious.read_text(encoding="ascii") == "kept"


def test_lock_given_back_within_the_wait_is_taken(tmp_path: Path) -> None:
    with DataDir(tmp_path) as first:
        leaving = threading.Timer(0.3, first.__exit__, (None, None, None))
        leaving.start()
        with DataDir(tmp_path, wait_seconds=20) as second:
            assert second.root == tmp_path
        leaving.join()
