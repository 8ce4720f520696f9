"""From POST /allocate to a shell: limits seen from inside, keys, passwords, host keys, logs, the end of a lease.

One miner serves the whole module; each test rents its own container.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from polarise.errors import ErrorCode, RequestRejected
from polarise.messages import AllocateAnswer, AllocateRequest
from polarise.receipt import Receipt
from polarise.ssh_keys import generate_key_pair
from tests.support.disk_leases import give_back
from tests.support.engine import containers_of, engine
from tests.support.http import signed
from tests.support.identities import People
from tests.support.miners import RunningMiner, can_connect, wait_until
from tests.support.ssh import Login

pytestmark = pytest.mark.docker

# Reads what the kernel enforces, in both cgroup layouts; prints memory, cpu in thousandths, pids, shm, no-new-privs.
LIMITS_INSIDE = r"""
cd /sys/fs/cgroup
if [ -f memory.max ]; then
  m=$(cat memory.max); c=$(awk '{print $1 * 1000 / $2}' cpu.max); p=$(cat pids.max)
else
  m=$(cat memory/memory.limit_in_bytes)
  c=$(( $(cat cpu/cpu.cfs_quota_us) * 1000 / $(cat cpu/cpu.cfs_period_us) )); p=$(cat pids/pids.max)
fi
echo $m $c $p $(df -B1 --output=size /dev/shm | tail -1) $(awk '/NoNewPrivs/ {print $2}' /proc/self/status)
"""


@contextmanager
def rented(miner: RunningMiner, people: People, **wanted: object) -> Iterator[AllocateAnswer]:
    """Rent a container and give it back, whatever happens."""
    client = miner.client(people.renter)
    answer = client.allocate(AllocateRequest.model_validate(wanted))
    try:
        yield answer
    finally:
        give_back(client, answer)


@pytest.fixture(name="key_pair")
def fresh_key_pair() -> tuple[str, str]:
    return generate_key_pair()


def test_limits_asked_for_are_the_limits_inside(
    miner: RunningMiner, people: People, tmp_path: Path, key_pair: tuple[str, str]
) -> None:
    with rented(miner, people, memory="192m", cpu_count=0.5, ssh_public_key=key_pair[1]) as answer:
        login = Login.to(answer, tmp_path, private_key=key_pair[0])
        assert login.output(LIMITS_INSIDE).split() == [str(192 << 20), "500", "512", str(64 << 20), "1"]
        assert answer.limits.memory_bytes == 192 << 20
        assert answer.limits.swap_bytes == 0
        receipt = answer.receipt.open("receipt", Receipt, signer=miner.key)
        assert (receipt.host_key, receipt.renter_key) == (answer.host_key, people.renter.public_key)
        assert answer.ssh_password is None
        usage = miner.client(people.renter).container(answer.container_id).usage
        assert usage is not None
        assert usage.memory_bytes is not None
        assert 0 < usage.memory_bytes < 192 << 20


def test_key_login_takes_no_password_and_no_other_key(
    miner: RunningMiner, people: People, tmp_path: Path, key_pair: tuple[str, str]
) -> None:
    with rented(miner, people, ssh_public_key=key_pair[1]) as answer:
        assert Login.to(answer, tmp_path, private_key=key_pair[0]).output("id -u") == "0"
        for other in (
            Login.to(answer, tmp_path, private_key=generate_key_pair()[0]),
            Login.to(answer, tmp_path, password="root"),
        ):
            refused = other.run("id -u")
            assert refused.returncode == 255
            assert "Permission denied" in refused.stderr


def test_one_time_password_logs_in_and_another_does_not(miner: RunningMiner, people: People, tmp_path: Path) -> None:
    with rented(miner, people) as answer:
        password = answer.ssh_password
        assert password is not None
        assert len(password) == 24
        assert Login.to(answer, tmp_path, password=password).output("id -u") == "0"
        wrong = Login.to(answer, tmp_path, password=password[:-1]).run("id -u")
        assert wrong.returncode == 255
        assert "Permission denied" in wrong.stderr
        with engine() as client:
            shown = str(client.api.inspect_container(answer.container_id))
        assert password not in shown


def test_wrong_pinned_host_key_is_refused_before_anything_is_sent(
    miner: RunningMiner, people: People, tmp_path: Path, key_pair: tuple[str, str]
) -> None:
    with rented(miner, people, ssh_public_key=key_pair[1]) as answer:
        other = answer.model_copy(update={"host_key": generate_key_pair()[1]})
        refused = Login.to(other, tmp_path, private_key=key_pair[0]).run("id -u")
        assert refused.returncode == 255
        assert "Host key verification failed" in refused.stderr


def test_no_two_leases_share_a_host_key(miner: RunningMiner, people: People) -> None:
    with rented(miner, people) as first, rented(miner, people) as second:
        assert first.host_key != second.host_key
        assert first.ssh_port != second.ssh_port


def test_new_key_replaces_the_old_one_while_the_open_session_lives(
    miner: RunningMiner, people: People, tmp_path: Path, key_pair: tuple[str, str]
) -> None:
    new_private, new_public = generate_key_pair()
    with rented(miner, people, ssh_public_key=key_pair[1]) as answer:
        old = Login.to(answer, tmp_path, private_key=key_pair[0])
        with old.session() as session:
            assert session.ask("echo before") == "before"
            miner.client(people.renter).set_ssh_key(answer.container_id, new_public)
            assert old.run("true").returncode == 255
            assert Login.to(answer, tmp_path, private_key=new_private).output("echo in") == "in"
            assert session.ask("echo after") == "after"


def test_new_password_replaces_the_old_one(miner: RunningMiner, people: People, tmp_path: Path) -> None:
    with rented(miner, people) as answer:
        fresh = miner.client(people.renter).new_password(answer.container_id).ssh_password
        assert Login.to(answer, tmp_path, password=fresh).output("echo in") == "in"
        assert Login.to(answer, tmp_path, password=str(answer.ssh_password)).run("true").returncode == 255


def test_password_can_be_added_to_a_lease_with_a_key_and_sessions_live(
    miner: RunningMiner, people: People, tmp_path: Path, key_pair: tuple[str, str]
) -> None:
    with rented(miner, people, ssh_public_key=key_pair[1]) as answer:
        by_key = Login.to(answer, tmp_path, private_key=key_pair[0])
        with by_key.session() as session:
            assert session.ask("echo before") == "before"
            password = miner.client(people.renter).new_password(answer.container_id).ssh_password
            login = Login.to(answer, tmp_path, password=password)
            wait_until(lambda: login.run("true").returncode == 0, 10, "the password never worked", poll_seconds=0.2)
            assert session.ask("echo after") == "after"
        assert by_key.output("echo in") == "in"


def test_logs_are_read_and_followed(
    miner: RunningMiner, people: People, tmp_path: Path, key_pair: tuple[str, str]
) -> None:
    client = miner.client(people.renter)
    with rented(miner, people, ssh_public_key=key_pair[1]) as answer:
        login = Login.to(answer, tmp_path, private_key=key_pair[0])
        login.output("echo first line >> /var/log/container.log")
        with client.logs(answer.container_id) as stream:
            assert b"first line\n" in b"".join(stream)
        received: list[bytes] = []
        arrived = threading.Event()
        with client.logs(answer.container_id, follow=True) as stream:

            def read() -> None:
                for piece in stream:
                    received.append(piece)
                    if b"second line" in b"".join(received):
                        arrived.set()

            reader = threading.Thread(target=read)
            reader.start()
            wait_until(lambda: b"first line" in b"".join(received), 10, "the log did not begin")
            login.output("echo second line >> /var/log/container.log")
            assert arrived.wait(10)
            stream.close()
            reader.join(10)
        wait_until(lambda: login.output("pgrep -c -x tail || true") == "0", 10, "a reader stayed in the container")


def test_log_that_the_tenant_made_a_link_shows_nothing_of_the_host(
    miner: RunningMiner, people: People, tmp_path: Path, key_pair: tuple[str, str]
) -> None:
    client = miner.client(people.renter)
    with rented(miner, people, ssh_public_key=key_pair[1]) as answer:
        login = Login.to(answer, tmp_path, private_key=key_pair[0])
        secret = tmp_path / "file of the host"
        secret.write_text("nobody's business", encoding="ascii")
        login.output(f"mkdir -p '{tmp_path}' && ln -sf '{secret}' /var/log/container.log")
        with client.logs(answer.container_id) as stream:
            assert b"nobody" not in b"".join(stream)


def test_renewal_moves_the_end(miner: RunningMiner, people: People) -> None:
    client = miner.client(people.renter)
    with rented(miner, people, ttl_seconds=60) as answer:
        renewed = client.renew(answer.container_id, 600)
        before = answer.receipt.open("receipt", Receipt).expires_unix_ms
        after = renewed.receipt.open("receipt", Receipt).expires_unix_ms
        assert 530_000 < after - before < 600_000
        assert client.container(answer.container_id).expires_at == renewed.expires_at


def test_expiry_cuts_a_live_connection_within_about_a_second(
    miner: RunningMiner, people: People, tmp_path: Path, key_pair: tuple[str, str]
) -> None:
    with rented(miner, people, ssh_public_key=key_pair[1], ttl_seconds=4) as answer:
        expires = answer.receipt.open("receipt", Receipt).expires_unix_ms / 1000
        with Login.to(answer, tmp_path, private_key=key_pair[0]).session() as session:
            assert session.ask("echo alive") == "alive"
            session.wait_cut(15)
            late = time.time() - expires
        # The keeper looks four times a second and the kill takes some tenths; the rest is for a busy machine.
        assert -0.1 < late < 3
        wait_until(lambda: not can_connect(answer.ssh_port), 5, "the port is still open")
        wait_until(
            lambda: miner.allocator.journal.by_container(answer.container_id) is None, 5, "the row is still there"
        )


def test_renewed_lease_outlives_its_first_end(miner: RunningMiner, people: People) -> None:
    with rented(miner, people, ttl_seconds=2) as answer:
        first_end = answer.receipt.open("receipt", Receipt).expires_unix_ms / 1000
        miner.client(people.renter).renew(answer.container_id, 60)
        wait_until(lambda: time.time() > first_end + 1, 10, "time stands still")
        miner.reconcile()
        assert miner.client(people.renter).container(answer.container_id).status == "ACTIVE"


def test_terminate_leaves_nothing(miner: RunningMiner, people: People, tmp_path: Path) -> None:
    client = miner.client(people.renter)
    with rented(miner, people) as answer:
        with Login.to(answer, tmp_path, password=answer.ssh_password).session() as session:
            assert session.ask("echo alive") == "alive"
            client.terminate(answer.container_id)
            session.wait_cut(5)
        with pytest.raises(RequestRejected) as caught:
            client.container(answer.container_id)
        assert caught.value.code is ErrorCode.NOT_FOUND
        with engine() as docker_client:
            assert answer.container_id not in containers_of(docker_client, miner.node_id)
        assert not can_connect(answer.ssh_port)


def granted_total(miner: RunningMiner, people: People) -> str:
    shown = signed(miner.url, miner.key, people.owner, "GET", "/metrics").body.decode()
    return next(line for line in shown.splitlines() if line.startswith("polarise_leases_granted_total "))


def test_same_idempotency_key_is_the_same_lease_without_its_password(miner: RunningMiner, people: People) -> None:
    client = miner.client(people.renter)
    wanted = AllocateRequest(memory="100m")
    first = client.allocate(wanted, idempotency_key="retry-1")
    try:
        granted = granted_total(miner, people)
        again = client.allocate(wanted, idempotency_key="retry-1")
        assert granted_total(miner, people) == granted
        assert (again.container_id, again.host_key) == (first.container_id, first.host_key)
        assert first.ssh_password is not None
        assert again.ssh_password is None
        assert again.receipt == first.receipt
        with pytest.raises(RequestRejected) as caught:
            client.allocate(AllocateRequest(memory="101m"), idempotency_key="retry-1")
        assert (caught.value.code, caught.value.status) == (ErrorCode.IDEMPOTENCY_KEY_REUSED, 422)
    finally:
        client.terminate(first.container_id)
    with pytest.raises(RequestRejected, match="the lease of this key is over") as caught:
        client.allocate(wanted, idempotency_key="retry-1")
    assert (caught.value.code, caught.value.status, caught.value.retry_after_seconds) == (ErrorCode.CONFLICT, 409, None)
    assert client.containers() == ()


def test_parallel_retries_of_one_request_make_one_container(miner: RunningMiner, people: People) -> None:
    client = miner.client(people.renter)
    answers: list[AllocateAnswer | RequestRejected] = []

    def allocate() -> None:
        try:
            answers.append(client.allocate(AllocateRequest(), idempotency_key="parallel-1"))
        except RequestRejected as err:
            answers.append(err)

    threads = [threading.Thread(target=allocate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    granted = {answer.container_id for answer in answers if isinstance(answer, AllocateAnswer)}
    try:
        assert len(granted) == 1
        refused = [err for err in answers if isinstance(err, RequestRejected)]
        assert {(err.code, err.retry_after_seconds) for err in refused} <= {(ErrorCode.CONFLICT, 1)}
    finally:
        for container_id in granted:
            client.terminate(container_id)


Operation = Callable[[RunningMiner, People, str], object]
OPERATIONS: dict[str, Operation] = {
    "show": lambda miner, people, name: miner.client(people.other_renter).container(name),
    "renew": lambda miner, people, name: miner.client(people.other_renter).renew(name, 60),
    "key": lambda miner, people, name: miner.client(people.other_renter).set_ssh_key(name, generate_key_pair()[1]),
    "password": lambda miner, people, name: miner.client(people.other_renter).new_password(name),
    "logs": lambda miner, people, name: miner.client(people.other_renter).logs(name),
    "terminate": lambda miner, people, name: miner.client(people.other_renter).terminate(name),
}


def test_another_tenant_can_do_nothing_with_the_container(
    miner: RunningMiner, people: People, tmp_path: Path, key_pair: tuple[str, str]
) -> None:
    with rented(miner, people, ssh_public_key=key_pair[1]) as answer:
        for operation in OPERATIONS.values():
            with pytest.raises(RequestRejected) as caught:
                operation(miner, people, answer.container_id)
            assert (caught.value.code, caught.value.status) == (ErrorCode.NOT_FOUND, 404)
        assert miner.client(people.other_renter).containers() == ()
        assert Login.to(answer, tmp_path, private_key=key_pair[0]).output("echo mine") == "mine"
        assert [view.container_id for view in miner.client(people.owner).containers()] == [answer.container_id]


def test_containers_do_not_reach_each_other(
    miner: RunningMiner, people: People, tmp_path: Path, key_pair: tuple[str, str]
) -> None:
    with rented(miner, people, ssh_public_key=key_pair[1]) as one, rented(miner, people) as two:
        with engine() as client:
            networks = client.api.inspect_container(two.container_id)["NetworkSettings"]["Networks"]
        (address,) = (network["IPAddress"] for network in networks.values())
        probe = f"import socket; socket.create_connection(('{address}', 22), 2)"
        done = Login.to(one, tmp_path, private_key=key_pair[0]).run(f'python3 -c "{probe}"')
        assert done.returncode != 0
        assert "timed out" in done.stderr or "unreachable" in done.stderr
