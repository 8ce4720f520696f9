"""What this host has, read from the system; and what of it the owner can claim, measured with the real proofs."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from challenges.draw import ChallengeKind
from challenges.hardware import HardwareTable
from challenges.matmul_messages import MatmulParams
from challenges.memory_fit import fit_cpu_memory_params, fit_gpu_memory_params
from challenges.memory_messages import MemoryParams
from challenges.pow_messages import PowParams
from challenges.proofs import ProofParams
from challenges.timing import fit_params, fit_pow_params, rate_per_second
from neurons.miner.solver import SolverProcess
from polarise.hardware import CPU_DEVICE, DeviceClaim
from utils import gpu, host

MEASUREMENTS = 3
# Each probe shows a GPU some ten times faster than the one before, up to its rate.
PROBES_MAX = 8
SETTLED_RATIO = 2
SECONDS_EACH = 1
MATMUL_PROBE = MatmulParams(n=1024, rounds=8)
# Half a second each: hashes need no large matrices to show their rate, and 2,000 shares tell it to 2 %.
POW_PROOFS_PER_SECOND = 2
POW_PROBE = PowParams(shares=2000, difficulty=256)
# What memory is filled from that nobody else will check.
MEASURING_FILL_SEED = bytes(32)
# A miner claims what it can hold: a CPU is shared with whatever else runs, a GPU is not.
CPU_CLAIM_PERCENT = 70
GPU_CLAIM_PERCENT = 90

# In which field of a claim the rate of each kind stands.
CLAIM_FIELDS: Mapping[ChallengeKind, str] = MappingProxyType(
    {
        ChallengeKind.MATMUL: "matmul_ops_per_second",
        ChallengeKind.POW: "pow_hashes_per_second",
        ChallengeKind.MEMORY: "memory_bytes_per_second",
    }
)


def detect_devices(*, claim_cpu: bool = True) -> tuple[DeviceClaim, ...]:
    """Return the devices of this host that can prove; see `devices_of`."""
    return devices_of(gpu.list_gpus(), claim_cpu=claim_cpu)


def devices_of(cards: Iterable[gpu.Gpu], *, claim_cpu: bool) -> tuple[DeviceClaim, ...]:
    """Return devices with claims of 1 per second: not measured.

    The GPUs in the order of NVML, and after them the processor as a whole, so that a GPU's index is its place.

    Args:
        cards: The host's GPUs.
        claim_cpu: Whether a host with GPUs has its processor proven too; one without has nothing else.
    """
    gpus = tuple(
        DeviceClaim(
            uuid=card.uuid,
            kind="gpu",
            name=card.name,
            memory_bytes=card.memory_bytes,
            matmul_ops_per_second=1,
            pow_hashes_per_second=1,
        )
        for card in cards
    )
    if gpus and not claim_cpu:
        return gpus
    processor = DeviceClaim(
        uuid=CPU_DEVICE,
        kind="cpu",
        name=host.cpu_model()[:200],
        memory_bytes=host.memory_bytes(),
        matmul_ops_per_second=1,
        pow_hashes_per_second=1,
    )
    return (*gpus, processor)


def measure_devices(
    detected: Iterable[DeviceClaim],
    on_measured: Callable[[DeviceClaim], None] = lambda _device: None,
    *,
    start_solver: Callable[[], SolverProcess] = SolverProcess,
) -> tuple[DeviceClaim, ...]:
    """Measure every device with all proofs, one after the other, and return what can be claimed.

    Args:
        detected: The devices, in the order of `detect_devices`.
        on_measured: Called with each device and its claims, for progress.
        start_solver: Makes a solver process, the same as will answer challenges: a claim is of what solves.

    Raises:
        SolverFailed: A device could not prove.
    """
    devices = []
    for index, device in enumerate(detected):
        rates = {field: claimable_rate(device, index, kind, start_solver) for kind, field in CLAIM_FIELDS.items()}
        measured = device.model_copy(update=rates)
        devices.append(measured)
        on_measured(measured)
    return tuple(devices)


def claimable_rate(
    device: DeviceClaim, index: int, kind: ChallengeKind, start_solver: Callable[[], SolverProcess] = SolverProcess
) -> int:
    """Measure one device with one kind of proof, and return what can be claimed of it, per second.

    Args:
        device: The device.
        index: Its place among the host's.
        kind: One of `CLAIM_FIELDS`.
        start_solver: Makes a solver process.

    Returns:
        The claim, at least 1.

    Raises:
        SolverFailed: The device could not prove.
    """
    name = device_name(device, index)
    fit = _FITS[kind]
    percent = CPU_CLAIM_PERCENT if device.kind == "cpu" else GPU_CLAIM_PERCENT
    probe = _PROBES.get(kind) or fit(device, 1)
    return max(1, _measured_rate(start_solver, name, probe, functools.partial(fit, device)) * percent // 100)


def device_name(device: DeviceClaim, index: int) -> str:
    """Return what a solver calls a device: ``cpu``, or ``cuda:N`` for the GPU in place N."""
    return "cpu" if device.kind == "cpu" else f"cuda:{index}"


def _half_second_of_hashes(_device: DeviceClaim, rate: int) -> PowParams:
    return fit_pow_params(max(rate // POW_PROOFS_PER_SECOND, 1), SECONDS_EACH)


def _second_of_products(_device: DeviceClaim, rate: int) -> MatmulParams:
    return fit_params(rate, SECONDS_EACH)


def _seconds_of_passes(device: DeviceClaim, rate: int) -> MemoryParams:
    """Return passes over all that a proof fills, of units that are cheap to make: reading is measured, and not making."""
    if device.kind == "cpu":
        params = fit_cpu_memory_params(rate, SECONDS_EACH, memory_bytes=device.memory_bytes)
    else:
        model = HardwareTable.load().find(device.name)
        params = fit_gpu_memory_params(model, device.memory_bytes, rate, SECONDS_EACH)
    return dataclasses.replace(params, hashes=1)


# A device and its rate -> sizes like those a validator asks for.
_FITS: Mapping[ChallengeKind, Callable[[DeviceClaim, int], ProofParams]] = MappingProxyType(
    {
        ChallengeKind.MATMUL: _second_of_products,
        ChallengeKind.POW: _half_second_of_hashes,
        ChallengeKind.MEMORY: _seconds_of_passes,
    }
)
# A short proof to begin with; of memory it is the shortest that such sizes can have.
_PROBES: Mapping[ChallengeKind, ProofParams] = MappingProxyType(
    {ChallengeKind.MATMUL: MATMUL_PROBE, ChallengeKind.POW: POW_PROBE}
)


def settle(
    probe: ProofParams, fit: Callable[[int], ProofParams], rate_of: Callable[[ProofParams], int]
) -> tuple[ProofParams, int]:
    """Find sizes that show a device's rate: those that fit the rate they showed.

    A GPU is done with a short proof before it shows its rate; the next is fitted to what it seemed, until two in a row
    ask for about the same.

    Args:
        probe: The short proof to begin with.
        fit: A rate -> sizes like those a validator asks for.
        rate_of: Does a proof and returns its rate, operations per second.

    Returns:
        The sizes of the last proof, and its rate.
    """
    params = probe
    for _ in range(PROBES_MAX - 1):
        rate = rate_of(params)
        fitted = fit(rate)
        if fitted.operations <= SETTLED_RATIO * params.operations:
            return params, rate
        params = fitted
    return params, rate_of(params)


def _measured_rate(
    start_solver: Callable[[], SolverProcess], device: str, probe: ProofParams, fit: Callable[[int], ProofParams]
) -> int:
    """Return the median rate of a few proofs of settled sizes, in operations per second.

    Args:
        start_solver: Makes a solver process.
        device: ``cpu`` or ``cuda:N``.
        probe: The short proof.
        fit: Its rate -> sizes like those a validator asks for.
    """
    solver = start_solver()
    numbers = itertools.count()

    def rate_of(params: ProofParams) -> int:
        solver.prepare(device, params, MEASURING_FILL_SEED if isinstance(params, MemoryParams) else b"")
        return _rate(solver, params, next(numbers))

    try:
        params, first = settle(probe, fit, rate_of)
        return int(statistics.median([first, *(_rate(solver, params, next(numbers)) for _ in range(MEASUREMENTS - 1))]))
    finally:
        solver.close()


def _rate(solver: SolverProcess, params: ProofParams, number: int) -> int:
    began = time.monotonic_ns()
    solver.solve(number.to_bytes(32, "big"), deadline_seconds=120)
    return rate_per_second(params.operations, time.monotonic_ns() - began)
