"""Keeps warm slots ready: made as leases are made, by the same steps, journal and clean-up.

Rules:
- Slots do not outlive the process: after a crash they are rows that nobody is making, and reconcile removes them.
- A slot whose image is not the one that leases get today, or whose container stopped, is thrown away.
- Leases come first: slots and leases together are never more than the leases a node may have, and one port stays free for
  a lease that no slot fits. Slots that are too many go.
"""

from __future__ import annotations

import logging
import secrets
import threading
from dataclasses import replace

from neurons.miner.admission import Admission
from neurons.miner.allocate import ResourceAllocator
from neurons.miner.container import LimitNotApplied
from neurons.miner.lease import Expiry, Lease, LeaseId, LeaseState
from neurons.miner.slots import slots_of, waiting
from polarise.errors import RequestRejected, Unavailable
from polarise.messages import AllocateRequest
from utils.clock import Clock

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
# After a slot could not be made: leases are made cold meanwhile, and say why if they cannot.
PAUSE_SECONDS = 30.0


class SlotKeeper:
    """Looks after the slots; a service.

    Args:
        allocator: With journal, containers, inventory and events.
        admission: Says what the default lease is.
        node_key: Holds the rows of slots.
        clock: Wall and boot clock.
        count: Slots to keep, 0 for none.
    """

    name = "slots"

    def __init__(
        self, allocator: ResourceAllocator, admission: Admission, node_key: str, clock: Clock, *, count: int
    ) -> None:
        self._allocator = allocator
        self._admission = admission
        self._node_key = node_key
        self._clock = clock
        self._count = count

    def prepare(self) -> None:
        """Nothing to take: the port opens first, and the first lease may be a cold one."""

    def run(self, stop: threading.Event) -> None:
        """Look after the slots until ``stop`` is set, then throw them away."""
        if not self._count:
            # A service that has come to its end counts as one that died.
            stop.wait()
            return
        pause = 0.0
        while not stop.wait(pause):
            try:
                pause = INTERVAL_SECONDS if self.keep() else 0.0
            except (Unavailable, RequestRejected) as err:
                logger.warning("slots not looked after", extra={"cause": err.message})
                pause = PAUSE_SECONDS
        for slot in self.slots():
            try:
                self.drop(slot)
            except Unavailable as err:
                logger.warning("slot left to the next start", extra={"lease_id": slot.lease_id, "cause": err.message})

    def slots(self) -> list[Lease]:
        """Return the slots that can be handed out."""
        return slots_of(self._allocator.journal.all())

    def keep(self) -> bool:
        """Throw away what is stale or too many, and make at most one slot; returns whether there are as many as wanted.

        Raises:
            Unavailable: Engine, image, agent or sshd failed.
            RequestRejected: NO_CAPACITY, no port is free.
        """
        wanted, count = self._wanted(), 0
        for slot in self.slots():
            if count < wanted and self._allocator.manager.is_current(slot):
                count += 1
            else:
                self.drop(slot)
        if count >= wanted:
            return True
        self.build()
        return False

    def _wanted(self) -> int:
        inventory = self._allocator.inventory
        leases = sum(not lease.is_slot for lease in self._allocator.journal.all())
        return min(self._count, inventory.leases_max - leases, len(inventory.ssh_ports) - leases - 1)

    def build(self) -> None:
        """Make one slot; it stays in flight, so that no reconcile takes it for a lease nobody got.

        Raises:
            Unavailable: Engine, image, agent or sshd failed; nothing is left.
            RequestRejected: NO_CAPACITY, no port is free.
        """
        allocator = self._allocator
        slot_id = LeaseId(secrets.token_hex(16))
        allocator.hold(slot_id)
        slot: Lease | None = None
        try:
            slot = allocator.journal.reserve(lambda leases: self._row(slot_id, leases))
            allocator.events.open_slot(slot)
            slot, started = allocator.run_on_free_port(slot, None)
            slot = allocator.journal.update(
                slot, container_id=started.container_id, image_id=started.image_id, host_key=started.host_key
            )
        except BaseException as err:
            try:
                if slot is not None:
                    self._remove(slot)
            finally:
                allocator.let_go(slot_id)
            if isinstance(err, LimitNotApplied):
                raise Unavailable(f"a slot was not made: {err}", retry_after_seconds=60) from err
            raise
        logger.info("slot ready", extra={"lease_id": slot.lease_id, "ssh_port": slot.ssh_port})

    def drop(self, slot: Lease) -> None:
        """Throw a slot away, unless it was handed out meanwhile.

        Raises:
            Unavailable: The engine cannot be asked; the row is DELETING and reconcile finishes it.
        """

        def decide(found: Lease) -> Lease | None:
            return replace(found, state=LeaseState.DELETING) if found.is_slot else None

        dropped = self._allocator.journal.change(slot.lease_id, decide)
        if dropped is not None:
            try:
                self._remove(dropped)
            finally:
                self._allocator.let_go(slot.lease_id)

    def _row(self, slot_id: LeaseId, leases: list[Lease]) -> Lease:
        valid = self._admission.validate(AllocateRequest(), self._node_key)
        return Lease(
            lease_id=slot_id,
            state=LeaseState.CREATING,
            renter_key=self._node_key,
            limits=waiting(valid.limits),
            devices=(),
            image=valid.image,
            ssh_port=self._allocator.inventory.pick_port(leases, ()),
            nonce="",
            created_unix_ms=self._clock.wall_unix_ms(),
            expiry=Expiry.after(self._clock, valid.ttl_seconds),
        )

    def _remove(self, slot: Lease) -> None:
        self._allocator.manager.stop_container(slot)
        self._allocator.journal.forget(slot.lease_id, self._clock.wall_unix_ms())
        self._allocator.events.drop_slot(slot)
