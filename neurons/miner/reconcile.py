"""After a crash, and every 30 seconds: make journal, labels, folders and engine agree again.

Rules:
- CREATING and not in flight: nobody ever got it; remove container and folder, drop the row.
- ACTIVE: kept while its container runs. A container that stopped is started once with the same port, key and limits;
  if that fails, the lease ends.
- DELETING: finish the removal.
- A container or folder of this node without a row is removed; things of other nodes are never looked at.
- An engine that cannot be asked changes nothing.
"""

from __future__ import annotations

import logging
import threading

from docker.errors import APIError
from docker.models.containers import Container

from neurons.miner.allocate import ResourceAllocator
from neurons.miner.container import LEASE_LABEL, LimitNotApplied
from neurons.miner.lease import Lease, LeaseId, LeaseState
from polarise.errors import Unavailable
from utils.clock import Clock
from utils.docker_utils import engine_errors, remove_container

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 30


class Reconciler:
    """Compares what was intended with what is there, and acts on the difference."""

    name = "reconcile"

    def __init__(self, allocator: ResourceAllocator, clock: Clock) -> None:
        self._allocator = allocator
        self._clock = clock

    def prepare(self) -> None:
        """Reconcile once before the port opens; an engine that is down leaves it to the loop."""
        try:
            self.reconcile()
        except Unavailable as err:
            logger.warning("reconcile postponed", extra={"cause": err.message})

    def run(self, stop: threading.Event) -> None:
        """Reconcile every 30 seconds."""
        while not stop.wait(INTERVAL_SECONDS):
            try:
                self.reconcile()
            except Unavailable as err:
                logger.warning("reconcile postponed", extra={"cause": err.message})

    def reconcile(self) -> None:
        """Do it once.

        Raises:
            Unavailable: The engine cannot be asked; nothing was concluded from its silence.
        """
        # The engine is listed first: a container made after this has a row by the time the rows are read.
        containers = self._allocator.manager.containers()
        leases = {lease.lease_id: lease for lease in self._allocator.journal.all()}
        for lease in leases.values():
            with self._allocator.holding(lease.lease_id):
                self._settle(lease.lease_id, containers)
        for container in containers:
            self._remove_if_unknown(container)
        self._remove_unknown_folders()
        self._allocator.events.settle(self._allocator.journal.all)

    def _settle(self, lease_id: LeaseId, containers: list[Container]) -> None:
        # In this order: a request that has ended has written its last state. The rows read above are old by now, and
        # a lease that was CREATING may be in its renter's hands, an expired one renewed.
        if self._allocator.is_in_flight(lease_id):
            return
        lease = self._allocator.journal.by_id(lease_id)
        if lease is None:
            return
        if lease.state is not LeaseState.ACTIVE:
            logger.info("finishing what was interrupted", extra={"lease_id": lease.lease_id, "state": lease.state})
            self._allocator.terminate(lease)
        elif lease.expiry.remaining_ms(self._clock) <= 0:
            self._allocator.terminate(lease)
        elif not any(c.id == lease.container_id and c.status == "running" for c in containers):
            self._revive(lease)

    def _revive(self, lease: Lease) -> None:
        with self._allocator.holding(lease.lease_id):
            found = self._allocator.journal.by_id(lease.lease_id)
            if found is None or found.state is not LeaseState.ACTIVE:
                return
            container = self._allocator.manager.find(found)
            if container is not None and container.status == "running":
                return
            try:
                if container is None:
                    raise LimitNotApplied("the engine says that the container is gone")
                with engine_errors():
                    container.start()
                self._allocator.manager.check_limits(container, found.limits)
            except (APIError, LimitNotApplied) as err:
                logger.warning("lease lost its container", extra={"lease_id": lease.lease_id, "cause": str(err)})
                self._allocator.terminate(found)
            else:
                logger.warning("container had stopped and runs again", extra={"lease_id": lease.lease_id})

    def _remove_if_unknown(self, container: Container) -> None:
        lease_id = LeaseId(container.labels.get(LEASE_LABEL, ""))
        if self._allocator.journal.by_id(lease_id) is None and not self._allocator.is_in_flight(lease_id):
            logger.warning("removing a container without a lease", extra={"container_id": container.short_id})
            remove_container(self._allocator.manager.client, str(container.id))

    def _remove_unknown_folders(self) -> None:
        for folder in self._allocator.manager.settings.leases_folder.iterdir():
            lease_id = LeaseId(folder.name)
            if self._allocator.journal.by_id(lease_id) is None and not self._allocator.is_in_flight(lease_id):
                self._allocator.manager.login_files(lease_id).remove()
