"""What this host has, read from the system; and what of it the owner can claim, measured with the real proof."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from challenges.matmul_messages import MatmulParams
from challenges.timing import fit_params
from neurons.miner.solver import SolverProcess
from polarise.hardware import CPU_DEVICE, DeviceClaim, HardwareClaim
from utils import gpu, host

MEASUREMENTS = 3
SECONDS_EACH = 1
PROBE = MatmulParams(n=1024, rounds=8)
# A miner claims what it can hold: a CPU is shared with whatever else runs, a GPU is not.
CPU_CLAIM_PERCENT = 70
GPU_CLAIM_PERCENT = 90


def detect_devices() -> tuple[DeviceClaim, ...]:
    """Return the devices that can prove, with a claim of 1 operation per second: not measured.

    The GPUs where there are any, else the processor as a whole.
    """
    gpus = gpu.list_gpus()
    if gpus:
        return tuple(
            DeviceClaim(
                uuid=card.uuid, kind="gpu", name=card.name, memory_bytes=card.memory_bytes, matmul_ops_per_second=1
            )
            for card in gpus
        )
    processor = DeviceClaim(
        uuid=CPU_DEVICE,
        kind="cpu",
        name=host.cpu_model()[:200],
        memory_bytes=host.memory_bytes(),
        matmul_ops_per_second=1,
    )
    return (processor,)


def measure_claim(
    memory_bytes: int, cpu_milli: int, on_measured: Callable[[str, int], None] = lambda _name, _rate: None
) -> HardwareClaim:
    """Measure every device with the matmul proof and return what can be claimed.

    Args:
        memory_bytes: Memory that leases may use.
        cpu_milli: CPUs that leases may use.
        on_measured: Called with a device's name and its claimed rate, for progress.

    Raises:
        SolverFailed: A device could not prove.
    """
    devices = []
    for index, device in enumerate(detect_devices()):
        percent = CPU_CLAIM_PERCENT if device.kind == "cpu" else GPU_CLAIM_PERCENT
        claim = max(1, _measured_rate("cpu" if device.kind == "cpu" else f"cuda:{index}") * percent // 100)
        devices.append(device.model_copy(update={"matmul_ops_per_second": claim}))
        on_measured(device.name, claim)
    return HardwareClaim(
        cpu_model=host.cpu_model()[:200], cpu_milli=cpu_milli, memory_bytes=memory_bytes, devices=tuple(devices)
    )


def _measured_rate(device: str) -> int:
    """Return the median rate of a few proofs of the size a validator asks for, in operations per second."""
    solver = SolverProcess()
    try:
        solver.prepare(device, PROBE)
        first = _rate(solver, PROBE, 0)
        params = fit_params(first, SECONDS_EACH)
        solver.prepare(device, params)
        return int(statistics.median(_rate(solver, params, number) for number in range(1, MEASUREMENTS + 1)))
    finally:
        solver.close()


def _rate(solver: SolverProcess, params: MatmulParams, number: int) -> int:
    began = time.monotonic_ns()
    solver.solve(number.to_bytes(32, "big"), deadline_seconds=120)
    return params.operations * 1_000_000_000 // (time.monotonic_ns() - began)
