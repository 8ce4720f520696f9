"""What breaks under a running miner: a clear answer, then recovery, nothing left over and nothing counted twice.

Each test hangs, ends or restarts an engine of its own, or fills a disk of its own.
"""

import gc
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from neurons.miner.lease import LeaseState
from neurons.miner.node import MinerNode
from polarise.clients import MinerClient
from polarise.errors import Unavailable
from polarise.messages import AllocateRequest
from polarise.receipt import Receipt
from polarise.signing import Identity
from polarise.ssh_keys import generate_key_pair
from polarise.usage import Usage
from tests.lab.engine import Lab, inside, lab
from tests.support.disks import remove_disks_of
from tests.support.identities import People, fresh_node_identity
from tests.support.miners import RunningMiner, miner_config, running, wait_until
from tests.support.ssh import Login
from utils import docker_utils
from utils.clock import SystemClock

# docker-py leaves a unix socket that was refused to the collector of garbage, which complains about it.
pytestmark = [
    pytest.mark.docker,
    pytest.mark.lab,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class OtherBoot(SystemClock):
    """The same machine after a reboot."""

    def boot_id(self) -> str:
        return "another-boot"

    def boot_ms(self) -> int:
        return super().boot_ms() - 100_000


@dataclass
class Place:
    """A lab, and a miner's disk and identity in it over the lives of its process."""

    lab: Lab
    people: People
    identity: Identity
    data_dir: Path

    def node(self, clock: SystemClock | None = None, reach: Callable[[str], None] = lambda _step: None) -> MinerNode:
        config = miner_config(self.people, docker={"host": self.lab.host})
        return MinerNode(config, self.data_dir, self.identity, clock=clock, reach=reach)

    def assert_nothing_is_left(self, miner: RunningMiner) -> None:
        assert miner.allocator.journal.all() == []
        assert list(self.data_dir.joinpath("leases").iterdir()) == []
        assert self.lab.client.containers.list(all=True) == []

    def final(self, miner: RunningMiner, container_id: str) -> Usage:
        usage = miner.client(self.people.renter).usage(container_id).open("usage", Usage)
        assert usage.is_final
        return usage


@pytest.fixture(scope="module", name="built")
def lab_of_the_module() -> Iterator[Lab]:
    with lab() as built, inside(built):
        yield built


@pytest.fixture(name="place")
def place_of_one_test(built: Lab, people: People, tmp_path: Path) -> Iterator[Place]:
    place = Place(built, people, fresh_node_identity(people.owner), tmp_path / "node")
    yield place
    for container in built.client.containers.list(all=True):
        container.remove(force=True)
    # Of a test that failed amid a lease.
    remove_disks_of(place.identity.public_key[:12])
    gc.collect()


def test_hung_engine_is_said_at_once_keeps_sessions_and_keeps_nobody_beyond_the_expiry(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_utils, "PING_SECONDS", 1)
    private, public = generate_key_pair()
    with running(place.node()) as miner:
        client = miner.client(place.people.renter)
        answer = client.allocate(AllocateRequest(ssh_public_key=public, ttl_seconds=6))
        with Login.to(answer, tmp_path, private_key=private).session() as session:
            place.lab.engine.send(signal.SIGSTOP)
            try:
                with pytest.raises(Unavailable, match="the Docker engine does not answer"):
                    client.allocate(AllocateRequest())
                assert [row.container_id for row in miner.allocator.journal.all()] == [answer.container_id]
                assert session.ask("echo here") == "here"
                session.wait_cut(15)
                cut = time.time()
                (row,) = miner.allocator.journal.all()
                assert row.state is LeaseState.DELETING
            finally:
                place.lab.engine.send(signal.SIGCONT)
        expires = answer.receipt.open("receipt", Receipt).expires_unix_ms / 1000
        assert cut > expires - 0.1
        wait_until(lambda: miner.allocator.journal.all() == [], 30, "the lease never ended")
        place.assert_nothing_is_left(miner)
        assert place.final(miner, answer.container_id).allocated_ms <= 6_000


def test_release_on_a_hung_engine_cuts_and_counts_no_more_at_once(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_utils, "PING_SECONDS", 1)
    private, public = generate_key_pair()
    with running(place.node()) as miner:
        client = miner.client(place.people.renter)
        answer = client.allocate(AllocateRequest(ssh_public_key=public))
        granted = time.monotonic()
        with Login.to(answer, tmp_path, private_key=private).session() as session:
            place.lab.engine.send(signal.SIGSTOP)
            try:
                asked = time.monotonic()
                ended = client.terminate(answer.container_id)
                session.wait_cut(5)
                assert (ended.data, ended.usage) == ("deleting", None)
                assert client.containers() == ()
                # Nothing is free before it is gone.
                assert [row.state for row in miner.allocator.journal.all()] == [LeaseState.DELETING]
                assert client.status().leases_count == 1
            finally:
                place.lab.engine.send(signal.SIGCONT)
        wait_until(place.lab.client.api.ping, 10, "the engine never woke")
        miner.reconcile()
        place.assert_nothing_is_left(miner)
        # One second for what lies between the answer of the allocation and its clock here.
        assert place.final(miner, answer.container_id).allocated_ms <= (asked - granted + 1) * 1000


def test_engine_that_hangs_amid_an_allocation_leaves_one_lease_to_a_retry(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_utils, "PING_SECONDS", 1)
    monkeypatch.setattr(docker_utils, "TIMEOUT_SECONDS", 1)
    hangs = ["allocate.created"]

    def reach(step: str) -> None:
        if step in hangs:
            hangs.remove(step)
            place.lab.engine.send(signal.SIGSTOP)

    with running(place.node(reach=reach)) as miner:
        client = miner.client(place.people.renter)
        try:
            with pytest.raises(Unavailable, match="the Docker engine does not answer"):
                client.allocate(AllocateRequest(), idempotency_key="once")
            assert [row.state for row in miner.allocator.journal.all()] == [LeaseState.CREATING]
        finally:
            place.lab.engine.send(signal.SIGCONT)
        wait_until(place.lab.client.api.ping, 10, "the engine never woke")
        miner.reconcile()
        place.assert_nothing_is_left(miner)
        answer = client.allocate(AllocateRequest(), idempotency_key="once")
        assert [one.id for one in place.lab.client.containers.list(all=True)] == [answer.container_id]
        client.terminate(answer.container_id)
        place.assert_nothing_is_left(miner)


def test_engine_that_was_away_gets_back_what_it_held_and_ends_what_was_to_end(place: Place, tmp_path: Path) -> None:
    """Its containers stop with it; after it the lease has its old port, key and host key, and the sums go on."""
    private, public = generate_key_pair()
    with running(place.node()) as miner:
        client = miner.client(place.people.renter)
        answer = client.allocate(AllocateRequest(ssh_public_key=public))
        other = client.allocate(AllocateRequest())
        before = client.usage(answer.container_id).open("usage", Usage)
        place.lab.engine.stop()
        try:
            with pytest.raises(Unavailable, match="the Docker engine does not answer"):
                client.allocate(AllocateRequest())
            assert client.terminate(other.container_id).data == "deleting"
            with pytest.raises(Unavailable):
                miner.reconcile()
            assert len(miner.allocator.journal.all()) == 2
        finally:
            place.lab.engine.start()
            place.lab.engine.wait(place.lab.client)
        miner.reconcile()
        assert [view.container_id for view in client.containers()] == [answer.container_id]
        assert Login.to(answer, tmp_path, private_key=private).output("echo back") == "back"
        after = client.usage(answer.container_id).open("usage", Usage)
        assert after.cpu_ms is not None
        assert before.cpu_ms is not None
        assert after.cpu_ms >= before.cpu_ms
        assert after.allocated_ms >= before.allocated_ms
        assert place.final(miner, other.container_id).is_final
        client.terminate(answer.container_id)
        place.assert_nothing_is_left(miner)


def test_rebooted_host_starts_its_leases_again_and_allocates_no_time_to_its_own_absence(
    place: Place, tmp_path: Path
) -> None:
    private, public = generate_key_pair()
    with running(place.node()) as miner:
        answer = miner.client(place.people.renter).allocate(AllocateRequest(ssh_public_key=public))
        before = miner.client(place.people.renter).usage(answer.container_id).open("usage", Usage)
    place.lab.engine.stop()
    place.lab.engine.start()
    place.lab.engine.wait(place.lab.client)
    back = time.monotonic()
    with running(place.node(OtherBoot())) as miner:
        client = miner.client(place.people.renter)
        assert Login.to(answer, tmp_path, private_key=private).output("echo up") == "up"
        after = client.usage(answer.container_id).open("usage", Usage)
        # From when its container ran again, and not a moment of the reboot before.
        assert after.allocated_ms <= before.allocated_ms + (time.monotonic() - back) * 1000
        assert after.cpu_ms is not None
        assert before.cpu_ms is not None
        assert after.cpu_ms > before.cpu_ms
        client.terminate(answer.container_id)
        place.assert_nothing_is_left(miner)


@pytest.fixture(name="small_disk")
def disk_of_sixty_megabytes(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def rent_and_release(client: MinerClient, count: int) -> None:
    """Rent, until the room that SQLite's files had already is used up."""
    for _ in range(count):
        client.terminate(client.allocate(AllocateRequest()).container_id)


def fill(folder: Path) -> Path:
    """Write until nothing more fits."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as handle:
        for size in (1 << 20, 4096, 1):
            try:
                while handle.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return path


def test_full_disk_grants_nothing_and_still_ends_leases_in_time(place: Place, tmp_path: Path, small_disk: Path) -> None:
    place.data_dir = small_disk / "node"
    private, public = generate_key_pair()
    with running(place.node()) as miner:
        client = miner.client(place.people.renter)
        answer = client.allocate(AllocateRequest(ssh_public_key=public, ttl_seconds=8))
        with Login.to(answer, tmp_path, private_key=private).session() as session:
            filler = fill(small_disk)
            with pytest.raises(Unavailable, match="cannot be written"):
                rent_and_release(client, 20)
            assert session.ask("echo here") == "here"
            session.wait_cut(20)
            assert time.time() > answer.receipt.open("receipt", Receipt).expires_unix_ms / 1000 - 0.1
        filler.unlink()
        miner.reconcile()
        wait_until(lambda: miner.allocator.journal.all() == [], 40, "something is left")
        place.assert_nothing_is_left(miner)
        assert place.final(miner, answer.container_id).allocated_ms <= 8_000
        assert (place.data_dir / "ballast").stat().st_size == 1 << 20
        second = client.allocate(AllocateRequest())
        client.terminate(second.container_id)
        place.assert_nothing_is_left(miner)
    assert os.path.ismount(small_disk)
