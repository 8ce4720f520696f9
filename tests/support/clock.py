"""A clock that stands still until a test moves it."""

from __future__ import annotations

import time


class ManualClock:
    """See `utils.clock.Clock`; starts at the real wall time, so that signatures made now are in time."""

    def __init__(self, wall_unix_ms: int | None = None, boot: str = "boot-1") -> None:
        self.wall = time.time_ns() // 1_000_000 if wall_unix_ms is None else wall_unix_ms
        self.boot = 1_000_000
        self.boot_name = boot

    def advance(self, seconds: float) -> None:
        """Let time pass on all clocks."""
        self.wall += round(seconds * 1000)
        self.boot += round(seconds * 1000)

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock, as an operator or NTP does."""
        self.wall += round(seconds * 1000)

    def reboot(self) -> None:
        """Begin another boot."""
        self.boot, self.boot_name = 0, f"{self.boot_name}+"

    def wall_unix_ms(self) -> int:
        return self.wall

    def boot_ms(self) -> int:
        return self.boot

    def boot_id(self) -> str:
        return self.boot_name

    def monotonic_ns(self) -> int:
        return self.boot * 1_000_000
