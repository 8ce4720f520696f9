"""Both isolations as a renter gets them: what works inside, and what the kernel holds, seen from the host."""

import contextlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from neurons.miner.hard_limits import HardLimits, engine_limits
from neurons.miner.login import LOG
from neurons.miner.node import MinerNode
from neurons.miner.profile import CAPABILITY_MASK, OPEN_FILES_MAX
from neurons.miner.socket_memory import LIMIT, socket_bytes
from polarise.errors import ConfigError, RequestRejected, Unavailable
from polarise.messages import AllocateAnswer, AllocateRequest
from polarise.receipt import STATEMENT_KIND, Receipt
from polarise.signing import Identity
from polarise.ssh_keys import generate_key_pair
from telemetry.usage import cgroup_folders
from tests.support.engine import engine
from tests.support.http import signed
from tests.support.identities import People
from tests.support.miners import RunningMiner, miner_config, running
from tests.support.ssh import Login

pytestmark = pytest.mark.docker

TWO_FAMILIES = """python3 -c '
import socket
for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_VSOCK, socket.AF_ALG):
    try:
        socket.socket(family, socket.SOCK_RAW if family == socket.AF_NETLINK else 5 if family == 38 else 1).close()
        print(family.name, end=" ")
    except OSError as err:
        print(family.name, err.errno, end=" ")
'"""


@contextlib.contextmanager
def leased(
    miner: RunningMiner, people: People, folder: Path, **fields: object
) -> Iterator[tuple[AllocateAnswer, Login]]:
    """A lease with a key, and how to log in to it."""
    private, public = generate_key_pair()
    client = miner.client(people.renter)
    request = {"memory": "128m", "cpu_count": 0.5, "ssh_public_key": public, **fields}
    answer = client.allocate(AllocateRequest.model_validate(request))
    try:
        yield answer, Login.to(answer, folder, private_key=private)
    finally:
        with contextlib.suppress(RequestRejected):
            client.terminate(answer.container_id)


def audit(port: int) -> dict[str, list[str]]:
    """Return what `ssh-audit` has against a server: level -> algorithms."""
    if importlib.util.find_spec("ssh_audit") is None:
        pytest.skip("ssh-audit is not installed; `make setup-dev` brings it")
    command = [sys.executable, "-m", "ssh_audit.ssh_audit", "--json", "--port", str(port), "127.0.0.1"]
    # Its status says the worst level, so that a warning is no 0.
    report = json.loads(subprocess.run(command, capture_output=True, timeout=60, check=False).stdout)
    found: dict[str, list[str]] = {"fail": [], "warn": []}
    for algorithm in (item for kind in ("kex", "key", "enc", "mac") for item in report[kind]):
        for level in found.keys() & algorithm["notes"].keys():
            found[level].append(algorithm["algorithm"])
    found["fail"] += [str(cve) for cve in report["cves"]]
    return found


def status_of(container_id: str) -> dict[str, str]:
    """Return /proc/PID/status of a container's first process, as the host sees it."""
    with engine() as client:
        pid = client.api.inspect_container(container_id)["State"]["Pid"]
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_standard_lease_is_root_under_our_filter_and_can_work(
    miner: RunningMiner, people: People, tmp_path: Path
) -> None:
    with leased(miner, people, tmp_path) as (answer, login):
        receipt = answer.receipt.open(STATEMENT_KIND, Receipt)
        assert (answer.ssh_user, receipt.isolation, receipt.runtime) == ("root", "standard", "runc")
        status = status_of(answer.container_id)
        assert (status["Seccomp"], status["NoNewPrivs"], status["Uid"].split()[0]) == ("2", "1", "0")
        assert int(status["CapBnd"], 16) == CAPABILITY_MASK
        said = login.output(TWO_FAMILIES)
        assert said == "AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_VSOCK 1 AF_ALG 1"
        files = HardLimits.clamp(OPEN_FILES_MAX, engine_limits(None).open_files)
        works = "useradd bob && su bob -c 'id -un' && mkfifo /tmp/pipe && dpkg --audit && ulimit -Hn && ulimit -c"
        assert login.output(works).split() == ["bob", str(files), "0"]
        assert login.run("unshare --user true").returncode != 0


FILL_SOCKETS = """
import socket, time
held = []
for _ in range(800):
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    held.append(made)
    for _ in range(3):
        made.sendto(bytes(60000), made.getsockname())
print("full", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("isolation", ["standard", "strict"])
def test_unread_packets_hold_no_more_than_a_quarter_of_the_memory(
    miner: RunningMiner, people: People, tmp_path: Path, isolation: str
) -> None:
    """140 MB of packets to itself; control groups v2 count them as memory, where the lease's own limit holds."""
    with leased(miner, people, tmp_path, isolation=isolation) as (answer, login):
        with engine() as client:
            pid = client.api.inspect_container(answer.container_id)["State"]["Pid"]
        most = socket_bytes(answer.limits.memory_bytes)
        counted = cgroup_folders(pid).get("memory")
        login.put(FILL_SOCKETS.encode(), "/tmp/fill.py")
        with login.session() as session:
            assert session.ask("python3 /tmp/fill.py &") == "full"
            if counted is not None:
                assert int((counted / LIMIT).read_text()) == most
                used = int((counted / LIMIT.replace("limit", "usage")).read_text())
                # Packets of a page or less on each CPU may go beyond it.
                assert most // 2 < used < most * 5 // 4


