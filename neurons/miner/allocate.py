"""From a request to a lease and back: reserve, journal, start, hand out, renew, end.

Rules:
- Nothing is handed out before the banner was read and every limit was read back from the kernel.
- A failure releases the reservation in the function that took it.
- "The engine cannot be asked" frees nothing: a lease ends only when its container is known to be gone.
- A key or an id of somebody else's is answered as if it did not exist.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from neurons.miner.admission import Admission, ValidRequest, rejected
from neurons.miner.console import set_password
from neurons.miner.container import (
    ContainerManager,
    LimitNotApplied,
    PortTaken,
    StartedContainer,
    StepObserver,
    signal_container,
)
from neurons.miner.inventory import Inventory
from neurons.miner.journal import Journal
from neurons.miner.lease import Expiry, Lease, LeaseId, LeaseState
from neurons.miner.lease_events import LeaseEvents
from neurons.miner.login import password_entry
from polarise.canonical import digest_hex
from polarise.errors import ErrorCode, RequestRejected, Unavailable
from polarise.messages import AllocateRequest
from polarise.payloads import Status
from polarise.ssh_keys import parse_public_key
from utils.clock import Clock

logger = logging.getLogger(__name__)

CONTAINER_ID_PATTERN = re.compile(r"[0-9a-f]{12,64}")
IDEMPOTENCY_PATTERN = re.compile(r"[A-Za-z0-9_\-]{1,64}")
PORT_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease with the password that is shown once."""

    lease: Lease
    password: str | None


