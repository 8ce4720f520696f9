"""``kill -9`` of the miner at every named step; after a restart, journal, labels, folders and engine agree.

The miner runs in a process of its own, with the hook that real crashes need not announce: it kills itself at a step.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurons.miner.drain import Drain
from neurons.miner.journal import Journal
from neurons.miner.slots import slots_of
from polarise.clients import MinerClient
from polarise.errors import ErrorCode, Unavailable
from polarise.messages import AllocateRequest
from polarise.receipt import Receipt
from polarise.signing import Identity
from polarise.ssh_keys import generate_key_pair
from polarise.telemetry_client import TelemetryClient
from polarise.usage import Usage
from tests.support.engine import engine, remove_everything_of
from tests.support.identities import People
from tests.support.machine import Machine
from tests.support.miners import can_connect, miner_config, wait_until
from tests.support.ssh import Login
from tests.support.worker import free_port

pytestmark = [pytest.mark.docker, pytest.mark.e2e]

ALLOCATE_STEPS = (
    *("reserved", "files", "created", "started", "greeted", "password", "activated"),
    *(pytest.param(step, marks=pytest.mark.disk) for step in ("disk_file", "disk_mounted", "disk_key", "disk")),
)
# Of a lease that is made of a warm slot.
WARM_STEPS = ("reserved", "updated", "handed-over", "activated")
TERMINATE_STEPS = (
    "journaled",
    "removed",
    pytest.param("disk_unmounted", marks=pytest.mark.disk),
    "files",
    "forgotten",
)


@pytest.fixture(name="machine")
def machine_of_one_miner(people: People, node_identity: Identity, tmp_path: Path) -> Iterator[Machine]:
    config = miner_config(people, network={"port": free_port()})
    machine = Machine(people, node_identity, tmp_path / "node", config)
    yield machine
    remove_everything_of(node_identity.public_key[:12])


@pytest.mark.parametrize("step", ALLOCATE_STEPS)
def test_killed_while_allocating(machine: Machine, step: str) -> None:
    """Until the lease is ACTIVE nobody has it, so it goes; from then on it stays, and a retry finds it."""
    wanted = AllocateRequest()
    with machine.process(crash_at=f"allocate.{step}") as process:
        with pytest.raises(Unavailable):
            machine.client(process).allocate(wanted, idempotency_key="retry")
        process.wait_killed()
    with machine.process() as process:
        client = machine.client(process)
        if step == "activated":
            (view,) = client.containers()
            machine.assert_one_lease(view.container_id)
            assert client.allocate(wanted, idempotency_key="retry").container_id == view.container_id
        else:
            machine.assert_empty()
            assert client.containers() == ()
        answer = client.allocate(wanted, idempotency_key="retry")
        machine.assert_one_lease(answer.container_id)
        client.terminate(answer.container_id)
        machine.assert_empty()
        assert process.terminate() == 0


@pytest.mark.parametrize("step", WARM_STEPS)
def test_killed_while_a_slot_becomes_a_lease(machine: Machine, step: str) -> None:
    """In its next life the miner keeps no slots, so that everything there is of the lease or is left over."""
    cold = machine.config
    machine.config = miner_config(machine.people, network={"port": cold.network.port}, docker={"warm_slots": 1})
    with machine.process(crash_at=f"allocate.{step}") as process:
        with Journal(machine.data_dir / "journal.sqlite") as journal:
            wait_until(lambda: bool(slots_of(journal.all())), 30, "no slot is ready")
        with pytest.raises(Unavailable):
            machine.client(process).allocate(AllocateRequest(), idempotency_key="retry")
        process.wait_killed()
    machine.config = cold
    with machine.process() as process:
        client = machine.client(process)
        if step == "activated":
            (view,) = client.containers()
            machine.assert_one_lease(view.container_id)
        else:
            machine.assert_empty()
        answer = client.allocate(AllocateRequest(), idempotency_key="retry")
        machine.assert_one_lease(answer.container_id)
        client.terminate(answer.container_id)
        machine.assert_empty()


@pytest.mark.parametrize("step", TERMINATE_STEPS)
def test_killed_while_terminating(machine: Machine, step: str) -> None:
    with machine.process(crash_at=f"terminate.{step}") as process:
        client = machine.client(process)
        answer = client.allocate(AllocateRequest())
        with pytest.raises(Unavailable):
            client.terminate(answer.container_id)
        process.wait_killed()
    with machine.process() as process:
        machine.assert_empty()
        client = machine.client(process)
        assert client.containers() == ()
        assert not can_connect(answer.ssh_port)
        # One final statement, and one line of it in the lease's log, whoever wrote it.
        usage = client.usage(answer.container_id).open("usage", Usage)
        assert usage.is_final
        lines = TelemetryClient(process.url, machine.identity.public_key, machine.people.renter).events(
            usage.lease_id, 0
        )
        assert sum("allocation.usage" in line for line in lines.lines) == 1
        assert process.terminate() == 0


def test_open_connection_survives_a_killed_and_restarted_miner_and_expiry_still_cuts_it(
    machine: Machine, tmp_path: Path
) -> None:
    private, public = generate_key_pair()
    with machine.process() as process:
        answer = machine.client(process).allocate(AllocateRequest(ssh_public_key=public))
        login = Login.to(answer, tmp_path, private_key=private)
        with login.session() as session:
            shell = session.ask("echo $$")
            process.kill()
            assert session.ask("echo $$") == shell
            with machine.process() as restarted:
                assert session.ask("echo $$") == shell
                assert login.output("echo another") == "another"
                machine.assert_one_lease(answer.container_id)
                renewed = machine.client(restarted).renew(answer.container_id, 3)
                expires = renewed.receipt.open("receipt", Receipt).expires_unix_ms / 1000
                session.wait_cut(15)
                assert -0.1 < time.time() - expires < 3
                wait_until(lambda: machine.state() == ([], [], [], []), 10, "something is left")
                assert restarted.terminate() == 0


def test_lease_that_expired_while_the_miner_was_dead_is_ended_before_the_port_opens(machine: Machine) -> None:
    with machine.process() as process:
        answer = machine.client(process).allocate(AllocateRequest(ttl_seconds=2))
        process.kill()
    expires = answer.receipt.open("receipt", Receipt).expires_unix_ms / 1000
    wait_until(lambda: time.time() > expires, 10, "time stands still")
    assert can_connect(answer.ssh_port)
    with machine.process() as process:
        machine.assert_empty()
        assert process.terminate() == 0


def test_sigterm_ends_with_status_0_keeps_the_leases_and_closes_open_streams(machine: Machine) -> None:
    with machine.process() as process:
        client = machine.client(process)
        answer = client.allocate(AllocateRequest())
        with client.logs(answer.container_id, follow=True):
            began = time.monotonic()
            assert process.terminate() == 0
            assert time.monotonic() - began < 10
        machine.assert_one_lease(answer.container_id)
    with machine.process() as process:
        machine.client(process).terminate(answer.container_id)
        machine.assert_empty()


def test_upgrade_with_a_lease_cuts_no_session_and_loses_no_lease(machine: Machine, tmp_path: Path) -> None:
    """Drained, stopped, started, opened again: what an operator does for a new version."""
    private, public = generate_key_pair()
    drain = Drain(machine.data_dir)
    with machine.process() as process:
        answer = machine.client(process).allocate(AllocateRequest(ssh_public_key=public))
        login = Login.to(answer, tmp_path, private_key=private)
        with login.session() as session:
            shell = session.ask("echo $$")
            drain.switch(on=True)
            assert process.terminate() == 0
            assert session.ask("echo $$") == shell
            with machine.process() as restarted:
                client = machine.client(restarted)
                assert session.ask("echo $$") == shell
                assert client.renew(answer.container_id).container_id == answer.container_id
                with pytest.raises(Unavailable) as caught:
                    client.allocate(AllocateRequest())
                assert caught.value.code is ErrorCode.DRAINING
                drain.switch(on=False)
                second = client.allocate(AllocateRequest())
                client.terminate(second.container_id)
                machine.assert_one_lease(answer.container_id)
                client.terminate(answer.container_id)
                session.wait_cut(5)
                machine.assert_empty()
                assert restarted.terminate() == 0


def test_sigterm_ends_a_miner_whose_tenant_hangs_a_request(machine: Machine) -> None:
    with machine.process() as process:
        answer = machine.client(process).allocate(AllocateRequest())
        with engine() as client:
            hanging = "printf '#!/bin/sh\\nwhile :; do echo x; sleep 1; done\\n' > /usr/sbin/chpasswd"
            client.containers.get(answer.container_id).exec_run(["sh", "-c", hanging])
            asking = threading.Thread(target=_ask_password, args=(machine.client(process), answer.container_id))
            asking.start()
            container = client.containers.get(answer.container_id)
            wait_until(lambda: container.exec_run("pgrep -f chpasswd").exit_code == 0, 10, "nobody asks")
        assert process.terminate() == 0
        asking.join(10)
    with machine.process() as process:
        machine.client(process).terminate(answer.container_id)
        machine.assert_empty()


def _ask_password(client: MinerClient, container_id: str) -> None:
    with contextlib.suppress(Unavailable):
        client.new_password(container_id)
