"""Samples once a second, tells once in five: host, GPUs and containers as `telemetry.sample` payloads.

Rules:
- The names and units of seed 000 stand on top (gpuUsage and memoryUsage in percent, temperature in Celsius); base units
  with minimum, mean and maximum of the window stand beside them.
- gpuUsage is the mean and temperature the maximum over the GPUs concerned: the host's, or the container's own.
- No driver means ``gpus: []`` and null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Protocol

from polarise.canonical import JsonValue
from telemetry.usage import ContainerReader, ContainerUsage, HostReader, HostUsage
from telemetry.window import Window, tidy
from utils.gpu import GpuReading

SAMPLE_SECONDS = 1.0
TELL_SECONDS = 5.0
_GPU_FIGURES = (
    "utilization_ratio",
    "memory_used_bytes",
    "temperature_celsius",
    "power_watts",
    "sm_clock_hz",
)
_GPU_STATE = ("memory_total_bytes", "energy_joules", "ecc_uncorrected_count", "pcie_replays_count", "power_limit_watts")


class GpuSource(Protocol):
    """Where GPU readings come from."""

    def read(self) -> tuple[GpuReading, ...]:
        """Return one reading per GPU."""


@dataclass(frozen=True, slots=True)
class WatchedContainer:
    """A container to sample.

    Attributes:
        container_id: Engine's id.
        devices: UUIDs of its GPUs.
    """

    container_id: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything read at one instant.

    Attributes:
        unix_ms: When, by the wall clock.
        host: The host.
        gpus: In the order of their index.
        containers: By container id.
    """

    unix_ms: int
    host: HostUsage
    gpus: tuple[GpuReading, ...]
    containers: Mapping[str, ContainerUsage]


@dataclass(slots=True)
class _Subject:
    """A container with its reader and its window."""

    watched: WatchedContainer
    reader: ContainerReader
    window: Window = field(default_factory=Window)


class Sampler:
    """Reads everything when asked, and sums up when asked.

    Args:
        gpus: GPU readings.
        host: The host's reader.
    """

    def __init__(self, gpus: GpuSource, host: HostReader | None = None) -> None:
        self._gpus = gpus
        self._host = host or HostReader()
        self._subjects: dict[str, _Subject] = {}
        self._host_window = Window()
        self._gpu_windows: dict[str, Window] = {}
        self._last: Reading | None = None

    def watch(self, watched: WatchedContainer, reader: ContainerReader) -> None:
        """Sample a container from now on."""
        self._subjects[watched.container_id] = _Subject(watched, reader)

    def forget(self, container_id: str) -> None:
        """Sample it no more; an unknown one is fine."""
        self._subjects.pop(container_id, None)

    def read(self, unix_ms: int, monotonic_ns: int) -> Reading:
        """Take one reading of everything and add it to the windows."""
        host, gpus = self._host.read(), self._gpus.read()
        containers = {name: subject.reader.read(monotonic_ns) for name, subject in list(self._subjects.items())}
        self._host_window.add(_figures(host, "memory_total_bytes"))
        for gpu in gpus:
            window = self._gpu_windows.setdefault(gpu.uuid, Window())
            window.add({name: getattr(gpu, name) for name in _GPU_FIGURES})
        for name, usage in containers.items():
            if subject := self._subjects.get(name):
                subject.window.add(_figures(usage, "memory_limit_bytes"))
        self._last = Reading(unix_ms, host, gpus, containers)
        return self._last

    def tell(self) -> tuple[dict[str, JsonValue], dict[str, dict[str, JsonValue]]]:
        """Return the host's payload and each container's by its id, and begin new windows."""
        last = self._last
        if last is None:
            raise RuntimeError("tell() needs a reading first")
        host = self._payload("host_metrics", last.unix_ms, last.gpus, self._host_window, last.host.memory_total_bytes)
        containers = {}
        for name, usage in last.containers.items():
            if subject := self._subjects.get(name):
                own = tuple(gpu for gpu in last.gpus if gpu.uuid in subject.watched.devices)
                payload = self._payload(
                    "container_metrics", last.unix_ms, own, subject.window, usage.memory_limit_bytes
                )
                containers[name] = {"containerId": name, **payload, "memory_limit_bytes": usage.memory_limit_bytes}
                subject.window = Window()
        self._start_window()
        return {**host, "memory_total_bytes": last.host.memory_total_bytes}, containers

    def _start_window(self) -> None:
        self._host_window = Window()
        self._gpu_windows = {}
        self._last = None

    def _payload(
        self, event_type: str, unix_ms: int, gpus: tuple[GpuReading, ...], window: Window, memory_bytes: int | None
    ) -> dict[str, JsonValue]:
        windows = [self._gpu_windows[gpu.uuid] for gpu in gpus]
        busy = [mean for w in windows if (mean := w.mean("utilization_ratio")) is not None]
        hottest = [top for w in windows if (top := w.highest("temperature_celsius")) is not None]
        used = window.mean("memory_used_bytes")
        usage = 100 * used / memory_bytes if used is not None and memory_bytes else None
        return {
            "eventType": event_type,
            "timestamp": unix_ms,
            "gpuUsage": tidy(100 * sum(busy) / len(busy)) if busy else None,
            "memoryUsage": None if usage is None else tidy(min(usage, 100.0)),
            "temperature": tidy(max(hottest, default=None)) if hottest else None,
            "gpus": [_gpu_payload(gpu, self._gpu_windows[gpu.uuid]) for gpu in gpus],
            "readings_count": window.readings_count,
            **window.summary(),
        }


def _figures(usage: HostUsage | ContainerUsage, constant: str) -> dict[str, float | None]:
    return {name: value for name, value in asdict(usage).items() if name != constant}


def _gpu_payload(gpu: GpuReading, window: Window) -> dict[str, JsonValue]:
    state = {name: tidy(getattr(gpu, name)) for name in _GPU_STATE}
    reasons = None if gpu.throttle_reasons is None else list(gpu.throttle_reasons)
    return {"index": gpu.index, "uuid": gpu.uuid, **state, "throttle_reasons": reasons, **window.summary()}
