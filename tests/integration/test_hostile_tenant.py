"""A tenant is root in its container and may replace every program there: nothing of it may hold up the miner."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from neurons.base.threads import DaemonThreads
from neurons.miner import console
from neurons.miner.console import LogReader, set_password
from neurons.miner.container import ContainerManager
from neurons.miner.keeper import LeaseKeeper
from neurons.miner.lease import Expiry, Lease, LeaseState
from neurons.miner.login import LOG
from neurons.miner.netlink_watch import NetlinkWatch, held_bytes
from neurons.miner.node import MinerNode
from neurons.miner.running import RunningLeases
from neurons.setup.image import base_image_reference
from polarise.errors import RequestRejected, Unavailable
from polarise.messages import AllocateAnswer, AllocateRequest
from polarise.ssh_keys import generate_key_pair
from polarise.usage import Usage
from tests.security.attacks import HOARD
from tests.support.engine import engine
from tests.support.http import send
from tests.support.identities import People, fresh_node_identity
from tests.support.miners import RunningMiner, can_connect, miner_config, running, wait_until
from tests.support.ssh import Login
from utils.clock import SystemClock

pytestmark = pytest.mark.docker

DRIPPING = "#!/bin/sh\nwhile :; do echo x; sleep 0.1; done\n"
FLOODING = "#!/bin/sh\nexec cat /dev/zero\n"
PROGRAMS = "chpasswd|cat|dd"
WORKING_FOLDER = "/home/app"
MUTE = "#!/bin/sh\nexec dd if=/dev/zero of=/dev/null bs=1 >/dev/null 2>&1\n"


@pytest.fixture(name="answer")
def rented_container(miner: RunningMiner, people: People) -> Iterator[AllocateAnswer]:
    client = miner.client(people.renter)
    answer = client.allocate(AllocateRequest(memory="64m", cpu_count=0.25))
    yield answer
    with contextlib.suppress(RequestRejected):
        client.terminate(answer.container_id)


def inside(container_id: str, command: str) -> str:
    """Run a command as the tenant could."""
    with engine() as client:
        output = client.containers.get(container_id).exec_run(["sh", "-c", command]).output
        assert isinstance(output, bytes)
        return output.decode().strip()


def replace_program(container_id: str, path: str, text: str) -> None:
    inside(container_id, f"cat > {path} <<'END'\n{text}END\nchmod 755 {path}")


def lease_of(miner: RunningMiner, answer: AllocateAnswer) -> Lease:
    found = miner.allocator.journal.by_container(answer.container_id)
    assert found is not None
    return found


def is_running(container_id: str) -> bool:
    with engine() as client:
        return bool(client.api.inspect_container(container_id)["State"]["Running"])


@pytest.mark.parametrize(
    ("program", "said"),
    [(DRIPPING, "not end within 0.5 s"), (MUTE, "not end within 0.5 s"), (FLOODING, "more than 4096 bytes")],
)
def test_replaced_chpasswd_is_ended_in_time_and_killed(
    miner: RunningMiner, answer: AllocateAnswer, program: str, said: str
) -> None:
    replace_program(answer.container_id, "/usr/sbin/chpasswd", program)
    with engine() as client, pytest.raises(Unavailable, match=said):
        set_password(client, answer.container_id, b"root:x\n", deadline_seconds=0.5)
    wait_until(lambda: inside(answer.container_id, f"pgrep -c '{PROGRAMS}'") == "0", 5, "it was not killed")


def test_password_that_hangs_holds_up_neither_other_requests_nor_the_end_of_a_lease(
    miner: RunningMiner, people: People, answer: AllocateAnswer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More callers than the server has threads ask for it; the first two wait, the others are told to come back."""
    replace_program(answer.container_id, "/usr/sbin/chpasswd", DRIPPING)
    client = miner.client(people.renter)
    refusals: list[str] = []

    def ask() -> None:
        try:
            miner.client(people.renter).new_password(answer.container_id)
        except (RequestRejected, Unavailable) as err:
            refusals.append(str(err))

    callers = [threading.Thread(target=ask) for _ in range(20)]
    for caller in callers:
        caller.start()
    wait_until(lambda: len(refusals) >= 18, 8, "the threads are taken")
    assert all("another request is changing this lease" in refusal for refusal in refusals)
    assert send(miner.url, "GET", "/healthz").status == 200
    client.renew(answer.container_id, 1)
    wait_until(lambda: not can_connect(answer.ssh_port), 5, "the lease outlived its end")
    for caller in callers:
        caller.join(console.PASSWORD_SECONDS)
    assert len(refusals) == 20
    wait_until(lambda: miner.allocator.journal.by_container(answer.container_id) is None, 5, "the row is still there")