def test_strict_lease_has_no_root_and_no_capability_at_all(miner: RunningMiner, people: People, tmp_path: Path) -> None:
    with leased(miner, people, tmp_path, isolation="strict") as (answer, login):
        receipt = answer.receipt.open(STATEMENT_KIND, Receipt)
        assert (answer.ssh_user, receipt.ssh_user, receipt.isolation) == ("renter", "renter", "strict")
        status = status_of(answer.container_id)
        assert set(status["Uid"].split()) == {str(answer.ssh_port)}
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        assert login.output("id -un; id -u; id -G; pwd; echo a >file; cat file").split() == [
            *("renter", str(answer.ssh_port), str(answer.ssh_port), "/home/renter", "a")
        ]
        for refused in ("chroot / true", "touch /etc/x", "su -c true", "cat /etc/shadow", "kill -0 2"):
            assert login.run(refused).returncode != 0, refused
        assert login.output("grep CapBnd /proc/self/status").split()[1] == "0" * 16
        (view,) = miner.client(people.renter).containers()
        assert (view.isolation, view.ssh_user) == ("strict", "renter")


@pytest.mark.parametrize("isolation", ["standard", "strict"])
def test_ssh_offers_what_an_auditor_has_nothing_against(
    miner: RunningMiner, people: People, tmp_path: Path, isolation: str
) -> None:
    """Both warnings say that curve25519 alone is not safe from quantum computers; Python's client has nothing newer."""
    with leased(miner, people, tmp_path, isolation=isolation) as (answer, _):
        assert audit(answer.ssh_port) == {
            "fail": [],
            "warn": ["curve25519-sha256", "curve25519-sha256@libssh.org"],
        }


def test_strict_lease_has_terminal_sftp_events_and_log(miner: RunningMiner, people: People, tmp_path: Path) -> None:
    with leased(miner, people, tmp_path, isolation="strict") as (answer, login):
        assert "renter" in login.output("script -qc 'id -un' /dev/null; tty || true")
        assert login.run("python3 /run/polarise/events.py emit test.kind '{\"a\": 1}'").returncode == 0
        log = signed(miner.url, miner.key, people.renter, "GET", f"/logs/{answer.container_id}").body.decode()
        assert "Accepted publickey for renter" in log
        assert log.strip().startswith(login.output(f"head -n 1 {LOG}"))


def test_strict_lease_takes_a_new_key_and_no_password(miner: RunningMiner, people: People, tmp_path: Path) -> None:
    with leased(miner, people, tmp_path, isolation="strict") as (answer, old):
        client = miner.client(people.renter)
        private, public = generate_key_pair()
        client.set_ssh_key(answer.container_id, public)
        assert Login.to(answer, tmp_path, private_key=private).output("echo in") == "in"
        assert "Permission denied" in old.run("true").stderr
        with pytest.raises(RequestRejected, match="a strict lease has no password"):
            client.new_password(answer.container_id)


def test_users_that_a_tenant_makes_may_log_in_to_a_standard_lease_and_not_to_a_strict_one(
    miner: RunningMiner, people: People, tmp_path: Path
) -> None:
    with leased(miner, people, tmp_path) as (_, login):
        login.output("useradd --create-home --password '*' bob")
        assert replace(login, user="bob").output("id -un") == "bob"
    with leased(miner, people, tmp_path, isolation="strict") as (_, login):
        assert "Permission denied" in replace(login, user="root").run("true").stderr
        assert "Permission denied" in replace(login, user="nobody").run("true").stderr


def test_strict_lease_that_stopped_comes_back_as_it_was(miner: RunningMiner, people: People, tmp_path: Path) -> None:
    with leased(miner, people, tmp_path, isolation="strict") as (answer, login):
        login.output("echo kept >~/file")
        with engine() as client:
            client.api.kill(answer.container_id)
            client.api.wait(answer.container_id, timeout=10)
        miner.reconcile()
        assert login.output("cat ~/file; id -un; grep -c ^renter: /etc/passwd").split() == ["kept", "renter", "1"]
        assert int(status_of(answer.container_id)["CapBnd"], 16) == 0


def test_runtime_and_cpus_are_those_of_the_settings(people: People, node_identity: Identity, tmp_path: Path) -> None:
    config = miner_config(people, docker={"runtime": "runc", "cpuset_cpus": "0"})
    with (
        running(MinerNode(config, tmp_path / "node", node_identity)) as miner,
        leased(miner, people, tmp_path) as rented,
    ):
        assert miner.client(people.renter).status().runtime == "runc"
        assert status_of(rented[0].container_id)["Cpus_allowed_list"] == "0"
        assert rented[1].output("nproc") == "1"
        assert miner.allocator.inventory.cpu_milli == 1000


def test_runtime_that_the_engine_does_not_know_is_told_and_leaves_nothing(
    people: People, node_identity: Identity, tmp_path: Path
) -> None:
    config = miner_config(people, docker={"runtime": "no-such-runtime"})
    with running(MinerNode(config, tmp_path / "node", node_identity)) as miner:
        with pytest.raises(Unavailable, match="no-such-runtime"):
            miner.client(people.renter).allocate(AllocateRequest())
        assert miner.allocator.journal.all() == []


def test_cpu_that_this_host_has_not_ends_the_start(people: People, node_identity: Identity, tmp_path: Path) -> None:
    config = miner_config(people, docker={"cpuset_cpus": "0,99999"})
    with (
        pytest.raises(ConfigError, match="this host has no CPU 99999"),
        running(MinerNode(config, tmp_path, node_identity)),
    ):
        pytest.fail("it started")
