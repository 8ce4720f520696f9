"""The user of a solver: what the kernel says of the running process, and what it can no longer do."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from challenges.matmul_messages import MatmulParams
from neurons.miner import unprivileged
from neurons.miner.hardware import devices_of
from neurons.miner.solver import SOLVER_COMMAND, SolverProcess
from neurons.miner.unprivileged import USERS, solver_user, user_of
from tests.support.proving_miner import CPU

NODE = "0123456789ab"
PARAMS = MatmulParams(n=64, tile=32, rounds=1, openings=1)
# A solver of another kind: it tries what nobody without rights may do, and says how far it came.
ATTEMPTS = """
import json, os, sys
def attempt(path, flags=os.O_RDONLY):
    try:
        os.close(os.open(path, flags))
    except OSError as err:
        return err.strerror
    return "open"
def become_root():
    try:
        os.setuid(0)
    except OSError as err:
        return err.strerror
    return "root"
line = sys.stdin.readline()
print(json.dumps({"openings": [{"key": attempt(sys.argv[1]), "memory": attempt("/proc/%d/mem" % os.getppid()),
      "file": attempt(sys.argv[1] + ".new", os.O_CREAT | os.O_WRONLY), "root": become_root()}]}), flush=True)
sys.stdin.read()
"""


def status_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


def user(**changes: object) -> int | None:
    asked: dict[str, object] = {"is_wanted": True, "compiled_pow": False, "on_missing": lambda _cause: None, **changes}
    return solver_user(NODE, (CPU,), **asked)  # type: ignore[arg-type]


def test_a_solver_has_no_rights_and_still_proves() -> None:
    """The real program with its own user, where these tests run as root and that user can read it; else as whoever runs them."""
    own = user()
    solver = SolverProcess(SOLVER_COMMAND, own)
    try:
        solver.prepare("cpu", PARAMS)
        assert solver.solve(b"s" * 32, 30)
        status = status_of(solver.pid)
        assert status["NoNewPrivs"] == ["1"]
        if own is not None:
            assert status["Uid"] == status["Gid"] == [str(own)] * 4
            assert status["Groups"] in ([], [str(own)])
            assert {status[name][0] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
            assert Path(f"/proc/{solver.pid}/oom_score_adj").read_text() == "1000\n"
    finally:
        solver.close()


def test_without_rights_it_reads_no_key_no_memory_and_writes_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        return  # this user's files are the miner's own, and there is nothing to be kept from
    key = tmp_path / "node.key"
    key.write_bytes(b"secret")
    key.chmod(0o600)
    # The system's own Python is everybody's to run, wherever the one of these tests lies.
    solver = SolverProcess(
        (shutil.which("python3", path=os.defpath) or sys.executable, "-c", ATTEMPTS, str(key)), user_of(NODE)
    )
    try:
        (told,) = solver.open([])
    finally:
        solver.close()
    assert set(told.values()) <= {"Permission denied", "Operation not permitted"}, told


def test_users_of_nodes_are_nobodys() -> None:
    assert user_of("000000000000") == USERS.start
    assert user_of("ffffffffffff") in USERS
    assert user_of("000000000001") != user_of("000000000002")
    # Neither tenants of strict leases (numbers of ssh ports), nor users of the host, services of systemd or user namespaces.
    assert USERS.start > 0x6FFF_FFFF
    assert USERS.stop <= 0x7FFE_0000


def test_gpus_and_the_compiled_scan_keep_the_miners_user() -> None:
    assert user(is_wanted=False) is None
    assert user(compiled_pow=True) is None
    gpu = CPU.model_copy(update={"kind": "gpu"})
    assert solver_user(NODE, (gpu, CPU), is_wanted=True, compiled_pow=False) is None
    assert devices_of([], claim_cpu=True)[0].kind == "cpu"


def test_a_program_that_user_cannot_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the checkout lies in root's home."""
    if os.geteuid() != 0:
        return
    causes: list[str] = []
    tmp_path.chmod(0o700)
    hidden = tmp_path / "python"
    (tmp_path / "real").write_text("#!/bin/sh\n")
    (tmp_path / "real").chmod(0o700)
    hidden.symlink_to(tmp_path / "real")
    monkeypatch.setattr(unprivileged.sys, "executable", str(hidden))  # type: ignore[attr-defined]
    assert user(on_missing=causes.append) is None
    assert causes == [f"user {user_of(NODE)} may not run {tmp_path / 'real'}"]


def test_the_warning_says_what_to_do(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    if os.geteuid() != 0:
        return
    monkeypatch.setattr(unprivileged, "_why_not", lambda _user: "no reason")
    assert solver_user(NODE, (CPU,), is_wanted=True, compiled_pow=False) is None
    (record,) = caplog.records
    assert "not in root's home" in record.__dict__["hint"]