def test_held_lease_ends_at_its_expiry_and_is_removed_when_it_is_let_go(
    miner: RunningMiner, people: People, answer: AllocateAnswer
) -> None:
    held = lease_of(miner, answer)
    with miner.allocator.leases.locks.holding(held.lease_id):
        miner.client(people.renter).renew(answer.container_id, 1)
        wait_until(lambda: not is_running(answer.container_id), 5, "it still runs")
        miner.reconcile()
        assert lease_of(miner, answer).state is LeaseState.DELETING
    wait_until(lambda: miner.allocator.journal.by_id(held.lease_id) is None, 5, "the row is still there")


def test_held_lease_can_be_terminated(miner: RunningMiner, people: People, answer: AllocateAnswer) -> None:
    held = lease_of(miner, answer)
    with miner.allocator.leases.locks.holding(held.lease_id):
        miner.client(people.renter).terminate(answer.container_id)
        assert not is_running(answer.container_id)
    miner.reconcile()
    assert miner.allocator.journal.by_id(held.lease_id) is None


def test_password_of_a_stopped_container_is_503(miner: RunningMiner, people: People, answer: AllocateAnswer) -> None:
    with engine() as client:
        client.api.kill(answer.container_id)
        client.api.wait(answer.container_id, timeout=10)
    for attempt in (
        lambda: miner.client(people.renter).new_password(answer.container_id),
        lambda: miner.client(people.renter).set_ssh_key(answer.container_id, generate_key_pair()[1]),
    ):
        with pytest.raises(Unavailable, match="503"):
            attempt()


def test_new_key_ends_password_login_until_a_new_password_is_asked_for(
    miner: RunningMiner, people: People, answer: AllocateAnswer, tmp_path: Path
) -> None:
    client = miner.client(people.renter)
    private, public = generate_key_pair()
    client.set_ssh_key(answer.container_id, public)
    by_key = Login.to(answer, tmp_path, private_key=private)
    wait_until(lambda: by_key.run("true").returncode == 0, 10, "the key never worked", poll_seconds=0.2)
    refused = Login.to(answer, tmp_path, password=answer.ssh_password).run("true")
    assert "Permission denied" in refused.stderr
    assert not lease_of(miner, answer).has_password
    fresh = Login.to(answer, tmp_path, password=client.new_password(answer.container_id).ssh_password)
    wait_until(lambda: fresh.run("true").returncode == 0, 10, "the password never worked", poll_seconds=0.2)
    assert by_key.output("echo in") == "in"


def test_log_that_is_a_pipe_comes_to_an_end_and_leaves_no_reader(answer: AllocateAnswer) -> None:
    inside(answer.container_id, f"rm {LOG}; mkfifo {LOG}")
    with engine() as client:
        reader = LogReader(client, answer.container_id, follow=False, gone=threading.Event(), idle_seconds=0.3)
        pieces = list(iter(reader.next_chunk, None))
    assert b"".join(pieces) == b""
    wait_until(lambda: inside(answer.container_id, "pgrep -c -x tail") == "0", 5, "a reader stayed in the container")


def test_log_reader_that_never_ends_is_cut_at_what_a_log_may_have(answer: AllocateAnswer) -> None:
    replace_program(answer.container_id, "/usr/bin/tail", FLOODING)
    with engine() as client:
        reader = LogReader(client, answer.container_id, follow=False, gone=threading.Event())
        size = sum(len(piece) for piece in iter(reader.next_chunk, None))
    assert console.TAIL_BYTES <= size < console.TAIL_BYTES + console.CHUNK_BYTES
    wait_until(lambda: inside(answer.container_id, "pgrep -c -x cat") == "0", 5, "a reader stayed in the container")


class Noting(ContainerManager):
    """A container manager that notes what it removes, in the list of kills."""

    done: list[str]

    def stop_container(self, lease: Lease) -> None:
        super().stop_container(lease)
        self.done.append("remove")


class NotingKills(RunningLeases):
    """Leases that note who is killed."""

    manager: Noting

    def kill(self, lease: Lease) -> None:
        super().kill(lease)
        self.manager.done.append("kill")


