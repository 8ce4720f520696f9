"""A lease as the event plane sees it: its stream is opened before its container, and closed after it.

Rules:
- No container is made without its stream: an agent that is away makes allocating unavailable, never a lease mute.
- Ending never waits for the agent: what could not be told is told by `settle`, which runs with every reconcile.
- The system stream learns that an action began and ended, by the lease's id; who holds it stays in the lease's stream.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable

from docker.types import Mount

from neurons.base.agent_client import MOUNT, AgentClient
from neurons.miner.lease import Lease, LeaseId
from polarise.canonical import JsonValue
from polarise.errors import RequestRejected, Unavailable
from polarise.payloads import Status
from polarise.statement import SignedStatement
from polarise.stream import SYSTEM
from polarise.usage import LOSS_TEXT, Usage
from polarise.usage import STATEMENT_KIND as USAGE

logger = logging.getLogger(__name__)

MESSAGE_CHARACTERS_MAX = 500


class LeaseEvents:
    """Tells the agent about leases.

    Args:
        agent: The agent of this node.
        on_ended: Called with a lease's id when its stream has got its last line.
        usage_of: Returns the final usage statement of a lease, which is that last line; None where there is none.
    """

    def __init__(
        self,
        agent: AgentClient,
        on_ended: Callable[[str], None] = lambda _lease_id: None,
        usage_of: Callable[[str], SignedStatement | None] = lambda _lease_id: None,
    ) -> None:
        self._agent = agent
        self._on_ended = on_ended
        self._usage_of = usage_of

    def open(self, lease: Lease) -> None:
        """Open the stream and the socket of a lease that is about to get its container.

        Raises:
            Unavailable: The agent is away.
        """
        self._agent.open_stream(lease.lease_id, lease.renter_key, lease.devices)
        self._agent.append([_status(lease.lease_id, Status.INITIALIZING, "container is being made")])

    def open_slot(self, slot: Lease) -> None:
        """Open the stream and the socket of a container that waits for its renter; nobody is told of it.

        Raises:
            Unavailable: The agent is away.
        """
        self._agent.open_stream(slot.lease_id, slot.renter_key)

    def drop_slot(self, slot: Lease) -> None:
        """Close the stream of a slot that nobody got; call it when its row is gone from the journal."""
        try:
            self._agent.close_stream(slot.lease_id)
        except Unavailable as err:
            logger.warning("the agent is told later", extra={"lease_id": slot.lease_id, "cause": err.message})

    def mount(self, lease: Lease) -> Mount:
        """Return what puts the socket's folder into the container; the folder is there once `open` returned."""
        return Mount(MOUNT, str(self._agent.events_folder(lease.lease_id)), type="bind", read_only=True)

    def started(self, lease: Lease, container_id: str, pid: int) -> None:
        """Sample the container, whose first process has this process id on the host.

        Raises:
            Unavailable: The agent is away.
        """
        self._agent.watch(lease.lease_id, container_id, pid)
        self._agent.append([_status(lease.lease_id, Status.RUNNING, "lease granted")])

    def ended(self, lease_id: LeaseId, status: Status = Status.SUCCEEDED) -> None:
        """Say that nothing is left of a lease; call it when its row is gone from the journal.

        Args:
            lease_id: Which.
            status: FAILED for a lease that nobody ever got.
        """
        try:
            message = self._last_word(lease_id) if status is Status.SUCCEEDED else "lease was not granted"
            self._agent.append([_status(lease_id, status, message)])
            self._tell_usage(lease_id)
            self._agent.close_stream(lease_id)
            self._on_ended(lease_id)
        except Unavailable as err:
            logger.warning("the agent is told later", extra={"lease_id": lease_id, "cause": err.message})

    def _last_word(self, lease_id: LeaseId) -> str:
        usage = self._usage_of(lease_id)
        lost = None if usage is None else usage.open(USAGE, Usage).lost
        return "lease ended" if lost is None else f"lease ended: {LOSS_TEXT[lost]}"

    def _tell_usage(self, lease_id: LeaseId) -> None:
        if (usage := self._usage_of(lease_id)) is None:
            return
        # The same name again is the same line: a retry adds nothing.
        message_id = str(uuid.uuid5(uuid.UUID(lease_id), "usage"))
        event: dict[str, JsonValue] = {
            "message_id": message_id,
            "kind": "allocation.usage",
            "payload": {"usage": usage.to_wire()},
        }
        try:
            self._agent.append([event], lease_id)
        except RequestRejected as err:
            # The stream was closed by an earlier try.
            logger.debug("usage is in the stream already", extra={"lease_id": lease_id, "cause": err.message})

    def tell_firewall(self, leases: Iterable[Lease], cause: str | None) -> None:
        """Tell the machine's stream and those of all leases that the packet filter is lost, or holds again.

        Args:
            leases: Everything in the journal.
            cause: Why it is lost; None when it holds again.
        """
        alert: dict[str, JsonValue] = {
            "kind": "alert.cleared" if cause is None else "alert.raised",
            "payload": {
                "alert": "firewall",
                "subject": "host",
                "value": None,
                "limit": None,
                "message": "the packet filter holds" if cause is None else cause[:MESSAGE_CHARACTERS_MAX],
            },
        }
        for stream_id in (SYSTEM, *(lease.lease_id for lease in leases)):
            try:
                self._agent.append([alert], stream_id)
            except (Unavailable, RequestRejected) as err:
                logger.warning("an alert was not told", extra={"stream": stream_id, "cause": err.message})

    def settle(self, read_leases: Callable[[], Iterable[Lease]]) -> None:
        """After a crash of either side: close the streams of leases that are no more, open those that are missing.

        Args:
            read_leases: Returns everything in the journal. It is asked after the agent, so that a lease made in between
                is never taken for one that has ended.
        """
        try:
            present = set(self._agent.open_streams())
            wanted = {lease.lease_id: lease for lease in read_leases()}
            for lease_id in present - wanted.keys():
                self.ended(LeaseId(lease_id))
            for lease_id in wanted.keys() - present:
                self._reopen(wanted[lease_id])
        except Unavailable as err:
            logger.warning("the agent does not answer", extra={"cause": err.message})

    def _reopen(self, lease: Lease) -> None:
        try:
            self._agent.open_stream(lease.lease_id, lease.renter_key, lease.devices)
        except RequestRejected as err:
            # It was closed already: the lease is on its way out as well.
            logger.debug("stream stays closed", extra={"lease_id": lease.lease_id, "cause": err.message})


def _status(lease_id: str, status: Status, message: str) -> dict[str, JsonValue]:
    action_id = uuid.UUID(lease_id)
    return {
        # The same words again are the same message: a retry adds nothing.
        "message_id": str(uuid.uuid5(action_id, str(status))),
        "action_id": str(action_id),
        "kind": "action.status",
        "payload": {"status": str(status), "message": message},
    }
