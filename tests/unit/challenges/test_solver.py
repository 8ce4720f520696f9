"""The miner's side: torch equals numpy bit for bit, rounds overlap as the chain allows, and stopping is clean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from challenges import prng
from challenges.matmul import MatmulParams, check_openings
from challenges.solver import MatmulBackend, MatmulWork, NumpyBackend, PendingRound, SolveStopped, open_backend, solve

SEED = bytes(range(32))
ROOT_FOLDER = Path(__file__).parents[3]


@pytest.mark.parametrize(("n", "tile"), [(64, 64), (128, 16), (192, 64), (256, 128), (448, 32), (1088, 64), (2112, 64)])
def test_torch_equals_numpy_bit_for_bit(n: int, tile: int) -> None:
    """Sizes beside powers of two, and above the size of a chunk, so that every edge of the chunking is met."""
    pytest.importorskip("torch")
    from challenges.torch_backend import TorchBackend

    params = MatmulParams(n, rounds=1, tile=tile, openings=1)
    ours = solve(params, SEED, TorchBackend("cpu"))
    reference = solve(params, SEED, NumpyBackend())
    assert np.array_equal(ours.digests[0], reference.digests[0])
    assert ours.roots == reference.roots


def test_torch_operands_equal_numpy_and_its_product_is_exact() -> None:
    pytest.importorskip("torch")
    from challenges.torch_backend import TorchBackend

    params = MatmulParams(n=576, rounds=1)
    backend = TorchBackend("cpu")
    backend.prepare(params)
    keys = prng.round_keys(SEED, params.n)
    backend.start_round(params, keys)
    a, b = backend._a.numpy(), backend._b.numpy()
    assert np.array_equal(a, prng.a_rows(keys, 0, params.n))
    assert np.array_equal(b, prng.b_columns_transposed(keys, 0, params.n).T)
    assert np.array_equal(backend._c.numpy().astype(np.int64), a.astype(np.int64) @ b.astype(np.int64))


def test_one_backend_serves_several_sizes_and_seeds() -> None:
    """Buffers are reused between rounds and proofs; nothing of one may show in the next."""
    backend = open_backend("cpu")
    for n, seed in ((128, SEED), (192, SEED), (128, bytes(32)), (128, SEED)):
        params = MatmulParams(n, rounds=3, openings=2)
        work = solve(params, seed, backend)
        assert work.roots == solve(params, seed, NumpyBackend()).roots
        positions = [(2, 0, 1), (0, 1, 0)]
        check_openings(params, seed, work.commitment, positions, work.open(positions))


class RecordingBackend:
    """Writes down when rounds are started and waited for, as a GPU's queue would see it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._inner = NumpyBackend()

    def prepare(self, params: MatmulParams) -> None:
        self._inner.prepare(params)

    def start_round(self, params: MatmulParams, keys: prng.RoundKeys) -> PendingRound:
        index = sum(call.startswith("start") for call in self.calls)
        self.calls.append(f"start {index}")
        finished = self._inner.start_round(params, keys)

        def wait() -> prng.UInt32Array:
            self.calls.append(f"wait {index}")
            return finished()

        return wait


def test_a_round_is_started_before_the_one_before_is_waited_for() -> None:
    backend = RecordingBackend()
    work = solve(MatmulParams(64, rounds=4), SEED, backend)
    assert backend.calls == ["start 0", "start 1", "wait 0", "start 2", "wait 1", "start 3", "wait 2", "wait 3"]
    assert work.roots == solve(MatmulParams(64, rounds=4), SEED, NumpyBackend()).roots


def test_progress_counts_finished_rounds() -> None:
    seen: list[int] = []
    solve(MatmulParams(64, rounds=3), SEED, NumpyBackend(), on_progress=seen.append)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("after", [0, 2])
def test_stop_is_asked_before_every_round(after: int) -> None:
    backend = RecordingBackend()
    answers = iter([False] * after + [True])
    with pytest.raises(SolveStopped, match="of 5 rounds"):
        solve(MatmulParams(64, rounds=5), SEED, backend, should_stop=lambda: next(answers))
    assert sum(call.startswith("start") for call in backend.calls) == after


def test_work_keeps_as_many_bytes_as_the_parameters_say() -> None:
    params = MatmulParams(192, rounds=3)
    work: MatmulWork = solve(params, SEED, NumpyBackend())
    assert sum(lanes.nbytes for lanes in work.digests) == params.retained_bytes


@pytest.mark.parametrize("device", ["", "gpu", "cuda", "cuda:", "cuda:x", "cuda:-1", "CPU"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="cuda:N"):
        open_backend(device)


def test_backends_fit_the_protocol() -> None:
    backend: MatmulBackend = open_backend("cpu")
    backend.prepare(MatmulParams(64, rounds=1))


def test_a_validator_without_torch_imports_and_checks() -> None:
    """In a fresh interpreter where importing torch fails, all but the torch backend works, the numpy solver too."""
    program = """
import sys
sys.modules["torch"] = None
from challenges import digest, draw, hardware, matmul, prng, solver, timing
params = matmul.MatmulParams(64, rounds=1, openings=1)
backend = solver.open_backend("cpu")
assert type(backend) is solver.NumpyBackend
work = solver.solve(params, bytes(32), backend)
matmul.check_openings(params, bytes(32), work.commitment, [(0, 0, 0)], work.open([(0, 0, 0)]))
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT_FOLDER, timeout=60)


@pytest.mark.gpu
def test_cuda_equals_numpy_bit_for_bit() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    params = MatmulParams(2112, rounds=3)
    assert solve(params, SEED, open_backend("cuda:0")).roots == solve(params, SEED, NumpyBackend()).roots
