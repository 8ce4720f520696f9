"""NVML through nvidia-ml-py: which GPUs this machine has and what they do; no driver means none, never invented ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import pynvml

T = TypeVar("T")

# Bits of the clocks-event reasons that mean "slower than it could be, because of heat or power" (nvml.h).
_THROTTLE_REASONS = {
    0x04: "sw_power_cap",
    0x08: "hw_slowdown",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as NVML names it.

    Attributes:
        index: NVML index, 0-based; changes when cards are added.
        uuid: ``GPU-...``; does not change.
        name: Product name.
        memory_bytes: Device memory.
    """

    index: int
    uuid: str
    name: str
    memory_bytes: int


def list_gpus() -> tuple[Gpu, ...]:
    """Return all GPUs in the order of their index; empty without a driver."""
    with _nvml() as is_present:
        if not is_present:
            return ()
        return tuple(_gpu(index) for index in range(int(pynvml.nvmlDeviceGetCount())))


def driver_version() -> str:
    """Return the version of the driver, for example "580.65.06"; empty without one."""
    with _nvml() as is_driver_there:
        return str(_or_none(pynvml.nvmlSystemGetDriverVersion) or "") if is_driver_there else ""


def is_present(uuid: str) -> bool:
    """Whether the driver still finds a GPU; one that fell off the bus it does not."""
    with _nvml() as is_driver_there:
        return is_driver_there and _or_none(lambda: pynvml.nvmlDeviceGetHandleByUUID(uuid)) is not None


def holders(uuid: str) -> dict[int, int]:
    """Return the processes that have memory on a GPU, by process id, with its bytes, 0 where the driver does not say.

    Empty without a driver, and where the card is lost. Ids are those of the host, or of our own namespace of processes.
    """
    with _nvml() as is_driver_there:
        handle = _or_none(lambda: pynvml.nvmlDeviceGetHandleByUUID(uuid)) if is_driver_there else None
        if handle is None:
            return {}
        processes = _or_none(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
        return {int(process.pid): int(process.usedGpuMemory or 0) for process in processes}


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What one GPU does at this moment; None where the card or its driver does not say.

    Attributes:
        index: NVML index, 0-based.
        uuid: ``GPU-...``.
        utilization_ratio: Share of the last sample period in which a kernel ran, 0..1.
        memory_used_bytes: Device memory in use.
        memory_total_bytes: Device memory.
        temperature_celsius: Of the GPU die.
        power_watts: Drawn now; power_limit_watts is what may be drawn.
        energy_joules: Since the driver was loaded; never goes back.
        sm_clock_hz: Of the multiprocessors.
        throttle_reasons: Why it is slower than it could be; empty when it is not.
        ecc_uncorrected_count: Uncorrected memory errors since the driver was loaded.
        pcie_replays_count: Since the driver was loaded.
        xids: Driver errors since the last reading.
    """

    index: int
    uuid: str
    utilization_ratio: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    temperature_celsius: float | None
    power_watts: float | None
    power_limit_watts: float | None
    energy_joules: float | None
    sm_clock_hz: int | None
    throttle_reasons: tuple[str, ...] | None
    ecc_uncorrected_count: int | None
    pcie_replays_count: int | None
    xids: tuple[int, ...] = ()


class GpuSampler:
    """Reads all GPUs again and again; keeps NVML open. Without a driver there is nothing to read."""

    def __init__(self) -> None:
        self._handles: list[tuple[str, Any]] = []
        self._events: Any = None
        self._is_open = False

    def __enter__(self) -> GpuSampler:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return self
        self._is_open = True
        for index in range(int(pynvml.nvmlDeviceGetCount())):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            self._handles.append((str(pynvml.nvmlDeviceGetUUID(handle)), handle))
        self._events = _or_none(self._watch_xids)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handles = []
        if self._is_open:
            self._is_open = False
            if self._events is not None:
                _or_none(lambda: pynvml.nvmlEventSetFree(self._events))
            pynvml.nvmlShutdown()

    def read(self) -> tuple[GpuReading, ...]:
        """Return one reading per GPU in the order of their index; empty without a driver."""
        xids = self._new_xids()
        return tuple(
            _reading(index, uuid, handle, tuple(xids.get(uuid, ())))
            for index, (uuid, handle) in enumerate(self._handles)
        )

    def _watch_xids(self) -> Any:  # noqa: ANN401  an opaque handle of NVML
        events = pynvml.nvmlEventSetCreate()
        for _, handle in self._handles:
            pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
        return events

    def _new_xids(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        # Bounded: a card that raises errors faster than we read is told about often enough.
        for _ in range(64 if self._events is not None else 0):
            event = _or_none(lambda: pynvml.nvmlEventSetWait_v2(self._events, 0))
            if event is None:
                break
            uuid = _or_none(partial(pynvml.nvmlDeviceGetUUID, event.device))
            if uuid is not None:
                found.setdefault(str(uuid), []).append(int(event.eventData))
        return found


def _reading(index: int, uuid: str, handle: Any, xids: tuple[int, ...]) -> GpuReading:  # noqa: ANN401  as above
    memory = _or_none(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2))
    utilization = _or_none(lambda: int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu))
    clock_mhz = _or_none(lambda: int(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)))
    reasons = _or_none(lambda: int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)))
    return GpuReading(
        index=index,
        uuid=uuid,
        utilization_ratio=None if utilization is None else utilization / 100,
        memory_used_bytes=None if memory is None else int(memory.used),
        memory_total_bytes=None if memory is None else int(memory.total),
        temperature_celsius=_or_none(
            lambda: float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
        ),
        power_watts=_or_none(lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000),
        power_limit_watts=_or_none(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
        energy_joules=_or_none(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000),
        sm_clock_hz=None if clock_mhz is None else clock_mhz * 1_000_000,
        throttle_reasons=None
        if reasons is None
        else tuple(name for bit, name in _THROTTLE_REASONS.items() if reasons & bit),
        ecc_uncorrected_count=_or_none(
            lambda: int(
                pynvml.nvmlDeviceGetTotalEccErrors(
                    handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
                )
            )
        ),
        pcie_replays_count=_or_none(lambda: int(pynvml.nvmlDeviceGetPcieReplayCounter(handle))),
        xids=xids,
    )


def _or_none(read: Callable[[], T]) -> T | None:
    """Return what NVML says, None where this card or driver cannot."""
    try:
        return read()
    except pynvml.NVMLError:
        return None


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    return Gpu(
        index=index,
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
        name=str(pynvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
    )


@contextlib.contextmanager
def _nvml() -> Iterator[bool]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield False
        return
    try:
        yield True
    finally:
        pynvml.nvmlShutdown()
