"""What happens to a lease that was granted: found again, renewed, its login changed, and its end.

Rules:
- A key or an id of somebody else's is answered as if it did not exist.
- Who ends a lease first writes DELETING, in one transaction with the look at what it is; from then on nothing renews it.
- With it the lease's time ends: nothing that is counted later is allocated to its renter.
- Its container is stopped whoever holds the lease: what the tenant's programs do inside cannot put off the end. Nor does an
  engine that hangs: the first process is killed without it.
- "The engine cannot be asked" frees nothing: a row leaves only when the container is known to be gone.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace

from neurons.miner.admission import Admission, rejected
from neurons.miner.console import set_password
from neurons.miner.container import ContainerManager, StepObserver, reload_sshd
from neurons.miner.journal import Journal
from neurons.miner.lease import Expiry, Lease, LeaseId, LeaseState
from neurons.miner.lease_events import LeaseEvents
from neurons.miner.locks import WAIT_SECONDS, LeaseBusy, LeaseLocks
from neurons.miner.login import password_entry
from neurons.miner.metering import Metering
from neurons.miner.scrub import scrub as scrub_gpus
from polarise.errors import ErrorCode, RequestRejected, Unavailable
from polarise.ssh_keys import parse_public_key
from polarise.statement import SignedStatement
from polarise.usage import LOSS_TEXT, Loss, Usage
from polarise.usage import STATEMENT_KIND as USAGE
from utils.clock import Clock
from utils.docker_utils import check_engine

logger = logging.getLogger(__name__)

CONTAINER_ID_PATTERN = re.compile(r"[0-9a-f]{12,64}")


class RunningLeases:
    """The granted leases of one node.

    Args:
        manager: Runs the containers.
        journal: The node's leases.
        admission: Bounds of what a renewal may say, and whether there are passwords.
        events: Tells the agent about leases.
        metering: Counts what they use.
        clock: Wall and boot clock.
        reach: Called with the name of each step; tests end the process there.
        scrub: Overwrites the memory of GPUs before somebody else gets them.
    """

    def __init__(
        self,
        manager: ContainerManager,
        journal: Journal,
        admission: Admission,
        events: LeaseEvents,
        metering: Metering,
        clock: Clock,
        reach: StepObserver = lambda _step: None,
        scrub: Callable[[Sequence[str]], None] = scrub_gpus,
    ) -> None:
        self.manager = manager
        self.journal = journal
        self.events = events
        self.metering = metering
        self.locks = LeaseLocks()
        self._admission = admission
        self._clock = clock
        self._reach = reach
        self._scrub = scrub

    def of_container(self, container_id: str) -> Lease:
        """Return the active lease of a container id (or a prefix of 12 digits or more).

        Raises:
            RequestRejected: NOT_FOUND (404), also for anything that is no id at all.
        """
        lease = self.journal.by_container(container_id) if CONTAINER_ID_PATTERN.fullmatch(container_id) else None
        if lease is None or lease.state is not LeaseState.ACTIVE:
            raise not_found(container_id)
        return lease

    def usage_of(self, container_id: str, may_see: Callable[[str], bool]) -> SignedStatement:
        """Return what a lease has used: so far, or in all once it is over.

        Args:
            container_id: Its id, or a prefix of 12 digits or more.
            may_see: Whether the caller may see what the renter with this key holds.

        Raises:
            RequestRejected: NOT_FOUND (404), also where it is forgotten.
            Unavailable: Nothing was counted yet.
        """
        if CONTAINER_ID_PATTERN.fullmatch(container_id):
            lease = self.journal.by_container(container_id)
            # A slot is nobody's: nothing of it is counted.
            if lease is not None and not lease.is_slot and may_see(lease.renter_key):
                if (usage := self.metering.now(lease)) is None:
                    raise Unavailable("nothing was counted yet", retry_after_seconds=5)
                return usage
            over = self.metering.book.final_of_container(container_id)
            if over is not None and may_see(over[0]):
                return over[1]
        raise not_found(container_id)

    def loss_of(self, container_id: str, may_see: Callable[[str], bool]) -> Loss | None:
        """Return why a lease that is over was lost; None for one that ended otherwise, runs, or is not the caller's."""
        if not CONTAINER_ID_PATTERN.fullmatch(container_id):
            return None
        over = self.metering.book.final_of_container(container_id)
        return over[1].open(USAGE, Usage).lost if over is not None and may_see(over[0]) else None

    def renew(self, lease: Lease, ttl_seconds: int | None) -> Lease:
        """Let a lease end ``ttl_seconds`` from now; as often as its renter likes.

        Raises:
            RequestRejected: The time is out of bounds, or the lease has just ended.
        """
        ttl = self._admission.ttl_seconds(ttl_seconds)

        def decide(found: Lease) -> Lease:
            if found.state is not LeaseState.ACTIVE or found.expiry.remaining_ms(self._clock) <= 0:
                raise not_found(lease.container_id or "")
            # The receipt that was countersigned is not the newest any more.
            return replace(found, expiry=Expiry.after(self._clock, ttl), countersigned=None)

        renewed = self.journal.change(lease.lease_id, decide)
        if renewed is None:
            raise not_found(lease.container_id or "")
        return renewed

    def set_public_key(self, lease: Lease, public_key: str) -> None:
        """Let only this key log in from now on, and no password; open sessions live.

        Raises:
            RequestRejected: KEY_REFUSED.
            Unavailable: The lease is busy, or its container does not run.
        """
        line = parse_public_key(public_key)
        with self.locks.holding(lease.lease_id):
            lease = self._current(lease)
            if lease.has_password:
                # Asked first: an answer of 503 is no change, and one that hangs holds this thread for seconds only.
                check_engine(self.manager.client)
            files = self.manager.login_files(lease.lease_id)
            files.set_public_key(line)
            if lease.has_password:
                files.set_password_login(is_on=False)
                reload_sshd(self.manager.client, str(lease.container_id))
                self.journal.update(lease, has_password=False)

    def new_password(self, lease: Lease) -> str:
        """Turn password login on with a fresh password, which replaces the old one at once.

        Raises:
            RequestRejected: NOT_SUPPORTED, this miner gives no passwords, or this lease has none.
            Unavailable: The lease is busy, its container does not run, or a program in it does not do its work.
        """
        if not self._admission.defaults.password_login:
            raise rejected(
                ErrorCode.NOT_SUPPORTED, "ssh_password", "this miner gives no passwords", "use PUT .../ssh-key"
            )
        if lease.isolation == "strict":
            raise rejected(
                ErrorCode.NOT_SUPPORTED, "ssh_password", "a strict lease has no password", "use PUT .../ssh-key"
            )
        with self.locks.holding(lease.lease_id):
            lease = self._current(lease)
            check_engine(self.manager.client)
            password = self.give_password(str(lease.container_id))
            if not lease.has_password:
                self.manager.login_files(lease.lease_id).set_password_login(is_on=True)
                reload_sshd(self.manager.client, str(lease.container_id))
                self.journal.update(lease, has_password=True)
        return password

    def give_password(self, container_id: str) -> str:
        """Replace the password inside a container and return it; it is kept nowhere.

        Raises:
            Unavailable: As `new_password`.
        """
        password = secrets.token_urlsafe(18)
        set_password(self.manager.client, container_id, password_entry(password))
        return password

    def terminate(self, lease: Lease, *, lost: Loss | None = None) -> None:
        """End a lease: the container is killed, which cuts open connections, and all traces are removed.

        What the engine keeps from being removed now, `reconcile` removes when it answers.

        Args:
            lease: Which.
            lost: As `end`.

        Raises:
            Unavailable: The end cannot be written down; or it is, and the container may run until the engine answers.
        """
        ending = self._begin_end(lease, lost)
        if ending is None:
            return
        self.metering.read_last(ending)
        is_killed = self.metering.kill(ending)
        try:
            self._finish_end(ending, wait_seconds=WAIT_SECONDS)
        except Unavailable as err:
            if not is_killed and not self.metering.is_gone(ending):
                raise Unavailable(
                    f"the lease is over and counts no more; its container goes when it can: {err.message}",
                    retry_after_seconds=err.retry_after_seconds,
                ) from err
            logger.warning("lease ended, its removal waits", extra={"lease_id": lease.lease_id, "cause": err.message})

    def cut(self, lease: Lease, *, lost: Loss) -> Lease | None:
        """Write down that a lease is over and kill its first process, without the engine; `end` removes what is left.

        Returns:
            The lease as it is now; None when it is gone.

        Raises:
            Unavailable: The end cannot be written down; its first process is killed all the same.
        """
        try:
            ending = self._begin_end(lease, lost)
            if ending is not None:
                self.metering.read_last(ending)
        finally:
            self.metering.kill(lease)
        return ending

    def end(self, lease: Lease, *, lost: Loss | None = None) -> None:
        """End a lease now, whoever holds it; what its holder keeps from being removed, `reconcile` removes later.

        Args:
            lease: Which.
            lost: Why it ends, where nobody ended it; its last usage statement says so.

        Raises:
            Unavailable: The engine cannot be asked; the lease stays DELETING and is finished later.
        """
        ending = self._begin_end(lease, lost)
        if ending is not None:
            self._finish_end(ending, wait_seconds=0.0)

    def _begin_end(self, lease: Lease, lost: Loss | None = None) -> Lease | None:
        """Write DELETING and the end of the lease's time; None when the lease is gone."""

        def decide(found: Lease) -> Lease:
            return replace(
                found,
                state=LeaseState.DELETING,
                expiry=found.expiry.now_at_latest(self._clock),
                lost=lost if found.state is LeaseState.ACTIVE else found.lost,
            )

        ending = self.journal.change(lease.lease_id, decide)
        if ending is not None:
            self._reach("terminate.journaled")
        return ending

    def _finish_end(self, ending: Lease, *, wait_seconds: float) -> None:
        try:
            self.clean_up(ending)
        except LeaseBusy:
            # The holder works inside the container, and comes to its end with it.
            self.kill(ending)
            try:
                self.clean_up(ending, wait_seconds=wait_seconds)
            except LeaseBusy:
                logger.info("lease ended, its holder delays the removal", extra={"lease_id": ending.lease_id})

    def kill(self, lease: Lease) -> None:
        """Count for the last time and kill whatever runs for the lease, which cuts open connections.

        Raises:
            Unavailable: The engine cannot be asked, and its first process is not known or not ours to kill.
        """
        self.metering.read_last(lease)
        # An engine that hangs keeps nobody logged in.
        if not self.metering.kill(lease):
            self.manager.kill(lease)

    def claim_expired(self, lease_id: LeaseId) -> Lease | None:
        """Turn an active lease whose time is over to DELETING and return it; None when there is none (any more)."""

        def decide(found: Lease) -> Lease | None:
            is_due = found.state is LeaseState.ACTIVE and found.expiry.remaining_ms(self._clock) <= 0
            return replace(found, state=LeaseState.DELETING) if is_due else None

        claimed = self.journal.change(lease_id, decide)
        if claimed is not None:
            logger.info("lease expired", extra={"lease_id": lease_id})
        return claimed

    def clean_up(self, lease: Lease, *, wait_seconds: float = 0.0) -> None:
        """Remove container, folder and row of a lease that nobody can use any more.

        Raises:
            LeaseBusy: Somebody still works on it.
            Unavailable: The engine cannot be asked, or a GPU's memory is not clean yet; reconcile goes on.
        """
        with self.locks.holding(lease.lease_id, wait_seconds):
            if self.journal.by_id(lease.lease_id) is None:
                return
            self.metering.read_last(lease)
            self.manager.stop_container(lease)
            now_unix_ms = self._clock.wall_unix_ms()
            self._scrub(lease.devices)
            self.journal.forget(lease.lease_id, now_unix_ms, also=self.metering.ended(now_unix_ms))
            self._reach("terminate.forgotten")
            self.manager.leave_private_network(lease)
            self.events.ended(lease.lease_id)
        logger.info("lease ended", extra={"lease_id": lease.lease_id})

    def _current(self, lease: Lease) -> Lease:
        """Return the lease as the journal has it now."""
        found = self.journal.by_id(lease.lease_id)
        if found is None or found.state is not LeaseState.ACTIVE:
            raise not_found(lease.container_id or "")
        return found


def not_found(container_id: str, loss: Loss | None = None) -> RequestRejected:
    """Return the answer for an id that is not the caller's, not active, or no id at all; or why the lease was lost."""
    because = "" if loss is None else f" any more: {LOSS_TEXT[loss]}"
    return RequestRejected(
        ErrorCode.NOT_FOUND,
        f"you have no container {container_id[:64]!r} here{because}",
        hint="GET /containers lists yours" if loss is None else "GET /containers/{id}/usage has its last statement",
        field="container_id",
        status=404,
    )
