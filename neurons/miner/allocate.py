"""From a request to a lease: reserve, journal, start, hand out. What happens to it then stands in `running`.

Rules:
- Nothing is handed out before the banner was read and every limit was read back from the kernel.
- A failure releases the reservation in the function that took it.
- A request that a warm slot fits gets that one; if it is lost on the way, the lease is made cold.
- "The engine cannot be asked" frees nothing: a reservation whose container may still exist is kept.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from neurons.miner.admission import Admission, ValidRequest
from neurons.miner.container import (
    ContainerManager,
    LimitNotApplied,
    PortTaken,
    SlotLost,
    StartedContainer,
    StepObserver,
)
from neurons.miner.disk import GRANULE_BYTES
from neurons.miner.inventory import Inventory
from neurons.miner.journal import Journal
from neurons.miner.lease import Expiry, Lease, LeaseId, LeaseState, PrivatePlace
from neurons.miner.open_quota import OpenQuota
from neurons.miner.private_network import choose_place
from neurons.miner.retries import Retries, granted_meanwhile, request_digest
from neurons.miner.running import RunningLeases
from neurons.miner.slots import become, fitting
from polarise.errors import Unavailable
from polarise.messages import AllocateRequest
from polarise.payloads import Status
from polarise.quantities import format_size
from polarise.statement import SignedStatement
from utils.clock import Clock

logger = logging.getLogger(__name__)

PORT_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease with the password that is shown once; ``is_new`` unless an earlier request made it."""

    lease: Lease
    password: str | None
    is_new: bool


