"""Warm slots: containers that run already and wait for a renter, so that a lease is a key file and a few limits away.

Rules:
- A slot is a row of the journal like any lease, held by the node itself: CREATING, without a nonce. It uses nothing that
  is for lease but its port, and has a container, host key and event socket of its own, as every lease does.
- Only what the engine can change on a running container differs between a slot and the lease that it becomes: memory and
  CPUs. Whoever asks for another image, for devices, a private network or other limits gets a new container.
- A slot is handed out once. What is left of it after the lease goes with the lease.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from neurons.miner.lease import Lease, LeaseState
from polarise.receipt import Limits

# Enough for an idle sshd; a lease has at least as much.
WAITING_MEMORY_BYTES = 64 << 20


def slots_of(leases: Iterable[Lease]) -> list[Lease]:
    """Return the slots that can be handed out."""
    return [
        lease
        for lease in leases
        if lease.is_slot and lease.state is LeaseState.CREATING and lease.container_id is not None
    ]


def waiting(limits: Limits) -> Limits:
    """Return the limits of a slot that is to become a lease of such limits."""
    return limits.model_copy(update={"memory_bytes": WAITING_MEMORY_BYTES})


def fitting(lease: Lease, leases: Iterable[Lease]) -> Lease | None:
    """Return the slot that can become this lease.

    Args:
        lease: As it would be made cold.
        leases: All rows.
    """
    if lease.private is not None:
        # Its container has to forward no packets, which is decided when one is made.
        return None
    wanted = lease.limits
    changed = {"memory_bytes": wanted.memory_bytes, "cpu_milli": wanted.cpu_milli}
    for slot in slots_of(leases):
        is_same = (slot.image, slot.isolation, slot.devices) == (lease.image, lease.isolation, lease.devices)
        if is_same and slot.limits.model_copy(update=changed) == wanted:
            return slot
    return None


def become(slot: Lease, lease: Lease) -> Lease:
    """Return the lease with what the slot has already; the container is its own once it was handed over."""
    return replace(
        lease, lease_id=slot.lease_id, ssh_port=slot.ssh_port, image_id=slot.image_id, host_key=slot.host_key
    )
