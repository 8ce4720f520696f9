"""The solver's process as the host sees it."""

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
