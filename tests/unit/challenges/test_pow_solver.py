"""The miner's side of the proof of work: the same first shares on any device, and clean stops and ends."""

from __future__ import annotations

import itertools
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from challenges.pow import PowParams, check_shares, share_prefix, share_value
from challenges.pow_solver import (
    NumpyPowBackend,
    PendingShares,
    PowBackend,
    ProcessPowBackend,
    open_pow_backend,
    solve_pow,
)
from challenges.solver import SolveStopped
from polarise.errors import Unavailable

SEED = bytes(range(32))
PARAMS = PowParams(shares=500, difficulty=100)
ROOT_FOLDER = Path(__file__).parents[3]


class QueuedBackend(NumpyPowBackend):
    """Scans when it is waited for, as a GPU's queue would, and writes down what was asked."""

    def __init__(self, lanes: int, calls: int, scans_queued: int) -> None:
        super().__init__(lanes, calls)
        self.scans_queued = scans_queued
        self.calls: list[str] = []

    def start_scan(self, prefix: bytes, target: int, start: int) -> PendingShares:
        index = start // self.scan_nonces
        self.calls.append(f"start {index}")

        def wait() -> list[int]:
            self.calls.append(f"wait {index}")
            return self.scan(prefix, target, start)

        return wait


@pytest.fixture(scope="module")
def expected() -> tuple[int, ...]:
    prefix = share_prefix(PARAMS, SEED)
    shares = (nonce for nonce in itertools.count() if share_value(prefix, nonce) <= PARAMS.target)
    return tuple(itertools.islice(shares, PARAMS.shares))


@pytest.mark.parametrize(
    ("lanes", "calls", "scans_queued"), [(1024, 1, 1), (4096, 2, 3), (1 << 16, 1, 2), (512, 64, 1)]
)
def test_answer_does_not_depend_on_lanes_stretches_or_queue(
    expected: tuple[int, ...], lanes: int, calls: int, scans_queued: int
) -> None:
    assert solve_pow(PARAMS, SEED, QueuedBackend(lanes, calls, scans_queued)).nonces == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_answer_does_not_depend_on_the_number_of_processes(expected: tuple[int, ...], workers: int) -> None:
    """For one seed after another: nothing of one proof may show in the next, which queues behind what is left of it."""
    with ProcessPowBackend(workers) as backend:
        backend.prepare(PARAMS)
        for seed in (SEED, bytes(32), SEED):
            work = solve_pow(PARAMS, seed, backend)
            check_shares(PARAMS, seed, work.commitment)
            assert (work.nonces == expected) is (seed == SEED)


def test_stretches_are_queued_ahead_and_taken_in_order() -> None:
    backend = QueuedBackend(lanes=1024, calls=1, scans_queued=2)
    work = solve_pow(PowParams(16, 150), SEED, backend)
    assert backend.calls == ["start 0", "start 1", "wait 0", "start 2", "wait 1", "start 3", "wait 2"]
    assert 2 * 1024 <= work.nonces[-1] < 3 * 1024


def test_difficulties_above_32_bits_compare_the_word_before_the_last() -> None:
    """A scan takes a nonce whose value is the target and leaves it where it is one more."""
    params = PowParams(16, 100)
    prefix, backend = share_prefix(params, SEED), NumpyPowBackend(lanes=1024, calls=1)
    best = min(range(1024), key=lambda nonce: share_value(prefix, nonce))
    value = share_value(prefix, best)
    assert backend.scan(prefix, value, 0) == [best]
    assert backend.scan(prefix, value - 1, 0) == []


def test_progress_counts_shares_and_ends_at_their_number() -> None:
    seen: list[int] = []
    solve_pow(PARAMS, SEED, NumpyPowBackend(lanes=4096, calls=1), on_progress=seen.append)
    assert len(seen) > 5
    assert seen == sorted(seen)
    assert seen[-1] == PARAMS.shares


@pytest.mark.parametrize("after", [0, 2])
def test_stop_is_asked_before_every_stretch(after: int) -> None:
    backend = QueuedBackend(lanes=1024, calls=1, scans_queued=1)
    answers = iter([False] * after + [True])
    with pytest.raises(SolveStopped, match="of 500 shares"):
        solve_pow(PARAMS, SEED, backend, should_stop=lambda: next(answers))
    assert len(backend.calls) == 2 * after


def test_a_proof_of_work_opens_nothing() -> None:
    work = solve_pow(PowParams(16, 10), SEED, NumpyPowBackend(lanes=1024, calls=1))
    assert work.open([]) == ()
    with pytest.raises(ValueError, match="no openings, 1 were asked for"):
        work.open([(0, 0, 0)])


@pytest.mark.parametrize("device", ["", "gpu", "cuda", "cuda:", "cuda:x", "cuda:-1", "CPU"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="cuda:N"):
        open_pow_backend(device)


def test_a_gpu_that_is_not_there_is_named_with_what_to_do() -> None:
    """Whether this torch has no CUDA, the driver is missing, or the host has fewer cards."""
    pytest.importorskip("torch")
    with pytest.raises(Unavailable, match=r"cuda:99: .+: .+"):
        open_pow_backend("cuda:99")


def test_the_cpu_has_a_backend() -> None:
    backend: PowBackend = open_pow_backend("cpu")
    backend.prepare(PARAMS)
    assert solve_pow(PARAMS, SEED, backend).nonces


def test_a_process_that_dies_is_an_error_and_no_missing_share() -> None:
    with ProcessPowBackend(1) as backend:
        backend.prepare(PARAMS)
        (worker,) = (child for child in multiprocessing.active_children() if child.name == "pow-0")
        worker.kill()
        worker.join()
        with pytest.raises(Unavailable, match="process of the solver ended"):
            solve_pow(PARAMS, SEED, backend)


def test_processes_end_with_their_backend() -> None:
    with ProcessPowBackend(2) as backend:
        backend.prepare(PARAMS)
        workers = [child for child in multiprocessing.active_children() if child.name.startswith("pow-")]
        assert len(workers) == 2
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0


def test_processes_end_when_the_solver_is_killed() -> None:
    """The miner kills its solver after every proof; nothing may go on burning its cores, or complain of it."""
    program = """
import multiprocessing, sys
from challenges.pow import PowParams
from challenges.pow_solver import ProcessPowBackend
if __name__ == "__main__":
    backend = ProcessPowBackend(2)
    backend.prepare(PowParams(16, 100))
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT_FOLDER, stdin=pipe, stdout=pipe, stderr=pipe) as solver:
        assert solver.stdout is not None
        assert len(solver.stdout.readline().split()) == 2
        solver.kill()
        # Its processes hold the same pipes, which end with the last of them.
        assert solver.communicate(timeout=30) == (b"", b"")
