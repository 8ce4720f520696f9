"""Leases as rows of a journal, for tests that need some."""

from __future__ import annotations

from dataclasses import replace

from neurons.miner.lease import Expiry, Lease, LeaseId, LeaseState
from polarise.receipt import Limits
from polarise.ssh_keys import generate_key_pair
from utils.clock import SystemClock

LIMITS = Limits(memory_bytes=128 << 20, swap_bytes=0, cpu_milli=250, pids_count=512, shm_bytes=64 << 20)
HOST_KEY = generate_key_pair()[1]


def lease(number: int, **changes: object) -> Lease:
    """Return a lease of its own port and id, an hour long, changed as asked for."""
    made = Lease(
        lease_id=LeaseId(f"{number:032x}"),
        state=LeaseState.CREATING,
        renter_key="ab" * 32,
        limits=LIMITS,
        devices=(),
        image="polarise/base:0123456789ab",
        ssh_port=20_000 + number,
        nonce="00" * 32,
        created_unix_ms=1_700_000_000_000 + number,
        expiry=Expiry.after(SystemClock(), 3600),
        image_id=f"sha256:{'0' * 64}",
        host_key=HOST_KEY,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # dataclasses.replace checks the names
