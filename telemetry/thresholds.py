"""From readings to alerts: one `alert.raised` when a limit is crossed, one `alert.cleared` when it is well again.

Rules:
- A figure above its limit raises at once; it clears five points below (hysteresis), so that a value that trembles
  around the limit tells once. A figure that cannot be read changes nothing.
- A counter that must not move (uncorrected ECC errors, XID errors) or must not fall (energy) raises for every change
  and clears at the next reading without one.
- Silence is an alert of its own: no reading for more than three periods.
The limits are seed 000's: more than 90 % GPU, 90 % memory, 85 degrees Celsius.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from polarise.canonical import JsonValue
from telemetry.sampler import SAMPLE_SECONDS, Reading
from utils.gpu import GpuReading

SILENCE_PERIODS = 3
HOST = "host"
SILENCE = "silence"


@dataclass(frozen=True, slots=True)
class Limits:
    """Where alerts begin.

    Attributes:
        gpu_percent: GPU utilisation.
        memory_percent: Memory of the host, of a GPU and of a container.
        temperature_celsius: GPU temperature.
        hysteresis: An alert clears so many points below its limit.
    """

    gpu_percent: float = 90.0
    memory_percent: float = 90.0
    temperature_celsius: float = 85.0
    hysteresis: float = 5.0


@dataclass(frozen=True, slots=True)
class Alert:
    """One crossing.

    Attributes:
        name: Which limit, for example ``gpu_usage``.
        subject: ``host``, the UUID of a GPU or the id of a container.
        is_raised: Up, or down again.
        value: The figure at the crossing.
        limit: What it crossed; None where any change is one.
    """

    name: str
    subject: str
    is_raised: bool
    value: float | None
    limit: float | None

    @property
    def kind(self) -> str:
        """Kind of the event."""
        return "alert.raised" if self.is_raised else "alert.cleared"

    def payload(self, unix_ms: int) -> dict[str, JsonValue]:
        """Return the event's payload."""
        return {
            "alert": self.name,
            "subject": self.subject,
            "value": self.value,
            "limit": self.limit,
            "eventType": "threshold",
            "timestamp": unix_ms,
        }


@dataclass(frozen=True, slots=True)
class _Level:
    """A figure that must stay at or below its limit."""

    name: str
    subject: str
    value: float | None
    limit: float


class Thresholds:
    """Remembers what is raised; call `check` with every reading and `check_silence` whenever time has passed.

    Args:
        limits: Where alerts begin.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._raised: dict[tuple[str, str], float | None] = {}
        self._counters: dict[tuple[str, str], float] = {}
        self._last_monotonic_ns: int | None = None

    @property
    def raised(self) -> frozenset[tuple[str, str]]:
        """(name, subject) of everything that is raised now."""
        return frozenset(self._raised)

    def check(self, reading: Reading, monotonic_ns: int) -> list[Alert]:
        """Return the crossings of one reading."""
        alerts = self._settle((SILENCE, HOST), is_over=False, is_under=True, value=None, limit=None)
        self._last_monotonic_ns = monotonic_ns
        for level in self._levels(reading):
            alerts += self._check_level(level)
        for gpu in reading.gpus:
            alerts += self._check_gpu_state(gpu)
        return alerts + self._clear_gone(reading)

    def check_silence(self, monotonic_ns: int) -> list[Alert]:
        """Return the alert of a sampler that has gone quiet."""
        if self._last_monotonic_ns is None:
            return []
        silent_seconds = (monotonic_ns - self._last_monotonic_ns) / 1e9
        limit = SILENCE_PERIODS * SAMPLE_SECONDS
        return self._settle(
            (SILENCE, HOST), is_over=silent_seconds > limit, is_under=False, value=round(silent_seconds, 3), limit=limit
        )

    def _levels(self, reading: Reading) -> Iterator[_Level]:
        memory = self._limits.memory_percent
        host = reading.host
        yield _Level("memory_usage", HOST, _percent(host.memory_used_bytes, host.memory_total_bytes), memory)
        for gpu in reading.gpus:
            usage = None if gpu.utilization_ratio is None else 100 * gpu.utilization_ratio
            yield _Level("gpu_usage", gpu.uuid, usage, self._limits.gpu_percent)
            yield _Level("memory_usage", gpu.uuid, _percent(gpu.memory_used_bytes, gpu.memory_total_bytes), memory)
            yield _Level("temperature", gpu.uuid, gpu.temperature_celsius, self._limits.temperature_celsius)
        for name, usage_of in reading.containers.items():
            share = _percent(usage_of.memory_used_bytes, usage_of.memory_limit_bytes)
            yield _Level("memory_usage", name, share, memory)

    def _check_level(self, level: _Level) -> list[Alert]:
        if level.value is None:
            return []
        return self._settle(
            (level.name, level.subject),
            is_over=level.value > level.limit,
            is_under=level.value <= level.limit - self._limits.hysteresis,
            value=round(level.value, 2),
            limit=level.limit,
        )

    def _check_gpu_state(self, gpu: GpuReading) -> list[Alert]:
        alerts: list[Alert] = []
        if gpu.throttle_reasons is not None:
            count = float(len(gpu.throttle_reasons))
            alerts += self._settle(
                ("throttle", gpu.uuid), is_over=count > 0, is_under=count == 0, value=count, limit=0.0
            )
        alerts += self._check_move("xid", gpu.uuid, float(gpu.xids[-1]) if gpu.xids else None, is_moved=bool(gpu.xids))
        errors, rose, _ = self._moved("ecc_uncorrected", gpu.uuid, gpu.ecc_uncorrected_count)
        alerts += self._check_move("ecc_uncorrected", gpu.uuid, errors, is_moved=rose)
        joules, _, fell = self._moved("energy_back", gpu.uuid, gpu.energy_joules)
        return alerts + self._check_move("energy_back", gpu.uuid, joules, is_moved=fell)

    def _check_move(self, name: str, subject: str, value: float | None, *, is_moved: bool) -> list[Alert]:
        # Every move is told, also one right after another: clear first what is raised.
        alerts = self._settle((name, subject), is_over=False, is_under=True, value=value, limit=None)
        return alerts + self._settle((name, subject), is_over=is_moved, is_under=False, value=value, limit=None)

    def _moved(self, name: str, subject: str, value: float | None) -> tuple[float | None, bool, bool]:
        """Return a counter, whether it rose and whether it fell since it was last read."""
        last = self._counters.get((name, subject))
        if value is not None:
            self._counters[name, subject] = value
        if value is None or last is None:
            return value, False, False
        return value, value > last, value < last

    def _clear_gone(self, reading: Reading) -> list[Alert]:
        """A subject that is no more is well again."""
        present = {HOST, *(gpu.uuid for gpu in reading.gpus), *reading.containers}
        gone = [key for key in self._raised if key[1] not in present]
        self._counters = {key: value for key, value in self._counters.items() if key[1] in present}
        return [
            alert for key in gone for alert in self._settle(key, is_over=False, is_under=True, value=None, limit=None)
        ]

    def _settle(
        self, key: tuple[str, str], *, is_over: bool, is_under: bool, value: float | None, limit: float | None
    ) -> list[Alert]:
        if is_over and key not in self._raised:
            self._raised[key] = limit
            return [Alert(key[0], key[1], is_raised=True, value=value, limit=limit)]
        if is_under and key in self._raised:
            return [Alert(key[0], key[1], is_raised=False, value=value, limit=self._raised.pop(key))]
        return []


def _percent(used: int | None, total: int | None) -> float | None:
    return 100 * used / total if used is not None and total else None
