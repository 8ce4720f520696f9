"""Minimum, mean and maximum of the readings between two events; a figure that was never read stays null."""

from __future__ import annotations

from collections.abc import Mapping

from polarise.canonical import JsonValue


class Window:
    """Collects readings of one subject (the host, a GPU, a container)."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}
        self.readings_count = 0

    def add(self, reading: Mapping[str, float | None]) -> None:
        """Add one reading; names keep the order of the first."""
        self.readings_count += 1
        for name, value in reading.items():
            values = self._values.setdefault(name, [])
            if value is not None:
                values.append(value)

    def mean(self, name: str) -> float | None:
        """Return the mean of one figure."""
        values = self._values.get(name)
        return sum(values) / len(values) if values else None

    def highest(self, name: str) -> float | None:
        """Return the largest of one figure."""
        return max(self._values.get(name) or (), default=None)

    def summary(self) -> dict[str, JsonValue]:
        """Return name -> {min, avg, max}, null for what was never read."""
        return {name: _summary(values) for name, values in self._values.items()}


def _summary(values: list[float]) -> JsonValue:
    if not values:
        return None
    return {"min": tidy(min(values)), "avg": tidy(sum(values) / len(values)), "max": tidy(max(values))}


def tidy(value: float | None) -> int | float | None:
    """Return a figure with at most four decimals, whole ones as integers."""
    if value is None:
        return None
    rounded = round(value, 4)
    return int(rounded) if rounded == int(rounded) else rounded
