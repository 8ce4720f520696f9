"""The solver's process as the host sees it."""

import os
import subprocess
import sys
from pathlib import Path

from challenges.pow_messages import PowParams
from neurons.miner.solver import SolverProcess
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
