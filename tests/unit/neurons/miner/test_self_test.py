"""`miner self-test` with real solvers: honest ones, cheating ones, and each way in which a solver can be lost."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from challenges.draw import ChallengeKind
from challenges.hardware import HardwareTable
from challenges.matmul_messages import MatmulParams
from challenges.memory_messages import MemoryParams
from challenges.pow_messages import PowParams
from challenges.proofs import ProofParams
from config.schema import Config
from neurons.cli import main
from neurons.miner.failure import failure_of
from neurons.miner.journal import Journal
from neurons.miner.self_test import DeviceReport, self_test, subjects_of
from neurons.miner.self_test_report import is_passed, render, to_wire
from neurons.miner.solver import SolverFailed, SolverProcess
from neurons.miner.trial import Basis, Size, Trial
from polarise.errors import RejectReason
from polarise.hardware import DeviceClaim
from polarise.registry import write_entry
from tests.support.leases import lease
from tests.support.proving_miner import (
    CPU,
    CPU_WITH_MEMORY,
    FORGING,
    HONEST,
    KEEPING,
    SKIPPING,
    SLOW_HASHING,
    entry_of,
)

H200 = DeviceClaim(
    uuid="GPU-0",
    kind="gpu",
    name="NVIDIA H200",
    memory_bytes=1 << 37,
    matmul_ops_per_second=1,
    pow_hashes_per_second=1,
)
# Everything but the proof of work is honest, which does this instead.
LOST = """
from challenges.pow_messages import PowParams
from challenges.proofs import open_prover
from neurons.miner import solver
class Lost:
    def prepare(self, fill_seed):
        pass
    def solve(self, seed, *, on_progress=None, should_stop=None):
        {what}
