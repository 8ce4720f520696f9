"""What a lease has used so far: sums over readings of counters that begin anew whenever its container does.

Rules:
- A counter is known by its source: this boot, this first process. From the same source the difference counts, from a
  new one all of it. Nothing is counted twice, whoever restarts; what a container used between its last reading and
  its end is lost, which is one interval at most.
- A reading that is older than the last one changes nothing: two threads may read at once.
- Memory has no counter: it is the reading times the time since the one before, at most `GAP_MS` of it.
- The lease's own time counts between two readings of the same source, by the boot clock, and never beyond its expiry:
  while its container does not run, nothing does.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from polarise.usage import COUNT_MAX

INTERVAL_SECONDS = 5.0
# Memory of longer gaps was not seen by anybody.
GAP_MS = int(2 * INTERVAL_SECONDS * 1000)


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters of one container at one instant; None where this host gives no figure.

    Attributes:
        source: Names the boot and the first process; counters of two sources do not compare.
        boot_id: Which boot.
        boot_ms: When, by the boot clock.
        wall_unix_ms: When, by the wall clock.
        cpu_ns: CPU time since the container started.
        network_in_bytes: Received since then.
        network_out_bytes: Sent since then.
        memory_bytes: In use now.
    """

    source: str
    boot_id: str
    boot_ms: int
    wall_unix_ms: int
    cpu_ns: int | None = None
    network_in_bytes: int | None = None
    network_out_bytes: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Meter:
    """Sums of one lease, and the reading they reach to.

    Attributes:
        began_unix_ms: When the lease was handed out.
        last: The newest reading that counted.
        allocated_ms: How long the lease has lasted while its container ran.
        cpu_ns: CPU time; None until it was read once, as those below.
        network_in_bytes: Received.
        network_out_bytes: Sent.
        memory_byte_ms: Bytes times milliseconds.
    """

    began_unix_ms: int
    last: Reading
    allocated_ms: int = 0
    cpu_ns: int | None = None
    network_in_bytes: int | None = None
    network_out_bytes: int | None = None
    memory_byte_ms: int | None = None

    def advanced(self, now: Reading, *, overdue_ms: int = 0) -> Meter:
        """Return the sums with one more reading.

        Args:
            now: The reading.
            overdue_ms: How long the lease is past its expiry; 0 while it lasts.
        """
        last = self.last
        same_boot = last.boot_id == now.boot_id
        if same_boot and now.boot_ms <= last.boot_ms:
            return self
        kept = last if last.source == now.source else None
        passed_ms = now.boot_ms - last.boot_ms if kept else 0
        if kept is not None:
            # What could not be read now is counted from where it was read last.
            now = replace(
                now,
                cpu_ns=_or(now.cpu_ns, kept.cpu_ns),
                network_in_bytes=_or(now.network_in_bytes, kept.network_in_bytes),
                network_out_bytes=_or(now.network_out_bytes, kept.network_out_bytes),
            )
        before = kept or Reading("", "", 0, 0)
        return replace(
            self,
            last=now,
            allocated_ms=self.allocated_ms + max(0, passed_ms - overdue_ms),
            cpu_ns=_sum(self.cpu_ns, before.cpu_ns, now.cpu_ns),
            network_in_bytes=_sum(self.network_in_bytes, before.network_in_bytes, now.network_in_bytes),
            network_out_bytes=_sum(self.network_out_bytes, before.network_out_bytes, now.network_out_bytes),
            memory_byte_ms=self._memory(now, min(passed_ms, GAP_MS)),
        )

    def _memory(self, now: Reading, passed_ms: int) -> int | None:
        if now.memory_bytes is None:
            return self.memory_byte_ms
        return (self.memory_byte_ms or 0) + now.memory_bytes * passed_ms

    def to_json(self) -> str:
        """Return the text that the journal keeps."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Meter:
        """Return what `to_json` wrote."""
        value = json.loads(text)
        return Meter(**{**value, "last": Reading(**value["last"])})


def whole(value: int | None, unit: int = 1) -> int | None:
    """Return a sum in whole units, as far as a JSON number reaches."""
    return None if value is None else min(value // unit, COUNT_MAX)


def _or(value: int | None, otherwise: int | None) -> int | None:
    return otherwise if value is None else value


def _sum(total: int | None, before: int | None, now: int | None) -> int | None:
    if now is None:
        return total
    return (total or 0) + max(0, now - (before or 0))
