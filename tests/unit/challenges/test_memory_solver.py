"""The miner's side of the memory proof: the same roots on any number of processes, and clean stops and ends."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from challenges import memory, memory_solver
from challenges.memory import MemoryParams
from challenges.memory_backends import (
    BlockStore,
    NumpyMemoryBackend,
    ProcessMemoryBackend,
    open_memory_backend,
)
from challenges.memory_digest import PassKeys
from challenges.memory_solver import MemoryBackend, MemoryProver, solve_memory
from challenges.proofs import Prover, Work
from challenges.solver import SolveStopped
from polarise.errors import Unavailable

SEED = bytes(range(32))
FILL_SEED = bytes(32)
PARAMS = MemoryParams(blocks=21, hashes=1, passes=3, openings=3)
ROOT_FOLDER = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def expected() -> tuple[bytes, ...]:
    backend = NumpyMemoryBackend()
    backend.fill(PARAMS, FILL_SEED)
    return solve_memory(PARAMS, FILL_SEED, SEED, backend).roots


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_answer_does_not_depend_on_the_number_of_processes(expected: tuple[bytes, ...], workers: int) -> None:
    """For one fill after another: nothing of one proof may show in the next."""
    with ProcessMemoryBackend(workers) as backend:
        for fill_seed in (FILL_SEED, SEED, FILL_SEED):
            backend.fill(PARAMS, fill_seed)
            work = solve_memory(PARAMS, fill_seed, SEED, backend)
            positions = [(0, 0), (1, 10), (2, 20)]
            memory.check_block_openings(PARAMS, fill_seed, SEED, work.commitment, positions, work.open(positions))
            assert (work.roots == expected) is (fill_seed == FILL_SEED)


@pytest.mark.parametrize("blocks", [range(0, 21), range(0, 8), range(9, 12), range(20, 21), range(5, 5)])
def test_parts_of_a_store_together_digest_what_is_asked(blocks: range) -> None:
    keys = PassKeys.of(SEED)
    whole = BlockStore(PARAMS, FILL_SEED, range(21))
    parts = [BlockStore(PARAMS, FILL_SEED, part) for part in (range(0, 9), range(9, 9), range(9, 21))]
    together = np.concatenate([part.digests(keys, blocks) for part in parts])
    assert np.array_equal(together, whole.digests(keys, blocks))
    assert len(together) == len(blocks)


def test_the_prover_is_served_by_the_lines_of_every_kind() -> None:
    """As `challenges.proofs` has it: prepare before the clock, solve, to_wire, open."""
    prover: Prover = MemoryProver(PARAMS, NumpyMemoryBackend())
    prover.prepare(FILL_SEED)
    seen: list[int] = []
    work: Work = prover.solve(SEED, on_progress=seen.append, should_stop=lambda: False)
    assert seen == [1, 2, 3]
    commitment = memory.MemoryCommitment.from_wire(json.loads(json.dumps(work.commitment.to_wire())))
    positions = [(2, 20), (0, 0), (1, 7)]
    sent = json.loads(json.dumps([opening.to_wire() for opening in work.open(positions)]))
    openings = memory.block_openings_from_wire(PARAMS, sent)
    memory.check_block_openings(PARAMS, FILL_SEED, SEED, commitment, positions, openings)


@pytest.mark.parametrize("after", [0, 2])
def test_stop_is_asked_before_every_pass(after: int) -> None:
    backend = NumpyMemoryBackend()
    backend.fill(PARAMS, FILL_SEED)
    answers = iter([False] * after + [True])
    with pytest.raises(SolveStopped, match=f"stopped after {after} of 3 passes"):
        solve_memory(PARAMS, FILL_SEED, SEED, backend, should_stop=lambda: next(answers))


def test_passes_need_a_filled_memory() -> None:
    with pytest.raises(ValueError, match="not filled"):
        solve_memory(PARAMS, FILL_SEED, SEED, NumpyMemoryBackend())


@pytest.mark.parametrize("fill_seed", [b"", bytes(31), bytes(33)])
def test_nothing_is_filled_from_half_a_seed(fill_seed: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        MemoryProver(PARAMS, NumpyMemoryBackend()).prepare(fill_seed)


def test_a_small_proof_opens_from_what_it_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte less to keep, and the memory is read again: both ways show the same."""
    backend = NumpyMemoryBackend()
    backend.fill(PARAMS, FILL_SEED)
    monkeypatch.setattr(memory_solver, "KEPT_BYTES_MAX", 3 * 21 * 8)
    kept = solve_memory(PARAMS, FILL_SEED, SEED, backend)
    monkeypatch.setattr(memory_solver, "KEPT_BYTES_MAX", 3 * 21 * 8 - 1)
    read_again = solve_memory(PARAMS, FILL_SEED, SEED, backend)
    assert [len(tree.digests) for tree in kept.trees] == [21 * 8] * 3
    assert not any(tree.digests for tree in read_again.trees)
    positions = [(2, 20), (0, 0), (1, 7)]
    assert kept.open(positions) == read_again.open(positions)


