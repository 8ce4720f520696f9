"""After a crash, and every 30 seconds: make journal, labels, folders and engine agree again.

Rules:
- CREATING and not in flight: nobody ever got it; remove container and folder, drop the row.
- ACTIVE: kept while its container runs. A container that stopped is started again with the same port, key and limits,
  once as long as this process lives, and must greet as a new one does; if it does not, or stops again, the lease ends.
- DELETING: finish the removal.
- A container, folder or disk of this node without a row is removed; things of other nodes are never looked at.
- After a reboot the disk of a lease is mounted again before its container is started again. One that was encrypted is lost,
  for its key is; the lease ends, and its last usage statement says why.
- An engine that cannot be asked changes nothing. A lease that somebody holds is left to the next time, never waited for.
- A lease that cannot be settled, for want of a clean GPU or because its disk stays mounted, keeps no other from it.
"""

from __future__ import annotations

import logging
import threading

from docker.errors import APIError
from docker.models.containers import Container

from neurons.miner.allocate import ResourceAllocator
from neurons.miner.container import LEASE_LABEL, LimitNotApplied, NotGreeted
from neurons.miner.disk import DiskFailed
from neurons.miner.lease import Lease, LeaseId, LeaseState
from neurons.miner.locks import LeaseBusy
from polarise.errors import Unavailable
from polarise.usage import Loss
from utils.clock import Clock
from utils.docker_utils import check_engine, engine_errors, remove_container

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 30
# For a container that is started again; while one is silent, the others wait for their turn.
GREETING_SECONDS = 10


class Reconciler:
    """Compares what was intended with what is there, and acts on the difference."""

    name = "reconcile"

    def __init__(self, allocator: ResourceAllocator, clock: Clock) -> None:
        self._allocator = allocator
        self._leases = allocator.leases
        self._clock = clock
        self._revived: set[LeaseId] = set()

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
        self._allocator.journal.ballast.take()
        # The engine is listed first: a container made after this has a row by the time the rows are read.
        containers = self._allocator.manager.containers()
        leases = {lease.lease_id: lease for lease in self._allocator.journal.all()}
        self._revived &= leases.keys()
        for lease_id in leases:
            try:
                self._settle(lease_id, containers)
            except LeaseBusy:
                logger.debug("lease is held, left to the next time", extra={"lease_id": lease_id})
            except Unavailable as err:
                # An engine that is down has the same answer for all the others.
                check_engine(self._allocator.manager.client)
                logger.warning("lease not settled yet", extra={"lease_id": lease_id, "cause": err.message})
        for container in containers:
            self._remove_if_unknown(container)
        self._remove_unknown_folders()
        self._allocator.events.settle(self._allocator.journal.all)
        self._remove_unknown_disks()

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
            self._leases.end(lease)
        elif lease.expiry.remaining_ms(self._clock) <= 0:
            if claimed := self._leases.claim_expired(lease_id):
                self._leases.clean_up(claimed)
        elif not any(c.id == lease.container_id and c.status == "running" for c in containers):
            self._revive(lease)

    def _revive(self, lease: Lease) -> None:
        with self._leases.locks.holding(lease.lease_id, wait_seconds=0):
            found = self._allocator.journal.by_id(lease.lease_id)
            if found is None or found.state is not LeaseState.ACTIVE:
                return
            container = self._allocator.manager.find(found)
            if container is not None and container.status == "running":
                return
            lost = self._why_lost(found, container)
        if lost is None:
            logger.warning("container had stopped and runs again", extra={"lease_id": lease.lease_id})
        else:
            loss, cause = lost
            logger.warning("lease is lost", extra={"lease_id": lease.lease_id, "loss": loss, "cause": cause})
            self._leases.end(found, lost=loss)

    def _why_lost(self, lease: Lease, container: Container | None) -> tuple[Loss, str] | None:
        """Start a stopped container again and return None, or why that is out of the question."""
        if container is None:
            return "container_lost", "the engine says that the container is gone"
        if lease.lease_id in self._revived:
            return "container_lost", "the container stopped a second time"
        manager = self._allocator.manager
        try:
            manager.disks.ensure(lease)
            with engine_errors():
                container.start()
        except DiskFailed as err:
            return err.loss, str(err)
        except APIError as err:
            return "container_lost", str(err.explanation or err)
        self._revived.add(lease.lease_id)
        try:
            manager.wait_for_banner(container, lease, GREETING_SECONDS)
            manager.check_limits(container, lease)
            # From now on its first process is known, also to whoever has to end it without the engine.
            self._leases.metering.read_restarted(lease)
        except (NotGreeted, LimitNotApplied) as err:
            return "container_lost", str(err)
        return None

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

    def _remove_unknown_disks(self) -> None:
        disks = self._allocator.manager.disks
        for lease_id in disks.known():
            if self._allocator.journal.by_id(lease_id) is None and not self._allocator.is_in_flight(lease_id):
                logger.warning("removing a disk without a lease", extra={"lease_id": lease_id})
                disks.remove(lease_id)