class ResourceAllocator:
    """Grants and ends leases.

    Args:
        manager: Runs the containers.
        journal: The node's leases.
        inventory: What is for lease.
        admission: Fills in what a request leaves out, and checks the rest.
        events: Tells the agent about leases.
        clock: Wall and boot clock.
        reach: Called with the name of each step; tests end the process there.
    """

    def __init__(
        self,
        manager: ContainerManager,
        journal: Journal,
        inventory: Inventory,
        admission: Admission,
        events: LeaseEvents,
        clock: Clock,
        reach: StepObserver = lambda _step: None,
    ) -> None:
        self.manager = manager
        self.journal = journal
        self.inventory = inventory
        self.events = events
        self._admission = admission
        self._clock = clock
        self._reach = reach
        self._locks: dict[LeaseId, threading.RLock] = {}
        self._locks_guard = threading.Lock()
        self._in_flight: set[LeaseId] = set()

    def allocate_resources(
        self, request: AllocateRequest, renter_key: str, idempotency_key: str | None = None
    ) -> Granted:
        """Grant a lease.

        Args:
            request: What is wanted.
            renter_key: Who will hold it.
            idempotency_key: A retry with the same key returns the lease of the first try, without its password.

        Raises:
            RequestRejected: The request is wrong, or does not fit; nothing changed.
            Unavailable: The engine, the image or sshd failed; the reservation is released.
        """
        if earlier := self._earlier(request, renter_key, idempotency_key):
            return Granted(earlier, None)
        valid = self.validate_resources(request, renter_key)
        lease_id = LeaseId(secrets.token_hex(16))
        # Marked before the row can be seen, so that a reconcile at this moment leaves it alone.
        self._in_flight.add(lease_id)
        try:
            lease = self._reserve(lease_id, request, valid, renter_key, idempotency_key)
            self._reach("allocate.reserved")
            return self._start(lease, valid.public_key)
        finally:
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

    def renew(self, lease: Lease, ttl_seconds: int | None) -> Lease:
        """Let a lease end ``ttl_seconds`` from now.

        Raises:
            RequestRejected: The time is out of bounds, or the lease has just ended.
        """
        ttl = self._admission.ttl_seconds(ttl_seconds)
        with self.holding(lease.lease_id):
            lease = self.current(lease)
            if lease.expiry.remaining_ms(self._clock) <= 0:
                raise not_found(lease.container_id or "")
            return self.journal.update(lease, expiry=Expiry.after(self._clock, ttl))

    def set_public_key(self, lease: Lease, public_key: str) -> None:
        """Let only this key log in from now on; open sessions live.

        Raises:
            RequestRejected: KEY_REFUSED.
        """
        line = parse_public_key(public_key)
        with self.holding(lease.lease_id):
            self.manager.login_files(self.current(lease).lease_id).set_public_key(line)

    def new_password(self, lease: Lease) -> str:
        """Turn password login on with a fresh password, which replaces the old one at once.

        Raises:
            RequestRejected: NOT_SUPPORTED, this miner gives no passwords.
            Unavailable: The engine does not answer.
        """
        if not self._admission.defaults.password_login:
            raise rejected(
                ErrorCode.NOT_SUPPORTED, "ssh_password", "this miner gives no passwords", "use PUT .../ssh-key"
            )
        with self.holding(lease.lease_id):
            lease = self.current(lease)
            password = self._set_password(str(lease.container_id))
            if not lease.has_password:
                self.manager.login_files(lease.lease_id).set_password_login(is_on=True)
                signal_container(self.manager.client, str(lease.container_id), "SIGHUP")
                self.journal.update(lease, has_password=True)
        return password

    def terminate(self, lease: Lease) -> None:
        """End a lease: the container is killed, which cuts open connections, and all traces are removed.

        Raises:
            Unavailable: The engine cannot be asked; the lease stays DELETING and is finished later.
        """
        with self.holding(lease.lease_id):
            found = self.journal.by_id(lease.lease_id)
            if found is None:
                return
            if found.state is not LeaseState.DELETING:
                found = self.journal.update(found, state=LeaseState.DELETING)
            self._reach("terminate.journaled")
            self.manager.stop_container(found)
            self.journal.forget(found.lease_id)
            self.events.ended(found.lease_id)
        with self._locks_guard:
            self._locks.pop(lease.lease_id, None)
        logger.info("lease ended", extra={"lease_id": lease.lease_id})

    def lease_of(self, container_id: str) -> Lease:
        """Return the active lease of a container id (or a prefix of 12 digits or more).

        Raises:
            RequestRejected: NOT_FOUND (404), also for anything that is no id at all.
        """
        lease = self.journal.by_container(container_id) if CONTAINER_ID_PATTERN.fullmatch(container_id) else None
        if lease is None or lease.state is not LeaseState.ACTIVE:
            raise not_found(container_id)
        return lease

    def current(self, lease: Lease) -> Lease:
        """Return the lease as the journal has it now; call it while holding the lease.

        Raises:
            RequestRejected: NOT_FOUND (404), it ended meanwhile.
        """
        found = self.journal.by_id(lease.lease_id)
        if found is None or found.state is not LeaseState.ACTIVE:
            raise not_found(lease.container_id or "")
        return found

    @contextlib.contextmanager
    def holding(self, lease_id: LeaseId) -> Iterator[None]:
        """Keep everybody else's hands off one lease."""
        with self._locks_guard:
            lock = self._locks.setdefault(lease_id, threading.RLock())
        with lock:
            yield

    def is_in_flight(self, lease_id: LeaseId) -> bool:
        """Whether a request of this process is making the lease at this moment."""
        return lease_id in self._in_flight

    def _earlier(self, request: AllocateRequest, renter_key: str, idempotency_key: str | None) -> Lease | None:
        if idempotency_key is None:
            return None
        if not IDEMPOTENCY_PATTERN.fullmatch(idempotency_key):
            raise rejected(
                ErrorCode.INVALID_FIELD, "Idempotency-Key", "not a usable key", "1 to 64 letters, digits, _ or -"
            )
        lease = self.journal.by_idempotency_key(renter_key, idempotency_key)
        if lease is None:
            return None
        if lease.request_digest != _digest(request):
            raise _conflict("the Idempotency-Key was used for another request", "use a fresh key for a new request")
        if lease.state is not LeaseState.ACTIVE:
            raise _conflict(f"the first request with this key is {lease.state}", "try again in a few seconds")
        return lease

    def _reserve(
        self,
        lease_id: LeaseId,
        request: AllocateRequest,
        valid: ValidRequest,
        renter_key: str,
        idempotency_key: str | None,
    ) -> Lease:
        def decide(leases: list[Lease]) -> Lease:
            if idempotency_key and any(
                (row.renter_key, row.idempotency_key) == (renter_key, idempotency_key) for row in leases
            ):
                raise _conflict("the first request with this key is at work", "try again in a few seconds")
            self.inventory.check_free(valid.limits, renter_key, leases)
            return Lease(
                lease_id=lease_id,
                state=LeaseState.CREATING,
                renter_key=renter_key,
                limits=valid.limits,
                devices=self.inventory.pick_devices(request.devices, leases),
                image=valid.image,
                ssh_port=self.inventory.pick_port(leases, ()),
                nonce=secrets.token_hex(32),
                created_unix_ms=self._clock.wall_unix_ms(),
                expiry=Expiry.after(self._clock, valid.ttl_seconds),
                has_password=valid.public_key is None,
                idempotency_key=idempotency_key,
                request_digest=_digest(request),
            )

        return self.journal.reserve(decide)

    def _start(self, lease: Lease, public_key: str | None) -> Granted:
        try:
            self.events.open(lease)
            lease, started = self._run_on_free_port(lease, public_key)
            self.events.started(lease, started.container_id, started.pid)
            password = self._set_password(started.container_id) if lease.has_password else None
            self._reach("allocate.password")
            lease = self.journal.update(
                lease,
                state=LeaseState.ACTIVE,
                container_id=started.container_id,
                image_id=started.image_id,
                host_key=started.host_key,
            )
            self._reach("allocate.activated")
        except BaseException as err:
            self._release(lease)
            if isinstance(err, LimitNotApplied):
                raise Unavailable(f"the container was not handed out: {err}", retry_after_seconds=60) from err
            raise
        logger.info(
            "lease granted",
            extra={"lease_id": lease.lease_id, "renter_key": lease.renter_key, "ssh_port": lease.ssh_port},
        )
        return Granted(lease, password)

    def _run_on_free_port(self, lease: Lease, public_key: str | None) -> tuple[Lease, StartedContainer]:
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
        self.journal.forget(lease.lease_id)
        self.events.ended(lease.lease_id, Status.FAILED)

    def _set_password(self, container_id: str) -> str:
        password = secrets.token_urlsafe(18)
        set_password(self.manager.client, container_id, password_entry(password))
        return password


def not_found(container_id: str) -> RequestRejected:
    """Return the answer for an id that is not the caller's, not active, or no id at all."""
    return RequestRejected(
        ErrorCode.NOT_FOUND,
        f"you have no container {container_id[:64]!r} here",
        hint="GET /containers lists yours",
        field="container_id",
        status=404,
    )


def _digest(request: AllocateRequest) -> str:
    return digest_hex(request.to_wire())


def _conflict(message: str, hint: str) -> RequestRejected:
    return RequestRejected(ErrorCode.CONFLICT, message, hint=hint, field="Idempotency-Key", status=409)
