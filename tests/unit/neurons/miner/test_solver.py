"""The solver's process as the host sees it."""

import io
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import ClassVar

from challenges.pow_messages import PowParams
from challenges.pow_solver import PowWork
from challenges.proofs import sizes_of
from neurons.miner.solver import SolverProcess, serve
from tests.support.proving_miner import HONEST


def test_kernel_ends_the_solver_before_anything_else() -> None:
    solver = SolverProcess((sys.executable, "-c", HONEST))
    try:
        solver.prepare("cpu", PowParams(shares=16, difficulty=1))
        assert Path(f"/proc/{solver.pid}/oom_score_adj").read_text().strip() == "1000"
    finally:
        solver.close()


def test_gpus_are_counted_in_the_order_in_which_the_miner_names_them() -> None:
    """CUDA puts the fastest card first unless it is told otherwise; NVML, which the claims come from, never does."""
    program = f"{HONEST}import os, sys\nsys.stderr.write(os.environ['CUDA_DEVICE_ORDER'])\n"
    environ = {name: value for name, value in os.environ.items() if name != "CUDA_DEVICE_ORDER"}
    done = subprocess.run(
        [sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, env=environ, check=True
    )
    assert done.stderr.endswith(b"PCI_BUS_ID")


class _Work(PowWork):
    """Without slots, so that a weak reference sees it go."""


class _Holding:
    """A prover whose work holds what a card would hold: memory, for which there is no room twice."""

    held: ClassVar[list[weakref.ref[PowWork]]] = []

    def prepare(self, fill_seed: bytes = b"") -> None:
        assert all(work() is None for work in self.held), "the proof before still holds its memory"

    def solve(self, seed: bytes, **_asked: object) -> PowWork:
        work = _Work(PowParams(shares=16, difficulty=1), tuple(range(16)))
        self.held.append(weakref.ref(work))
        return work


def test_memory_of_the_proof_before_is_given_back_before_the_next_is_prepared() -> None:
    prepare = {"op": "prepare", "device": "cpu", "kind": "pow", "sizes": sizes_of(PowParams(16, 1)), "fill_seed": ""}
    asked = [prepare, {"op": "solve", "seed": "00" * 32}] * 3
    answers = io.BytesIO()
    serve(
        io.BytesIO(b"\n".join(json.dumps(one).encode() for one in asked)), answers, lambda _params, _device: _Holding()
    )
    said = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert [list(one) for one in said] == [["ready"], ["commitment"]] * 3, said
