"""What happened behind the miner's back: containers killed, removed, or never accounted for."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker.models.containers import Container

from neurons.miner.container import LEASE_LABEL, NODE_LABEL, ContainerManager
from neurons.miner.lease import LeaseState
from neurons.miner.node import MinerNode
from neurons.setup.image import base_image_reference
from polarise.messages import AllocateAnswer, AllocateRequest
from polarise.signing import Identity
from polarise.ssh_keys import generate_key_pair
from tests.support.engine import containers_of, engine, remove_everything_of
from tests.support.identities import People, fresh_node_identity
from tests.support.leases import lease
from tests.support.miners import RunningMiner, miner_config, running, wait_until
from tests.support.ssh import Login

pytestmark = pytest.mark.docker


def journal_and_engine_agree(miner: RunningMiner) -> bool:
    """Whether rows, containers and folders are the same leases."""
    rows = miner.allocator.journal.all()
    with engine() as client:
        containers = containers_of(client, miner.node_id)
    folders = sorted(folder.name for folder in miner.node.data_dir.leases.iterdir())
    return (
        sorted(str(row.container_id) for row in rows) == containers
        and sorted(row.lease_id for row in rows) == folders
        and all(row.state is LeaseState.ACTIVE for row in rows)
    )


def kill(container_id: str) -> None:
    with engine() as client:
        client.api.kill(container_id)
        client.api.wait(container_id, timeout=10)


def test_killed_container_runs_again_with_the_same_port_keys_and_limits(
    miner: RunningMiner, people: People, tmp_path: Path
) -> None:
    private, public = generate_key_pair()
    client = miner.client(people.renter)
    answer = client.allocate(AllocateRequest(ssh_public_key=public))
    try:
        login = Login.to(answer, tmp_path, private_key=private)
        login.output("echo kept > /root/file")
        kill(answer.container_id)
        miner.reconcile()
        wait_until(lambda: login.run("true").returncode == 0, 15, "it never came back", poll_seconds=0.2)
        assert login.output("cat /root/file") == "kept"
        assert client.container(answer.container_id).ssh_port == answer.ssh_port
        assert journal_and_engine_agree(miner)
    finally:
        client.terminate(answer.container_id)


def test_removed_container_ends_its_lease(miner: RunningMiner, people: People) -> None:
    client = miner.client(people.renter)
    answer = client.allocate(AllocateRequest())
    with engine() as docker_client:
        docker_client.api.remove_container(answer.container_id, force=True)
    miner.reconcile()
    assert client.containers() == ()
    assert journal_and_engine_agree(miner)


def test_container_and_folder_without_a_row_are_removed(miner: RunningMiner) -> None:
    lease_id = "c" * 32
    with engine() as client:
        made = client.containers.create(
            base_image_reference(), ["true"], labels={NODE_LABEL: miner.node_id, LEASE_LABEL: lease_id}
        )
        miner.allocator.manager.login_files(lease(1, lease_id=lease_id).lease_id).create(None, with_password=True)
        miner.reconcile()
        assert containers_of(client, miner.node_id) == []
        assert made.id is not None
    assert journal_and_engine_agree(miner)


def test_things_of_another_node_and_of_nobody_are_left_alone(miner: RunningMiner) -> None:
    with engine() as client:
        others: list[Container] = [
            client.containers.create(base_image_reference(), ["true"], labels=labels)
            for labels in ({NODE_LABEL: "0" * 12, LEASE_LABEL: "d" * 32}, {LEASE_LABEL: "d" * 32}, {})
        ]
        try:
            miner.reconcile()
            for container in others:
                container.reload()
        finally:
            for container in others:
                container.remove(force=True)


@pytest.mark.parametrize("state", [LeaseState.CREATING, LeaseState.DELETING])
def test_interrupted_lease_is_finished(miner: RunningMiner, state: LeaseState) -> None:
    left = miner.allocator.journal.reserve(lambda _leases: lease(5, state=state))
    miner.allocator.manager.login_files(left.lease_id).create(None, with_password=True)
    miner.reconcile()
    assert miner.allocator.journal.by_id(left.lease_id) is None
    assert journal_and_engine_agree(miner)


def test_lease_that_cannot_be_settled_keeps_no_other_from_it(miner: RunningMiner) -> None:
    """A card that is broken is never clean again, and its row stays; the leases behind it are none the worse."""
    journal = miner.allocator.journal
    stuck = journal.reserve(lambda _leases: lease(5, state=LeaseState.DELETING, devices=("GPU-gone",)))
    other = journal.reserve(lambda _leases: lease(6, state=LeaseState.DELETING))
    try:
        miner.reconcile()
        assert journal.by_id(other.lease_id) is None
        assert journal.by_id(stuck.lease_id) is not None
    finally:
        journal.forget(stuck.lease_id, 0)


class ListedEarlier(ContainerManager):
    """Lets a whole allocation happen between the engine's list and everything that follows from it."""

    between: list[Callable[[], None]]

    def containers(self) -> list[Container]:
        listed = super().containers()
        while self.between:
            self.between.pop()()
        return listed


@pytest.fixture(name="own_identity")
def identity_of_a_node_of_the_test_s_own(people: People) -> Iterator[Identity]:
    """A node that stops takes its network along, so it must not be the module's."""
    made = fresh_node_identity(people.owner)
    yield made
    remove_everything_of(made.public_key[:12])


def test_lease_granted_while_reconciling_is_not_taken_for_a_lost_one(
    people: People, own_identity: Identity, tmp_path: Path
) -> None:
    class Node(MinerNode):
        def build_manager(self, manager: ContainerManager) -> ContainerManager:
            slow = ListedEarlier(manager.client, manager.settings, manager.network, manager.mount_events, manager.disks)
            slow.between = []
            return slow

    with running(Node(miner_config(people), tmp_path / "node", own_identity)) as miner:
        client = miner.client(people.renter)
        answers: list[AllocateAnswer] = []
        manager = miner.allocator.manager
        assert isinstance(manager, ListedEarlier)
        manager.between.append(lambda: answers.append(client.allocate(AllocateRequest())))
        miner.reconcile()
        assert [view.container_id for view in client.containers()] == [answer.container_id for answer in answers]
        assert journal_and_engine_agree(miner)
        client.terminate(answers[0].container_id)


def test_container_that_stops_a_second_time_ends_its_lease(miner: RunningMiner, people: People) -> None:
    client = miner.client(people.renter)
    answer = client.allocate(AllocateRequest())
    kill(answer.container_id)
    miner.reconcile()
    assert [view.container_id for view in client.containers()] == [answer.container_id]
    kill(answer.container_id)
    miner.reconcile()
    assert client.containers() == ()
    assert journal_and_engine_agree(miner)


def test_revived_container_that_does_not_greet_ends_its_lease(
    miner: RunningMiner, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurons.miner.reconcile.GREETING_SECONDS", 0.5)
    client = miner.client(people.renter)
    answer = client.allocate(AllocateRequest())
    with engine() as docker_client:
        container = docker_client.containers.get(answer.container_id)
        mute = "cd /usr/sbin && rm sshd && printf '#!/bin/sh\\nexec sleep 600\\n' > sshd && chmod 755 sshd"
        assert container.exec_run(["sh", "-c", mute]).exit_code == 0
    kill(answer.container_id)
    miner.reconcile()
    assert client.containers() == ()
    assert journal_and_engine_agree(miner)
