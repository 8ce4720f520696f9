"""The newest reading as Prometheus text (version 0.0.4): base units, and a series only where there is a figure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from telemetry.sampler import Reading


class _Metric(NamedTuple):
    name: str
    kind: str
    help: str


_HELP = {
    metric.name: metric
    for metric in (
        _Metric("polarise_host_cpu_usage_ratio", "gauge", "Share of all CPUs' time in use."),
        _Metric("polarise_host_memory_used_bytes", "gauge", "Memory in use."),
        _Metric("polarise_host_memory_total_bytes", "gauge", "Physical memory."),
        _Metric("polarise_gpu_utilization_ratio", "gauge", "Share of time in which a kernel ran."),
        _Metric("polarise_gpu_memory_used_bytes", "gauge", "Device memory in use."),
        _Metric("polarise_gpu_memory_total_bytes", "gauge", "Device memory."),
        _Metric("polarise_gpu_temperature_celsius", "gauge", "Temperature of the die."),
        _Metric("polarise_gpu_power_limit_watts", "gauge", "Power that may be drawn."),
        _Metric("polarise_gpu_sm_clock_hertz", "gauge", "Clock of the multiprocessors."),
        _Metric("polarise_gpu_throttled", "gauge", "1 while heat or power slows the card down."),
        _Metric("polarise_gpu_energy_joules_total", "counter", "Energy since the driver was loaded."),
        _Metric("polarise_gpu_ecc_uncorrected_errors_total", "counter", "Uncorrected memory errors."),
        _Metric("polarise_gpu_pcie_replays_total", "counter", "PCIe replays."),
        _Metric("polarise_container_cpu_usage_ratio", "gauge", "CPU seconds per second."),
        _Metric("polarise_container_memory_used_bytes", "gauge", "Memory in use without droppable cache."),
        _Metric("polarise_container_pids", "gauge", "Processes and threads."),
        _Metric("polarise_sample_timestamp_seconds", "gauge", "When the newest reading was taken."),
    )
}


def render(reading: Reading | None) -> str:
    """Return the reading as text; nothing before the first one."""
    lines: list[str] = []
    series = sorted(_series(reading), key=lambda row: list(_HELP).index(row[0])) if reading else []
    previous = ""
    for name, labels, value in series:
        if value is None:
            continue
        if name != previous:
            metric = _HELP[name]
            lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
            previous = name
        lines.append(f"{name}{labels} {value!r}")
    return "".join(f"{line}\n" for line in lines)


def _series(reading: Reading) -> Iterator[tuple[str, str, float | None]]:
    host = reading.host
    yield "polarise_sample_timestamp_seconds", "", reading.unix_ms / 1000
    yield "polarise_host_cpu_usage_ratio", "", host.cpu_usage_ratio
    yield "polarise_host_memory_used_bytes", "", host.memory_used_bytes
    yield "polarise_host_memory_total_bytes", "", host.memory_total_bytes
    for gpu in reading.gpus:
        labels = f'{{gpu="{gpu.index}",uuid="{gpu.uuid}"}}'
        yield "polarise_gpu_utilization_ratio", labels, gpu.utilization_ratio
        yield "polarise_gpu_memory_used_bytes", labels, gpu.memory_used_bytes
        yield "polarise_gpu_memory_total_bytes", labels, gpu.memory_total_bytes
        yield "polarise_gpu_temperature_celsius", labels, gpu.temperature_celsius
        yield "polarise_gpu_power_limit_watts", labels, gpu.power_limit_watts
        yield "polarise_gpu_sm_clock_hertz", labels, gpu.sm_clock_hz
        yield (
            "polarise_gpu_throttled",
            labels,
            None if gpu.throttle_reasons is None else int(bool(gpu.throttle_reasons)),
        )
        yield "polarise_gpu_energy_joules_total", labels, gpu.energy_joules
        yield "polarise_gpu_ecc_uncorrected_errors_total", labels, gpu.ecc_uncorrected_count
        yield "polarise_gpu_pcie_replays_total", labels, gpu.pcie_replays_count
    for name, usage in reading.containers.items():
        labels = f'{{container="{name[:12]}"}}'
        yield "polarise_container_cpu_usage_ratio", labels, usage.cpu_usage_ratio
        yield "polarise_container_memory_used_bytes", labels, usage.memory_used_bytes
        yield "polarise_container_pids", labels, usage.pids_count
