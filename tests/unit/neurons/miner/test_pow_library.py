"""The node compiles its own scan, once, in a folder of its own; without a compiler nothing changes."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from challenges.pow import PowCommitment, PowParams, check_shares
from challenges.pow_native import NativeScan, NativeUnavailable
from neurons.miner.hardware import detect_devices, measure_devices
from neurons.miner.node import MinerNode
from neurons.miner.pow_library import COMPILER, ensure_library, solver_command
from neurons.miner.solver import SOLVER_COMMAND, SolverProcess
from polarise.signing import Identity
from tests.support.identities import People
from tests.support.miners import engineless, running, wait_until

PARAMS = PowParams(shares=200, difficulty=500)


def script(folder: Path, text: str) -> str:
    """Return a compiler of a test's own."""
    path = folder / "cc-of-the-test"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def is_working(pid: str) -> bool:
    """Whether a process is there, and not only the name of one that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def real_compiler() -> str:
    path = shutil.which(COMPILER)
    assert path is not None
    return path


def test_without_a_compiler_solvers_start_as_ever_and_the_cause_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    told: list[str] = []
    assert solver_command(tmp_path, compiled_pow=True, on_missing=told.append) == SOLVER_COMMAND
    assert len(told) == 1
    assert "no C compiler 'cc'" in told[0]
    assert "apt-get install gcc" in told[0]


def test_nothing_is_compiled_unless_the_owner_asks_for_it(tmp_path: Path) -> None:
    assert solver_command(tmp_path, compiled_pow=False) == SOLVER_COMMAND
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("echo 'fatal: no assembler' >&2; exit 3", "ended with 3: fatal: no assembler"),
        ("exit 1", "ended with 1: no word"),
        ('while [ "$1" != -o ]; do shift; done; echo garbage > "$2"', "does not pass its trial: .*cannot be loaded"),
        ("exit 0", "does not pass its trial: .*No such file"),
    ],
    ids=["fails", "fails without a word", "writes something else", "writes nothing"],
)
def test_compiler_that_fails_leaves_nothing_behind(tmp_path: Path, text: str, cause: str) -> None:
    with pytest.raises(NativeUnavailable, match=cause):
        ensure_library(tmp_path / "native", compiler=script(tmp_path, text))
    assert list((tmp_path / "native").iterdir()) == []


def test_compiler_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    told = tmp_path / "pids"
    compiler = script(tmp_path, f"sleep 1000 & echo $! $$ > {told}.new; mv {told}.new {told}; wait")
    with pytest.raises(NativeUnavailable, match="took longer than 1 s"):
        ensure_library(tmp_path / "native", compiler=compiler, compile_seconds=1)
    pids = told.read_text().split()
    assert len(pids) == 2
    wait_until(lambda: not any(is_working(pid) for pid in pids), 10, "something of the compiler works on")


def test_compiler_sees_nothing_of_this_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPATH", "/somebody/elses")
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("POLARISE_PASSPHRASE_FILE", "/secret")
    seen = tmp_path / "environment"
    with pytest.raises(NativeUnavailable):
        ensure_library(tmp_path / "native", compiler=script(tmp_path, f"env > {seen}; exit 1"))
    names = {line.partition("=")[0] for line in seen.read_text().splitlines()}
    # The shell adds the last three.
    assert names <= {"PATH", "LC_ALL", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_"}


@pytest.mark.compiler
def test_library_is_this_users_alone_and_made_once(tmp_path: Path) -> None:
    library = ensure_library(tmp_path / "native")
    assert stat.S_IMODE(library.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(library.stat().st_mode) == 0o700
    assert [path.name for path in library.parent.iterdir()] == [library.name]
    assert ensure_library(tmp_path / "native", compiler="not asked for again") == library


@pytest.mark.compiler
def test_library_that_was_damaged_is_made_anew(tmp_path: Path) -> None:
    library = ensure_library(tmp_path / "native")
    # Not in place: its bytes may be in this process's memory.
    library.unlink()
    library.write_bytes(b"half a libr")
    assert ensure_library(tmp_path / "native") == library
    NativeScan(library)


@pytest.mark.compiler
def test_folder_that_others_may_write_is_never_compiled_into_use(tmp_path: Path) -> None:
    folder = tmp_path / "native"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(NativeUnavailable, match="not this user's alone"):
        ensure_library(folder)


@pytest.mark.compiler
def test_code_for_another_processor_ends_its_trial_and_not_the_miner(tmp_path: Path) -> None:
    source = tmp_path / "trap.c"
    source.write_text("unsigned polarise_pow_scan(void) { __builtin_trap(); }\n")
    compiler = script(
        tmp_path, f'while [ "$1" != -o ]; do shift; done; exec {real_compiler()} -shared -fPIC -o "$2" {source}'
    )
    with pytest.raises(NativeUnavailable, match="does not pass its trial: status -"):
        ensure_library(tmp_path / "native", compiler=compiler)


@pytest.mark.compiler
def test_solver_process_proves_with_the_library_it_is_told_of(tmp_path: Path) -> None:
    command = solver_command(tmp_path, compiled_pow=True)
    assert command[:-1] == SOLVER_COMMAND
    solver = SolverProcess(command)
    try:
        solver.prepare("cpu", PARAMS)
        # numpy hashes in processes, compiled code in threads of this one; and the library is in its memory.
        assert command[-1] in Path(f"/proc/{solver.pid}/maps").read_text()
        check_shares(PARAMS, bytes(32), PowCommitment.from_wire(solver.solve(bytes(32), 60)))
    finally:
        solver.close()


@pytest.mark.compiler
def test_join_measures_with_the_solver_that_will_answer(tmp_path: Path) -> None:
    command = solver_command(tmp_path, compiled_pow=True)
    started: list[SolverProcess] = []

    def start() -> SolverProcess:
        started.append(SolverProcess(command))
        return started[-1]

    processor = detect_devices(claim_cpu=True)[-1:]
    (measured,) = measure_devices(processor, start_solver=start)
    assert len(started) == 3  # one per kind of proof
    assert measured.pow_hashes_per_second > 1
    assert not any(os.path.exists(f"/proc/{solver.pid}") for solver in started)


@pytest.mark.compiler
def test_miner_that_is_asked_to_gives_its_solvers_the_library(
    people: People, node_identity: Identity, tmp_path: Path
) -> None:
    config = engineless(people, miner={"compiled_pow": True})
    with running(MinerNode(config, tmp_path, node_identity)) as miner:
        solver = miner.node.start_solver()
        try:
            solver.prepare("cpu", PARAMS)
            assert str(tmp_path / "native") in Path(f"/proc/{solver.pid}/maps").read_text()
        finally:
            solver.close()