def test_leases_due_together_are_all_killed_before_one_is_removed(miner: RunningMiner, people: People) -> None:
    client = miner.client(people.renter)
    answers = [client.allocate(AllocateRequest(memory="64m", cpu_count=0.1)) for _ in range(3)]
    journal, manager = miner.allocator.journal, miner.allocator.manager
    noting = Noting(manager.client, manager.settings, manager.network, manager.mount_events, manager.disks)
    noting.done = []
    # A keeper of this test's own, with one thread; the miner's own comes too late for leases that it never saw active.
    allocator = miner.allocator
    leases = NotingKills(
        noting, journal, allocator._admission, allocator.events, allocator.leases.metering, SystemClock()
    )
    due = [lease_of(miner, answer) for answer in answers]
    for row in due:
        journal.update(row, state=LeaseState.CREATING)
        miner.allocator._in_flight.add(row.lease_id)
    keeper = LeaseKeeper(leases, SystemClock())
    keeper._ending = {row.lease_id: (replace(row, expiry=Expiry.after(SystemClock(), 0)), 0) for row in due}
    threads = DaemonThreads("test", 1)
    keeper.end_expired(threads)
    wait_until(lambda: len(noting.done) == 6, 20, "not all ended")
    assert threads.join(5)
    assert noting.done == ["kill"] * 3 + ["remove"] * 3
    assert not any(can_connect(answer.ssh_port) for answer in answers)
    for row in due:
        miner.allocator._in_flight.discard(row.lease_id)
        assert journal.by_id(row.lease_id) is None


@pytest.fixture(name="image")
def image_with_a_working_folder() -> Iterator[str]:
    with engine() as client:
        made = client.containers.create(base_image_reference(), ["true"])
        try:
            found = made.commit(changes=f"WORKDIR {WORKING_FOLDER}")
        finally:
            made.remove()
        yield str(found.id)
        client.images.remove(str(found.id), force=True)


def test_link_in_place_of_the_image_s_working_folder_is_never_entered(
    people: People, tmp_path: Path, image: str
) -> None:
    """The engine enters that folder before it starts anything, with the host's rights still at hand."""
    config = miner_config(people, docker={"allowed_images": [image]})
    with running(MinerNode(config, tmp_path / "miner", fresh_node_identity(people.owner))) as miner:
        client = miner.client(people.renter)
        answer = client.allocate(AllocateRequest(image=image, memory="64m", cpu_count=0.25))
        try:
            inside(answer.container_id, f"rmdir {WORKING_FOLDER} && ln -s /dev/null {WORKING_FOLDER}")
            assert inside(answer.container_id, "pwd") == "/"
            with engine() as docker_client:
                docker_client.api.kill(answer.container_id)
                docker_client.api.wait(answer.container_id, timeout=10)
            miner.reconcile()
            assert inside(answer.container_id, "pwd") == "/"
        finally:
            with contextlib.suppress(RequestRejected):
                client.terminate(answer.container_id)


def test_hoard_in_netlink_sockets_ends_the_lease_and_says_why_and_a_little_does_not(
    miner: RunningMiner, people: People, answer: AllocateAnswer
) -> None:
    """One socket below the limit, of 16 MiB here, is nobody's business."""
    client = miner.client(people.renter)
    watch = NetlinkWatch(miner.allocator.leases)
    with engine() as docker_client:
        container = docker_client.containers.get(answer.container_id)
        container.exec_run(["python3", "-c", HOARD, "1"], detach=True)
        path = Path(f"/proc/{container.attrs['State']['Pid']}/net/netlink")
        wait_until(lambda: held_bytes(path.read_bytes()) > 100_000, 10, "nothing lies in the socket")
        watch.look()
        assert client.container(answer.container_id).status == "ACTIVE"
        container.exec_run(["python3", "-c", HOARD, "400"], detach=True)
    wait_until(lambda: miner.allocator.journal.by_container(answer.container_id) is None, 20, "the lease goes on")
    usage = client.usage(answer.container_id).open("usage", Usage)
    assert (usage.is_final, usage.lost) == (True, "host_memory_taken")
    with pytest.raises(RequestRejected, match="netlink sockets"):
        client.container(answer.container_id)


# Seven sockets join as many groups as each may, though the container has no IPv6.
JOIN = """
import socket, struct
held = []
for number in range(7 * 2000):
    if number % 2000 == 0:
        held.append(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    group = socket.inet_pton(socket.AF_INET6, f"ff15::{number:x}") + struct.pack("I", 1)
    held[-1].setsockopt(socket.IPPROTO_IPV6, 20, group)
__import__("time").sleep(60)
"""


def test_hoard_of_multicast_groups_ends_the_lease(miner: RunningMiner, people: People, answer: AllocateAnswer) -> None:
    """The kernel counts them for nobody."""
    with engine() as docker_client:
        docker_client.containers.get(answer.container_id).exec_run(["python3", "-c", JOIN], detach=True)
    wait_until(lambda: miner.allocator.journal.by_container(answer.container_id) is None, 20, "the lease goes on")
    usage = miner.client(people.renter).usage(answer.container_id).open("usage", Usage)
    assert (usage.is_final, usage.lost) == (True, "host_memory_taken")
