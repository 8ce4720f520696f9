"""`miner usage`: what leases have used, summed per renter, for an owner who wants to know what the machine has done.

Rules:
- Leases that are over are read from their signed statements, those that run from their sums so far.
- Statements go after 90 days (`usage_book`); older leases are not in the sums.
- There is no money in it: nobody pays on the ledger yet, and the asking price is of the whole machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from neurons.base.data_dir import DataDir
from neurons.miner.journal import Journal
from neurons.miner.meter import Meter
from polarise.errors import ConfigError
from polarise.quantities import format_size
from polarise.statement import SignedStatement
from polarise.usage import STATEMENT_KIND, Usage

_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class RenterUsage:
    """Sums of one renter.

    Attributes:
        renter_key: Whose leases.
        leases_count: How many, those that run included.
        running_count: How many of them run.
        allocated_ms: Time they had, together.
        device_ms: Time of each GPU, together.
        cpu_ms: CPU time they used.
        network_in_bytes: Received by their containers.
        network_out_bytes: Sent by them.
    """

    renter_key: str
    leases_count: int = 0
    running_count: int = 0
    allocated_ms: int = 0
    device_ms: int = 0
    cpu_ms: int = 0
    network_in_bytes: int = 0
    network_out_bytes: int = 0

    def plus(self, other: RenterUsage) -> RenterUsage:
        """Return the sums of both, under this one's name."""
        return RenterUsage(
            self.renter_key,
            self.leases_count + other.leases_count,
            self.running_count + other.running_count,
            self.allocated_ms + other.allocated_ms,
            self.device_ms + other.device_ms,
            self.cpu_ms + other.cpu_ms,
            self.network_in_bytes + other.network_in_bytes,
            self.network_out_bytes + other.network_out_bytes,
        )


def read_usage(root: Path, *, since_unix_ms: int = 0) -> list[RenterUsage]:
    """Sum up per renter, who had most time first.

    Args:
        root: Data directory of a miner; its daemon may run.
        since_unix_ms: Leases that ended before are left out.

    Raises:
        ConfigError: The folder is not a miner's.
    """
    files = DataDir(root)
    if not files.journal.exists():
        raise ConfigError(f"{root} is not a miner's data directory", key_path="data_dir", allowed="--data-dir DIR")
    sums: dict[str, RenterUsage] = {}
    with Journal(files.journal) as journal:
        for part in (*_over(journal, since_unix_ms), *_running(journal)):
            sums[part.renter_key] = sums.get(part.renter_key, RenterUsage(part.renter_key)).plus(part)
    return sorted(sums.values(), key=lambda usage: (-usage.allocated_ms, usage.renter_key))


def total(usages: list[RenterUsage]) -> RenterUsage:
    """Return the sums of all renters."""
    together = RenterUsage("all")
    for usage in usages:
        together = together.plus(usage)
    return together


def render(usages: list[RenterUsage]) -> str:
    """Return the sums as text."""
    head = (
        f"{'renter':<12}  {'leases':>6}  {'run':>3}  {'hours':>9}  {'GPU hours':>9}  {'CPU hours':>9}  "
        f"{'in':>10}  {'out':>10}"
    )
    rows = [_row(usage) for usage in (*usages, total(usages))]
    return "\n".join([head, *rows])


def _row(usage: RenterUsage) -> str:
    hours = [f"{milliseconds / _HOUR_MS:>9.2f}" for milliseconds in (usage.allocated_ms, usage.device_ms, usage.cpu_ms)]
    sizes = [f"{format_size(size):>10}" for size in (usage.network_in_bytes, usage.network_out_bytes)]
    counts = f"{usage.leases_count:>6}  {usage.running_count:>3}"
    return "  ".join([f"{usage.renter_key[:12]:<12}", counts, *hours, *sizes])


def _over(journal: Journal, since_unix_ms: int) -> Iterator[RenterUsage]:
    rows = journal.query("SELECT statement FROM usage_statement WHERE ended_unix_ms >= ?", (since_unix_ms,))
    for row in rows:
        statement = SignedStatement.model_validate_json(row["statement"], strict=True)
        usage = statement.open(STATEMENT_KIND, Usage)
        yield RenterUsage(
            usage.renter_key,
            leases_count=1,
            allocated_ms=usage.allocated_ms,
            device_ms=sum(device.allocated_ms for device in usage.devices),
            cpu_ms=usage.cpu_ms or 0,
            network_in_bytes=usage.network_in_bytes or 0,
            network_out_bytes=usage.network_out_bytes or 0,
        )


def _running(journal: Journal) -> Iterator[RenterUsage]:
    meters = {row["lease_id"]: row["meter"] for row in journal.query("SELECT lease_id, meter FROM usage")}
    for lease in journal.all():
        if lease.is_slot or lease.lease_id not in meters:
            continue
        meter = Meter.from_json(meters[lease.lease_id])
        yield RenterUsage(
            lease.renter_key,
            leases_count=1,
            running_count=1,
            allocated_ms=meter.allocated_ms,
            device_ms=meter.allocated_ms * len(lease.devices),
            cpu_ms=(meter.cpu_ns or 0) // 1_000_000,
            network_in_bytes=meter.network_in_bytes or 0,
            network_out_bytes=meter.network_out_bytes or 0,
        )
