"""One alert per crossing, up and down; what trembles around a limit tells once."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from telemetry.sampler import Reading
from telemetry.thresholds import Alert, Limits, Thresholds
from telemetry.usage import ContainerUsage, HostUsage
from utils.gpu import GpuReading

HOST = HostUsage(0.1, 10, 100)
GPU = GpuReading(0, "GPU-1", 0.5, 10, 100, 60.0, 100.0, 700.0, 1000.0, 1_500_000_000, (), 0, 0)
SECOND = 1_000_000_000


def reading(host: HostUsage = HOST, *gpus: GpuReading, containers: dict[str, ContainerUsage] | None = None) -> Reading:
    return Reading(0, host, gpus, containers or {})


def told(alerts: list[Alert]) -> list[tuple[str, str, bool]]:
    return [(alert.name, alert.subject, alert.is_raised) for alert in alerts]


@pytest.mark.parametrize(
    ("change", "name", "at_limit", "above", "inside_band", "below_band"),
    [
        ("utilization_ratio", "gpu_usage", 0.90, 0.91, 0.86, 0.85),
        ("memory_used_bytes", "memory_usage", 90, 91, 86, 85),
        ("temperature_celsius", "temperature", 85.0, 85.1, 80.1, 80.0),
    ],
)
def test_a_level_raises_above_its_limit_and_clears_below_the_band(
    change: str, name: str, at_limit: float, above: float, inside_band: float, below_band: float
) -> None:
    thresholds = Thresholds(Limits())

    def check(value: float) -> list[tuple[str, str, bool]]:
        changed = GpuReading(**{**asdict(GPU), change: value})
        return told(thresholds.check(reading(HOST, changed), 0))

    assert check(at_limit) == []
    assert check(above) == [(name, "GPU-1", True)]
    assert check(above) == []
    assert check(inside_band) == []
    assert check(above) == []
    assert check(below_band) == [(name, "GPU-1", False)]
    assert check(below_band) == []


def test_memory_of_host_and_container() -> None:
    thresholds = Thresholds(Limits())
    full = ContainerUsage(0.1, 95, 100, 3)
    alerts = thresholds.check(reading(replace(HOST, memory_used_bytes=91), containers={"c1": full}), 0)
    assert told(alerts) == [("memory_usage", "host", True), ("memory_usage", "c1", True)]
    assert told(thresholds.check(reading(), 0)) == [("memory_usage", "host", False), ("memory_usage", "c1", False)]


def test_a_figure_that_cannot_be_read_changes_nothing() -> None:
    thresholds = Thresholds(Limits())
    assert len(thresholds.check(reading(HOST, replace(GPU, temperature_celsius=90.0)), 0)) == 1
    assert thresholds.check(reading(HOST, replace(GPU, temperature_celsius=None)), 0) == []
    assert thresholds.raised == {("temperature", "GPU-1")}


def test_throttling_xid_and_ecc() -> None:
    thresholds = Thresholds(Limits())
    assert thresholds.check(reading(HOST, GPU), 0) == []
    bad = replace(GPU, throttle_reasons=("hw_thermal_slowdown",), xids=(79,), ecc_uncorrected_count=1)
    alerts = thresholds.check(reading(HOST, bad), 0)
    assert told(alerts) == [("throttle", "GPU-1", True), ("xid", "GPU-1", True), ("ecc_uncorrected", "GPU-1", True)]
    assert alerts[1].value == 79
    again = thresholds.check(reading(HOST, replace(bad, xids=(13,))), 0)
    assert told(again) == [("xid", "GPU-1", False), ("xid", "GPU-1", True), ("ecc_uncorrected", "GPU-1", False)]


def test_an_energy_counter_that_goes_back() -> None:
    thresholds = Thresholds(Limits())
    for joules, expected in ((1000.0, []), (1000.0, []), (999.9, [True]), (1001.0, [False])):
        alerts = thresholds.check(reading(HOST, replace(GPU, energy_joules=joules)), 0)
        assert [alert.is_raised for alert in alerts if alert.name == "energy_back"] == expected


def test_silence_is_told_after_three_periods_and_once() -> None:
    thresholds = Thresholds(Limits())
    assert thresholds.check_silence(10 * SECOND) == []
    thresholds.check(reading(), 0)
    assert thresholds.check_silence(3 * SECOND) == []
    assert told(thresholds.check_silence(3 * SECOND + 1)) == [("silence", "host", True)]
    assert thresholds.check_silence(9 * SECOND) == []
    assert told(thresholds.check(reading(), 9 * SECOND)) == [("silence", "host", False)]


def test_an_alert_is_an_event_the_envelope_takes() -> None:
    from polarise.ingress import draft_of

    [alert] = Thresholds(Limits()).check(reading(replace(HOST, memory_used_bytes=99)), 0)
    draft = draft_of({"kind": alert.kind, "payload": alert.payload(1_700_000_000_000)})
    assert draft.payload["limit"] == 90
