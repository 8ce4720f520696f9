"""A lease's way through the event plane, with both sides failing in between."""

from __future__ import annotations

import os
import uuid

import pytest

from neurons.miner.lease import Expiry, Lease, LeaseId, LeaseState
from neurons.miner.lease_events import LeaseEvents
from polarise.errors import Unavailable
from polarise.receipt import Limits
from tests.unit.neurons.agent.agent_process import LEASE, RENTER, AgentProcess
from tests.unit.neurons.agent.test_agent import OTHER_LEASE, verified_events


def lease_of(lease_id: str) -> Lease:
    return Lease(
        lease_id=LeaseId(lease_id),
        state=LeaseState.ACTIVE,
        renter_key=RENTER,
        limits=Limits(memory_bytes=1, swap_bytes=0, cpu_milli=1000, pids_count=10, shm_bytes=1),
        devices=(),
        image="image",
        ssh_port=20_000,
        nonce="00" * 32,
        created_unix_ms=0,
        expiry=Expiry(0, 0, ""),
    )


def test_a_lease_leaves_its_steps_in_the_system_stream(agent: AgentProcess) -> None:
    events, lease = LeaseEvents(agent.client), lease_of(LEASE)
    events.open(lease)
    events.open(lease)
    mount = events.mount(lease)
    assert (mount["Target"], mount["ReadOnly"]) == ("/run/polarise", True)
    assert sorted(os.listdir(mount["Source"])) == ["events.py", "events.sock"]
    events.ended(lease.lease_id)
    events.ended(lease.lease_id)
    steps = [event for event in verified_events(agent.client, "system") if event.kind == "action.status"]
    assert [event.payload["status"] for event in steps] == ["INITIALIZING", "SUCCEEDED"]
    assert {event.action_id for event in steps} == {str(uuid.UUID(LEASE))}
    assert RENTER not in str(steps)


def test_no_lease_begins_without_the_agent_and_each_may_end_without_it(agent: AgentProcess) -> None:
    events, lease = LeaseEvents(agent.client), lease_of(LEASE)
    events.open(lease)
    agent.kill()
    with pytest.raises(Unavailable):
        events.open(lease_of(OTHER_LEASE))
    events.ended(lease.lease_id)
    agent.start()
    assert agent.client.open_streams() == (LEASE,)
    events.settle(lambda: [lease_of(OTHER_LEASE)])
    assert agent.client.open_streams() == (OTHER_LEASE,)
    events.settle(lambda: [lease_of(OTHER_LEASE), lease])
    assert agent.client.open_streams() == (OTHER_LEASE,)