class ResourceAllocator:
    """Grants leases.

    Args:
        leases: The granted leases; with the journal and the manager of the containers.
        inventory: What is for lease.
        admission: Fills in what a request leaves out, and checks the rest.
        clock: Wall and boot clock.
        reach: Called with the name of each step; tests end the process there.
        proving: Devices that prove at this moment. It is asked after every other look at a reservation and before the
            row is written; whoever wants to prove says so first and looks at the rows then, so that no device is in
            two hands.
        check_open: Raises while no new lease is granted at all.
        check_devices: Raises while a proof of ours still holds devices that are about to be handed out.
        open_quota: What renters on no list may hold; no bound when it is left out.
    """

    def __init__(
        self,
        leases: RunningLeases,
        inventory: Inventory,
        admission: Admission,
        clock: Clock,
        reach: StepObserver = lambda _step: None,
        proving: Callable[[], Collection[str]] = tuple,
        check_open: Callable[[], None] = lambda: None,
        check_devices: Callable[[Sequence[str]], None] = lambda _devices: None,
        open_quota: OpenQuota | None = None,
    ) -> None:
        self.leases = leases
        self.manager: ContainerManager = leases.manager
        self.journal: Journal = leases.journal
        self.inventory = inventory
        self.events = leases.events
        self._admission = admission
        self._clock = clock
        self._reach = reach
        self._proving = proving
        self._check_open = check_open
        self._check_devices = check_devices
        self._open_quota = open_quota or OpenQuota()
        self._retries = Retries(self.journal, clock)
        self._in_flight: set[LeaseId] = set()

    def allocate_resources(
        self,
        request: AllocateRequest,
        renter_key: str,
        idempotency_key: str | None = None,
        *,
        consent: SignedStatement | None = None,
        address: str | None = None,
    ) -> Granted:
        """Grant a lease.

        Args:
            request: What is wanted.
            renter_key: Who will hold it.
            idempotency_key: A retry with the same key returns the lease of the first try, without its password; see
                `neurons.miner.retries`.
            consent: The renter's, for validators, that came with its token; kept with the lease.
            address: Where a renter on no list asks from; kept with the lease.

        Raises:
            RequestRejected: The request is wrong, or does not fit; nothing changed.
            Unavailable: The miner drains; or packet filter, engine, image or sshd failed, and the reservation is released.
        """
        if earlier := self._retries.earlier(request, renter_key, idempotency_key):
            return Granted(earlier, None, is_new=False)
        # What is wrong with the request is said whatever the engine does.
        valid = self.validate_resources(request, renter_key)
        self._check_open()
        self.manager.network.guard()
        try:
            return self._allocate(request, valid, renter_key, idempotency_key, consent, address, may_be_warm=True)
        except SlotLost as err:
            logger.warning("the lease is made cold", extra={"cause": str(err)})
            return self._allocate(request, valid, renter_key, idempotency_key, consent, address, may_be_warm=False)

    def _allocate(
        self,
        request: AllocateRequest,
        valid: ValidRequest,
        renter_key: str,
        idempotency_key: str | None,
        consent: SignedStatement | None,
        address: str | None,
        *,
        may_be_warm: bool,
    ) -> Granted:
        lease_id = LeaseId(secrets.token_hex(16))
        # Marked before the row can be seen, so that a reconcile at this moment leaves it alone; a slot is held already.
        self.hold(lease_id)
        try:
            lease = self._reserve(
                lease_id, request, valid, renter_key, idempotency_key, consent, address, may_be_warm=may_be_warm
            )
            try:
                self._reach("allocate.reserved")
                return self._start(lease, valid.public_key)
            finally:
                self.let_go(lease.lease_id)
        finally:
            self.let_go(lease_id)

    def hold(self, lease_id: LeaseId) -> None:
        """Have a row left alone by reconcile while it is made, or waits as a slot."""
        self._in_flight.add(lease_id)

    def let_go(self, lease_id: LeaseId) -> None:
        """The end of `hold`."""
        self._in_flight.discard(lease_id)

    def validate_resources(self, request: AllocateRequest, renter_key: str) -> ValidRequest:
        """Fill in defaults and refuse what this host can never serve; changes nothing.

        Raises:
            RequestRejected: 422 or 400 naming the field.
        """
        valid = self._admission.validate(request, renter_key)
        self.inventory.check_host(valid.limits)
        self.inventory.pick_devices(request.devices, [])
        return valid

    def is_in_flight(self, lease_id: LeaseId) -> bool:
        """Whether a request of this process is making the lease at this moment."""
        return lease_id in self._in_flight

    def _reserve(
        self,
        lease_id: LeaseId,
        request: AllocateRequest,
        valid: ValidRequest,
        renter_key: str,
        idempotency_key: str | None,
        consent: SignedStatement | None,
        address: str | None,
        *,
        may_be_warm: bool,
    ) -> Lease:
        def decide(leases: list[Lease]) -> Lease:
            if self._retries.earlier(request, renter_key, idempotency_key):
                # It was granted since the first look, by a request that came at the same moment.
                raise granted_meanwhile()
            self.inventory.check_free(valid.limits, renter_key, leases)
            lease = Lease(
                lease_id=lease_id,
                state=LeaseState.CREATING,
                renter_key=renter_key,
                limits=valid.limits,
                devices=self.inventory.pick_devices(request.devices, leases, self._proving()),
                image=valid.image,
                ssh_port=0,
                nonce=secrets.token_hex(32),
                created_unix_ms=self._clock.wall_unix_ms(),
                expiry=Expiry.after(self._clock, valid.ttl_seconds),
                has_password=valid.public_key is None,
                isolation=valid.isolation,
                idempotency_key=idempotency_key,
                request_digest=request_digest(request),
                consent=consent,
                address=address,
                private=self._place(request, renter_key, leases),
            )
            self._open_quota.check(lease, leases, self.inventory)
            if may_be_warm and (slot := fitting(lease, leases)):
                return become(slot, lease)
            return replace(lease, ssh_port=self.inventory.pick_port(leases, ()))

        return self.journal.reserve(decide)

    def _place(self, request: AllocateRequest, renter_key: str, leases: list[Lease]) -> PrivatePlace | None:
        name = request.private_network
        return None if name is None else choose_place(name, renter_key, leases)

    def _start(self, lease: Lease, public_key: str | None) -> Granted:
        try:
            # The row stands, so that no new proof begins on them.
            self._check_devices(lease.devices)
            self.events.open(lease)
            if lease.host_key is None:
                lease, started = self.run_on_free_port(lease, public_key)
                self._check_disk(lease)
            else:
                started = self.manager.hand_over(lease, public_key)
            self.events.started(lease, started.container_id, started.pid)
            password = self.leases.give_password(started.container_id) if lease.has_password else None
            self._reach("allocate.password")
            lease = self.journal.update(
                lease,
                also=self.leases.metering.begun(started.pid),
                state=LeaseState.ACTIVE,
                container_id=started.container_id,
                image_id=started.image_id,
                host_key=started.host_key,
                runtime=started.runtime,
                private=started.private,
            )
            self._reach("allocate.activated")
        except BaseException as err:
            self._release(lease)
            if isinstance(err, LimitNotApplied):
                raise Unavailable(f"the container was not handed out: {err}", retry_after_seconds=60) from err
            if isinstance(err, OSError):
                raise Unavailable(
                    f"the data directory cannot be written: {err.strerror}", retry_after_seconds=60
                ) from err
            raise
        logger.info(
            "lease granted",
            extra={"lease_id": lease.lease_id, "renter_key": lease.renter_key, "ssh_port": lease.ssh_port},
        )
        return Granted(lease, password, is_new=True)

    def _check_disk(self, lease: Lease) -> None:
        """Look again at what the host's disk has left, now that other nodes see this lease's part of it.

        Of two nodes that promise the same room at the same moment each has looked before the other's file was there.

        Raises:
            Unavailable: More is promised than there is.
        """
        if lease.limits.disk_bytes is None:
            return
        # What engine and journal wrote meanwhile is no promise of anybody's.
        missing = -self.inventory.free(self.journal.all()).disk_bytes - GRANULE_BYTES
        if missing > 0:
            raise Unavailable(
                f"{format_size(missing)} of the disk went to somebody else on this host while the lease was made",
                retry_after_seconds=10,
            )

    def run_on_free_port(self, lease: Lease, public_key: str | None) -> tuple[Lease, StartedContainer]:
        """Start the container of a row, on another port where something else listens on its own.

        Raises:
            LimitNotApplied: The kernel does not hold a limit.
            Unavailable: The engine, the image or sshd failed, or port after port is taken.
        """
        refused: set[int] = set()
        while True:
            try:
                return lease, self.manager.run_container(lease, public_key)
            except PortTaken as err:
                refused.add(lease.ssh_port)
                logger.warning("ssh port taken", extra={"lease_id": lease.lease_id, "ssh_port": lease.ssh_port})
                if len(refused) >= PORT_ATTEMPTS:
                    raise Unavailable(
                        f"the ssh ports {sorted(refused)} are taken by other programs; see docker.ssh_port_first",
                        retry_after_seconds=60,
                    ) from err
                lease = self.journal.move(lease, lambda leases: self.inventory.pick_port(leases, refused))

    def _release(self, lease: Lease) -> None:
        """Give a reservation back, unless something of it may still exist."""
        try:
            self.manager.stop_container(lease)
        except Unavailable:
            logger.warning("reservation kept until the engine answers", extra={"lease_id": lease.lease_id})
            return
        now_unix_ms = self._clock.wall_unix_ms()
        self.journal.forget(lease.lease_id, now_unix_ms, also=self.leases.metering.ended(now_unix_ms))
        self.manager.leave_private_network(lease)
        self.events.ended(lease.lease_id, Status.FAILED)
