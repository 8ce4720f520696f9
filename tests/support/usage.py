"""What a lease used, for tests that need a usage statement."""

from __future__ import annotations

from polarise.receipt import Receipt
from polarise.usage import DeviceUsage, Usage


def usage_of(receipt: Receipt) -> Usage:
    """What a lease of a minute used."""
    return Usage(
        lease_id=receipt.lease_id,
        container_id=receipt.container_id,
        node_key=receipt.node_key,
        renter_key=receipt.renter_key,
        began_unix_ms=receipt.granted_unix_ms,
        until_unix_ms=receipt.granted_unix_ms + 60_000,
        is_final=True,
        allocated_ms=60_000,
        cpu_ms=1_500,
        memory_mib_seconds=None,
        network_in_bytes=10,
        network_out_bytes=20,
        devices=(DeviceUsage(uuid="GPU-1", allocated_ms=60_000),),
    )