def test_memory_that_was_filled_anew_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be sent is compared with what was committed, before a validator does it."""
    monkeypatch.setattr(memory_solver, "KEPT_BYTES_MAX", 0)
    backend = NumpyMemoryBackend()
    backend.fill(PARAMS, FILL_SEED)
    work = solve_memory(PARAMS, FILL_SEED, SEED, backend)
    backend.fill(PARAMS, SEED)
    with pytest.raises(Unavailable, match="the memory has changed since pass 1"):
        work.open([(1, 0)])


@pytest.mark.parametrize("position", [(3, 0), (0, 21), (-1, 0), (0, -1)])
def test_a_position_outside_the_proof_is_not_opened(position: tuple[int, int]) -> None:
    backend = NumpyMemoryBackend()
    backend.fill(PARAMS, FILL_SEED)
    with pytest.raises(ValueError, match="outside"):
        solve_memory(PARAMS, FILL_SEED, SEED, backend).open([position])


@pytest.mark.parametrize("device", ["", "gpu", "cuda", "cuda:", "cuda:x", "cuda:-1", "CPU"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="cuda:N"):
        open_memory_backend(device)


def test_a_gpu_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"cuda:99: .*(built for CUDA|nvidia-smi)"):
        open_memory_backend("cuda:99")


def test_the_cpu_has_a_backend(expected: tuple[bytes, ...]) -> None:
    backend: MemoryBackend = open_memory_backend("cpu")
    backend.fill(PARAMS, FILL_SEED)
    assert solve_memory(PARAMS, FILL_SEED, SEED, backend).roots == expected


def test_a_process_that_dies_is_an_error_and_no_missing_block() -> None:
    before = set(multiprocessing.active_children())
    with ProcessMemoryBackend(1) as backend:
        backend.fill(PARAMS, FILL_SEED)
        (worker,) = set(multiprocessing.active_children()) - before
        worker.kill()
        worker.join()
        with pytest.raises(Unavailable, match="process of the solver ended"):
            solve_memory(PARAMS, FILL_SEED, SEED, backend)


def test_processes_end_with_their_backend() -> None:
    before = set(multiprocessing.active_children())
    with ProcessMemoryBackend(2) as backend:
        backend.fill(PARAMS, FILL_SEED)
        workers = set(multiprocessing.active_children()) - before
        assert len(workers) == 2
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0


def test_processes_end_when_the_solver_is_killed() -> None:
    """The miner kills its solver after every proof; nothing may go on holding its memory, or complain of it."""
    program = """
import multiprocessing, sys
from challenges.memory import MemoryParams
from challenges.memory_backends import ProcessMemoryBackend
if __name__ == "__main__":
    backend = ProcessMemoryBackend(2)
    backend.fill(MemoryParams(8, 1, 1), bytes(32))
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
