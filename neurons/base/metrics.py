"""Counters of one daemon in the Prometheus text format (version 0.0.4)."""

from __future__ import annotations

import threading
from collections.abc import Callable


class MetricsTracker:
    """Named counters, and gauges that are read when somebody looks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
        self._gauges: dict[str, Callable[[], float]] = {}

    def count(self, name: str, **labels: str) -> None:
        """Add one to a counter; ``name`` ends in ``_total``."""
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            self._counters[key] = self._counters.get(key, 0) + 1

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Register a value that is read at each look; the name ends in its unit."""
        self._gauges[name] = read

    def render(self) -> str:
        """Return all of them as text."""
        with self._lock:
            counters = dict(self._counters)
        lines: list[str] = []
        for name in sorted({name for name, _ in counters}):
            lines.append(f"# TYPE {name} counter")
            lines.extend(
                f"{name}{_label_text(labels)} {value}"
                for (other, labels), value in sorted(counters.items())
                if other == name
            )
        for name, read in sorted(self._gauges.items()):
            lines.extend((f"# TYPE {name} gauge", f"{name} {read():g}"))
        return "\n".join(lines) + "\n"


def _label_text(labels: tuple[tuple[str, str], ...]) -> str:
    if not labels:
        return ""
    escaped = ((name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in labels)
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"
