"""A device goes into other hands when no solver of ours holds it any more, by the kernel and by NVML."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurons.miner.release import DeviceRelease
from neurons.miner.solver import SolverProcess
from polarise.errors import Unavailable

ROOT = Path(__file__).parents[4]
DEVICE = "GPU-1"
SLEEPING = (sys.executable, "-c", "import sys; sys.stdin.read()")
LOOK = f"from utils import gpu; print(gpu.holders({DEVICE!r}), gpu.holders('GPU-2'), gpu.is_present({DEVICE!r}))"


@pytest.fixture
def solver() -> Iterator[SolverProcess]:
    process = SolverProcess(SLEEPING)
    try:
        yield process
    finally:
        process.close()


def test_a_device_whose_solver_runs_is_not_handed_out(solver: SolverProcess) -> None:
    release = DeviceRelease(lambda _device: {}, release_seconds=0.05)
    release.takes(DEVICE, solver)
    with pytest.raises(Unavailable, match=f"{DEVICE} is not free .* process {solver.pid} runs") as refused:
        release.check(["GPU-0", DEVICE])
    assert refused.value.retry_after_seconds
    # Another device is not kept from anybody by it.
    release.check(["GPU-0"])
    solver.close()
    release.check([DEVICE])


def test_a_device_is_free_as_soon_as_its_solver_is_gone(solver: SolverProcess) -> None:
    release = DeviceRelease(lambda _device: {}, release_seconds=60)
    release.takes(DEVICE, solver)
    threading.Timer(0.1, solver.close).start()
    release.check([DEVICE])
    assert solver.has_ended(0)


def test_what_nvml_still_shows_is_waited_for(solver: SolverProcess) -> None:
    """The driver is slower than the kernel by three looks."""
    looks = iter([{solver.pid: 1 << 30}] * 3)
    solver.close()
    release = DeviceRelease(lambda _device: next(looks, {}), release_seconds=60)
    release.takes(DEVICE, solver)
    release.check([DEVICE])
    assert next(looks, None) is None


def test_memory_that_never_comes_back_keeps_the_device(solver: SolverProcess) -> None:
    solver.close()
    release = DeviceRelease(lambda _device: {solver.pid: 1 << 30}, release_seconds=0.05)
    release.takes(DEVICE, solver)
    for _ in range(2):
        with pytest.raises(Unavailable, match=f"NVML still names process {solver.pid}"):
            release.check([DEVICE])


class Renumbered(SolverProcess):
    """Gone, and its number given to a process that lives: this one."""

    @property
    def pid(self) -> int:
        return os.getpid()


def test_a_number_that_somebody_else_has_now_keeps_no_device() -> None:
    solver = Renumbered(SLEEPING)
    solver.close()
    release = DeviceRelease(lambda _device: {os.getpid(): 1 << 30}, release_seconds=60)
    release.takes(DEVICE, solver)
    release.check([DEVICE])


def test_somebody_elses_process_is_told_and_refuses_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        DeviceRelease(lambda _device: {4711: 5 << 20}).check([DEVICE])
    (record,) = caplog.records
    assert (record.message, vars(record)["pid"]) == ("another process holds memory of the device", 4711)


@pytest.mark.compiler
def test_holders_are_those_that_nvml_names(tmp_path: Path) -> None:
    """By the real bindings over a small library that answers as NVML does; more processes than fit its first answer."""
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", library, ROOT / "tests" / "support" / "nvml.c"], check=True, timeout=60
    )
    cards = tmp_path / "cards"
    cards.write_text(f"{DEVICE} 0 0\n{DEVICE} 4711 1048576\nGPU-3 9 9\n{DEVICE} 12 0\n")
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "NVML_FILE": str(cards), "PYTHONPATH": str(ROOT)}
    printed = subprocess.run(
        [sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert printed.stdout.strip() == "{4711: 1048576, 12: 0} {} True"
