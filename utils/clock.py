"""One clock object: monotonic for durations, wall for stamps, boot time for what must survive a step of the wall clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """What the daemons ask about time; tests pass their own."""

    def wall_unix_ms(self) -> int:
        """Milliseconds since 1970, as the world counts them; may be stepped."""

    def boot_ms(self) -> int:
        """Milliseconds since this machine booted, sleep included; never stepped."""

    def boot_id(self) -> str:
        """Name of this boot; boot times of different boots do not compare."""

    def monotonic_ns(self) -> int:
        """Nanoseconds for durations within one process."""


class SystemClock:
    """The real clocks of this machine."""

    def wall_unix_ms(self) -> int:
        """See `Clock`."""
        return time.time_ns() // 1_000_000

    def boot_ms(self) -> int:
        """See `Clock`; falls back to the monotonic clock where there is no boot clock."""
        clock_id = getattr(time, "CLOCK_BOOTTIME", None)
        nanoseconds = time.monotonic_ns() if clock_id is None else time.clock_gettime_ns(clock_id)
        return nanoseconds // 1_000_000

    def boot_id(self) -> str:
        """See `Clock`."""
        path = Path("/proc/sys/kernel/random/boot_id")
        return path.read_text(encoding="ascii").strip() if path.exists() else "unknown"

    def monotonic_ns(self) -> int:
        """See `Clock`."""
        return time.monotonic_ns()


def utc_now(clock: Clock) -> datetime:
    """Return the wall clock as an aware UTC datetime."""
    return datetime.fromtimestamp(clock.wall_unix_ms() / 1000, UTC)


def iso_utc(unix_ms: int) -> str:
    """Format an instant as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
