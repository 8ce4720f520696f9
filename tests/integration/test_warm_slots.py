"""Warm slots: a lease from a running container is as good as a cold one, and nothing of a slot is ever left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neurons.miner.lease import Lease
from neurons.miner.node import MinerNode
from neurons.miner.slot_keeper import SlotKeeper
from neurons.miner.slots import slots_of
from polarise.errors import RequestRejected
from polarise.messages import AllocateAnswer, AllocateRequest
from polarise.receipt import Receipt
from polarise.signing import Identity
from polarise.ssh_keys import generate_key_pair
from polarise.telemetry_client import TelemetryClient
from tests.support.engine import containers_of, engine
from tests.support.http import send
from tests.support.identities import People, fresh_node_identity
from tests.support.miners import RunningMiner, miner_config, running, wait_until
from tests.support.ssh import Login
from utils.clock import SystemClock

pytestmark = pytest.mark.docker


@contextmanager
def warm_miner(people: People, identity: Identity, folder: Path, count: int = 1) -> Iterator[RunningMiner]:
    with running(MinerNode(miner_config(people, docker={"warm_slots": count}), folder, identity)) as miner:
        yield miner


@pytest.fixture(scope="module", name="miner")
def miner_with_one_slot(
    people: People, node_identity: Identity, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningMiner]:
    with warm_miner(people, node_identity, tmp_path_factory.mktemp("warm")) as miner:
        yield miner
    with engine() as client:
        assert containers_of(client, miner.node_id) == []
    assert list(miner.node.data_dir.leases.iterdir()) == []


def slot_of(miner: RunningMiner) -> Lease:
    """Wait for a slot, and return it."""
    wait_until(lambda: bool(slots_of(miner.allocator.journal.all())), 30, "no slot is ready")
    return slots_of(miner.allocator.journal.all())[0]


def rent(miner: RunningMiner, people: People, **wanted: object) -> AllocateAnswer:
    return miner.client(people.renter).allocate(AllocateRequest.model_validate(wanted))


def give_back(miner: RunningMiner, people: People, answer: AllocateAnswer) -> None:
    miner.client(people.renter).terminate(answer.container_id)


@pytest.mark.parametrize("count", [0, 1])
def test_miner_is_ready_with_slots_and_without(people: People, tmp_path: Path, count: int) -> None:
    identity = fresh_node_identity(people.owner)
    with warm_miner(people, identity, tmp_path / "miner", count) as other:
        assert send(other.url, "GET", "/readyz").json == {"status": "success", "causes": {}}


def test_lease_from_a_slot_has_its_own_key_limits_and_log(miner: RunningMiner, people: People, tmp_path: Path) -> None:
    slot = slot_of(miner)
    private, public = generate_key_pair()
    before = Login(tmp_path, slot.ssh_port, str(slot.host_key), _written(tmp_path, private))
    assert before.run("true").returncode != 0, "nobody may log in to a slot"
    answer = rent(miner, people, memory="192m", cpu_count=0.5, ssh_public_key=public)
    assert (answer.container_id, answer.ssh_port, answer.host_key) == (slot.container_id, slot.ssh_port, slot.host_key)
    login = Login.to(answer, tmp_path, private_key=private)
    inside = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    assert login.output(inside).strip() == str(192 << 20)
    login.output("python3 /run/polarise/events.py emit training.epoch '{}'")
    receipt = answer.receipt.open("receipt", Receipt, signer=miner.key)
    assert (receipt.renter_key, receipt.limits.cpu_milli) == (people.renter.public_key, 500)
    own = TelemetryClient(miner.url, miner.key, people.renter)
    wait_until(lambda: "training.epoch" in _kinds(own, receipt.lease_id), 10, "the log does not show the event")
    give_back(miner, people, answer)
    assert slot_of(miner).container_id != slot.container_id, "a slot is handed out once"


def test_password_logs_in_to_what_was_a_slot(miner: RunningMiner, people: People, tmp_path: Path) -> None:
    slot = slot_of(miner)
    answer = rent(miner, people)
    assert answer.container_id == slot.container_id
    assert answer.ssh_password is not None
    assert Login.to(answer, tmp_path, password=answer.ssh_password).output("id -un").strip() == "root"
    give_back(miner, people, answer)


def test_slot_is_nobody_s_lease_and_takes_nothing_that_is_for_lease(miner: RunningMiner, people: People) -> None:
    slot = slot_of(miner)
    client = miner.client(people.renter)
    status = client.status()
    assert (status.leases_count, status.memory_bytes_free) == (0, miner.allocator.inventory.memory_bytes)
    assert miner.client(people.owner).containers() == ()
    with pytest.raises(RequestRejected, match="you have no container"):
        miner.client(people.owner).usage(str(slot.container_id))
    assert miner.allocator.leases.metering.book.meter(slot.lease_id) is None
    miner.reconcile()
    assert slot_of(miner).container_id == slot.container_id


def test_other_limits_get_a_container_of_their_own(miner: RunningMiner, people: People, tmp_path: Path) -> None:
    """/dev/shm cannot be made smaller on a running container."""
    slot = slot_of(miner)
    private, public = generate_key_pair()
    answer = rent(miner, people, memory="64m", ssh_public_key=public)
    assert answer.container_id != slot.container_id
    assert Login.to(answer, tmp_path, private_key=private).output("id -un").strip() == "root"
    give_back(miner, people, answer)


def test_slots_leave_a_port_to_a_lease_that_none_of_them_fits(people: People, tmp_path: Path) -> None:
    """With as many slots as ports, whoever asks for a GPU or a strict lease would never get one."""
    config = miner_config(people, docker={"warm_slots": 0, "ssh_port_count": 2})
    with running(MinerNode(config, tmp_path / "miner", fresh_node_identity(people.owner))) as miner:
        allocator = miner.allocator
        keeper = SlotKeeper(allocator, allocator._admission, miner.key, SystemClock(), count=2)
        for slots_count in (1, 0):
            while not keeper.keep():
                pass
            assert len(keeper.slots()) == slots_count
            rent(miner, people, isolation="strict", ssh_public_key=generate_key_pair()[1])
        for held in miner.client(people.renter).containers():
            miner.client(people.renter).terminate(held.container_id)


def test_slot_that_died_makes_the_lease_cold(miner: RunningMiner, people: People) -> None:
    slot = slot_of(miner)
    with engine() as client:
        client.containers.get(str(slot.container_id)).kill()
    answer = rent(miner, people)
    assert answer.container_id != slot.container_id
    give_back(miner, people, answer)
    wait_until(lambda: slot_of(miner).lease_id != slot.lease_id, 30, "the dead slot stays")


def test_slots_that_a_crash_left_are_removed_at_the_next_start(people: People, tmp_path: Path) -> None:
    """A process that died is one that holds nothing: its rows are there, and nobody is making them."""
    identity = fresh_node_identity(people.owner)
    with warm_miner(people, identity, tmp_path / "data") as miner:
        left = slot_of(miner)
        miner.allocator.let_go(left.lease_id)
        miner.reconcile()
        wait_until(lambda: slot_of(miner).lease_id != left.lease_id, 30, "no new slot")
        with engine() as client:
            assert left.container_id not in containers_of(client, miner.node_id)
    with engine() as client:
        assert containers_of(client, miner.node_id) == []


def _kinds(client: TelemetryClient, stream: str) -> list[str]:
    return [json.loads(line)["kind"] for line in client.events(stream, 0).lines]


def _written(folder: Path, private: str) -> Path:
    path = folder / "before"
    path.write_text(private)
    path.chmod(0o600)
    return path