solver.main(lambda params, device: Lost() if isinstance(params, PowParams) else provers()(params, device))
"""
HELPERS = HONEST.rpartition("solver.main")[0]
KILLED = HELPERS + LOST.format(what="import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
ENDED = HELPERS + LOST.format(what="import os; os._exit(3)")
SLEEPING = HELPERS + LOST.format(what="import time; time.sleep(60)")
WITHOUT_MEMORY = HELPERS + LOST.format(
    what="import numpy, resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32)); numpy.ones(1 << 40)"
)
POW, MATMUL = PowParams(16, 1), MatmulParams(256, rounds=2)
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None\nfrom neurons.miner import solver\nsolver.main()\n"


def solvers(program: str) -> Callable[[], SolverProcess]:
    return lambda: SolverProcess((sys.executable, "-c", program))


def run(
    folder: Path,
    program: str = HONEST,
    *,
    devices: tuple[DeviceClaim, ...] = (CPU_WITH_MEMORY,),
    claimed: tuple[DeviceClaim, ...] | None = (CPU_WITH_MEMORY,),
    lines: list[str] | None = None,
) -> tuple[DeviceReport, ...]:
    """Test a node that claims ``claimed`` and has ``devices``."""
    if claimed is not None:
        write_entry(folder / "registry.json", entry_of(devices=claimed))
    return self_test(
        Config(),
        folder,
        seconds=1,
        on_progress=([] if lines is None else lines).append,
        devices=devices,
        start_solver=solvers(program),
    )


def by_name(report: DeviceReport) -> dict[tuple[ChallengeKind, Size], Trial]:
    return {(trial.kind, trial.size): trial for trial in report.trials}


def test_honest_node_passes_with_small_and_real_sizes(tmp_path: Path) -> None:
    lines: list[str] = []
    (report,) = reports = run(tmp_path, lines=lines)
    trials = by_name(report)
    assert set(trials) == {(kind, size) for kind in ChallengeKind for size in Size}
    assert is_passed(reports)
    assert report.subject.basis is Basis.ENTRY
    # What a validator would ask of this claim for a second.
    assert trials[ChallengeKind.POW, Size.REAL].params == PowParams(195, 256, 0)
    assert trials[ChallengeKind.MATMUL, Size.REAL].params == MatmulParams(256, 3, tile=32)
    assert trials[ChallengeKind.MEMORY, Size.REAL].params == MemoryParams(16, 8, 10)
    assert [line for line in lines if "real sizes" in line] == [
        "a processor (cpu): proof of work, real sizes",
        "a processor (cpu): matmul proof, real sizes",
        "a processor (cpu): memory proof, real sizes",
    ]
    assert any(limit.startswith("its weakest proof counts: ") for limit in report.limits)
    assert render(reports).endswith("\nself-test passed")


def test_kept_memory_of_another_proof_is_found(tmp_path: Path) -> None:
    (report,) = run(tmp_path, KEEPING)
    failure = by_name(report)[ChallengeKind.MEMORY, Size.SMALL].failure
    assert failure is not None
    assert failure.cause.startswith(RejectReason.BLOCK_MISMATCH)


def test_bandwidth_that_is_not_claimed_is_not_asked_for_and_told(tmp_path: Path) -> None:
    """An entry of before has none, and passes."""
    (report,) = reports = run(tmp_path, claimed=(CPU,))
    assert (ChallengeKind.MEMORY, Size.REAL) not in by_name(report)
    assert any(limit.startswith("it claims no bandwidth") for limit in report.limits)
    assert is_passed(reports)


def test_forged_share_fails_its_kind_and_no_other(tmp_path: Path) -> None:
    (report,) = reports = run(tmp_path, FORGING)
    trials = by_name(report)
    failure = trials[ChallengeKind.POW, Size.SMALL].failure
    assert failure is not None
    assert failure.cause.startswith(RejectReason.SHARE_INVALID)
    assert (ChallengeKind.POW, Size.REAL) not in trials
    assert trials[ChallengeKind.MATMUL, Size.REAL].is_passed
    assert not is_passed(reports)


def test_skipped_tile_is_found_by_the_same_openings_as_a_validators(tmp_path: Path) -> None:
    (report,) = run(tmp_path, SKIPPING)
    trials = by_name(report)
    failure = trials[ChallengeKind.MATMUL, Size.SMALL].failure
    assert failure is not None
    assert failure.cause.startswith(RejectReason.TILE_MISMATCH)
    assert trials[ChallengeKind.POW, Size.REAL].is_passed


def test_rate_below_the_claim_fails_although_the_proof_holds(tmp_path: Path) -> None:
    """It makes 20,000 hashes a second at most and claims 50,000."""
    (report,) = reports = run(tmp_path, SLOW_HASHING)
    trial = by_name(report)[ChallengeKind.POW, Size.REAL]
    assert trial.failure is None
    assert trial.rate is not None
    assert trial.rate.reason is RejectReason.CLAIM_NOT_MET
    assert not is_passed(reports)
    assert "CLAIM_NOT_MET; fix: Run `join` again" in render(reports)
    assert report.limits[0].startswith("its weakest proof counts: pow")


@pytest.mark.parametrize(
    ("program", "cause", "fix"),
    [
        (KILLED, "the solver was killed: the kernel ends it first where memory runs out", "free memory"),
        (WITHOUT_MEMORY, "the solver ran out of memory", "nvidia-smi"),
        (ENDED, "the solver ended during solve (status 3)", "doctor"),
    ],
    ids=["killed", "no memory", "ended"],
)
def test_lost_solver_is_told_with_its_cause_and_the_rest_goes_on(
    tmp_path: Path, program: str, cause: str, fix: str
) -> None:
    (report,) = run(tmp_path, program)
    trials = by_name(report)
    failure = trials[ChallengeKind.POW, Size.SMALL].failure
    assert failure is not None
    assert cause in failure.cause
    assert fix in failure.fix
    assert trials[ChallengeKind.MATMUL, Size.REAL].is_passed


def failure_text(program: str, device: str, params: ProofParams) -> str:
    """Return what a solver says that cannot make a device ready."""
    solver = solvers(program)()
    try:
        with pytest.raises(SolverFailed) as failed:
            solver.prepare(device, params)
    finally:
        solver.close()
    return str(failed.value)


def test_missing_torch_is_told_as_that() -> None:
    failure = failure_of(failure_text(WITHOUT_TORCH, "cuda:0", MATMUL), CPU)
    assert failure.cause.startswith("torch is not installed")
    assert failure.fix == "make setup"


@pytest.mark.slow
def test_device_that_cuda_does_not_reach_is_told_as_that() -> None:
    """Torch says so in its own words, with a driver and without; nobody has sixty-four cards."""
    text = failure_text("from neurons.miner import solver\nsolver.main()\n", "cuda:63", MATMUL)
    failure = failure_of(text, CPU)
    assert failure.cause.startswith(("GPU_LOST: ", "GPU_SOFTWARE: ", "GPU_DRIVER: "))
    assert "nvidia-smi" in failure.fix or "built for CUDA" in failure.fix


def test_solver_that_is_too_slow_is_told_as_that() -> None:
    solver = solvers(SLEEPING)()
    try:
        solver.prepare("cpu", POW)
        with pytest.raises(SolverFailed, match=r"took longer than 0\.1 s to solve") as failed:
            solver.solve(bytes(32), 0.1)
    finally:
        solver.close()
    assert failure_of(str(failed.value), CPU).cause.startswith("the solver was too slow")


def test_gpu_that_the_driver_does_not_find_is_told_as_that() -> None:
    failure = failure_of("RuntimeError: CUDA error: unspecified launch failure", H200)
    assert failure.cause.startswith("the driver does not find GPU-0 any more")


def test_claims_come_from_the_entry_then_the_table_then_a_measurement() -> None:
    unknown = H200.model_copy(update={"uuid": "GPU-1", "name": "Some Card"})
    joined = H200.model_copy(update={"uuid": "GPU-2", "pow_hashes_per_second": 5})
    lost = H200.model_copy(update={"uuid": "GPU-3"})
    detected = (H200, unknown, joined.model_copy(update={"pow_hashes_per_second": 1}), CPU)
    subjects, gone = subjects_of(detected, (lost, joined), HardwareTable.load())
    assert [(subject.device.uuid, subject.index, subject.basis) for subject in subjects] == [
        ("GPU-0", 0, Basis.TABLE),
        ("GPU-1", 1, Basis.MEASURED),
        ("GPU-2", 2, Basis.ENTRY),
        ("cpu", 3, Basis.MEASURED),
    ]
    # 132 SMs at 1.98 GHz and 0.0624 hashes each; 989 T dense, of which 0.8 are expected.
    assert subjects[0].device.pow_hashes_per_second == 16_308_864_000
    assert subjects[0].device.matmul_ops_per_second // 10**12 == 791
    assert subjects[0].device.memory_bytes_per_second == 4_320_000_000_000
    assert subjects[2].device.pow_hashes_per_second == 5
    assert [subject.device.uuid for subject in gone] == ["GPU-3"]


def test_node_that_never_joined_is_compared_with_what_join_would_claim(tmp_path: Path) -> None:
    (report,) = reports = run(tmp_path / "not there yet", claimed=None)
    assert report.subject.basis is Basis.MEASURED
    assert all(trial.claimed > 1 for trial in report.trials if trial.size is Size.REAL)
    assert "compared with what join would claim now" in render(reports)
    assert not (tmp_path / "not there yet").exists()


def test_rented_and_lost_devices_are_left_alone_and_the_test_is_not_passed(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.reserve(lambda _leases: lease(1, devices=("GPU-0",)))
    lost = H200.model_copy(update={"uuid": "GPU-9"})
    rented, processor, gone = reports = run(tmp_path, devices=(H200, CPU), claimed=(lost, CPU))
    assert (rented.trials, gone.trials) == ((), ())
    assert rented.untested is not None
    assert "tenant" in rented.untested.cause
    assert gone.untested is not None
    assert "driver does not find it" in gone.untested.cause
    assert processor.is_passed
    assert "1 leases run here, and their containers share the processors" in processor.limits
    assert not is_passed(reports)


def test_small_memory_is_told_as_what_limits_the_matrices(tmp_path: Path) -> None:
    small = CPU.model_copy(update={"memory_bytes": 1 << 20, "matmul_ops_per_second": 3 * 10**9})
    (report,) = run(tmp_path, claimed=(small,))
    assert "its memory keeps the matrices at n = 256, its rate would have n = 512" in report.limits


def test_without_any_device_nothing_was_shown() -> None:
    assert not is_passed(())


def test_command_prints_json_and_its_status_says_whether_all_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLARISE_LOGGING_FILE", str(tmp_path / "log"))
    write_entry(tmp_path / "registry.json", entry_of(devices=(CPU_WITH_MEMORY,)))
    status = main(["miner", "self-test", "--json", "--seconds", "1", "--data-dir", str(tmp_path)])
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert status == (0 if answer["passed"] else 1)
    processor = answer["devices"][-1]
    assert (processor["uuid"], processor["compared_with"]) == ("cpu", "the registry entry")
    assert [(proof["kind"], proof["size"], proof["verified"]) for proof in processor["proofs"]] == [
        ("pow", "small", True),
        ("matmul", "small", True),
        ("memory", "small", True),
        ("pow", "real", True),
        ("matmul", "real", True),
        ("memory", "real", True),
    ]
    assert processor["proofs"][3]["claimed_per_second"] == 50_000
    assert "real sizes" in said.err


def test_report_of_a_failed_proof_is_json_too(tmp_path: Path) -> None:
    wire = json.loads(json.dumps(to_wire(run(tmp_path, FORGING))))
    small = wire["devices"][0]["proofs"][0]
    assert (wire["passed"], small["passed"], small["verified"]) == (False, False, False)
    assert small["failure"]["fix"]
