"""What a tenant reaches over the network, and that nothing is leased while the packet filter does not hold.

Everything runs in a lab without a way out; `tests.lab.lan` plays the LAN, the cloud's metadata and the internet.
"""

import contextlib
import ipaddress
import json
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from docker.models.containers import Container

from neurons.base.agent_client import AgentClient
from neurons.miner import firewall
from neurons.miner.firewall_rules import BLOCKED, CONNECTIONS_MAX, LOGINS_BURST, interface_prefix
from neurons.miner.node import MinerNode
from neurons.miner.status import read_status, render
from polarise.errors import Unavailable
from polarise.messages import AllocateAnswer, AllocateRequest
from polarise.signing import Identity
from polarise.ssh_keys import generate_key_pair
from tests.lab.lan import (
    ECHO_PORT,
    HOST_IP,
    HOST_IP_10,
    INTERNET_IP,
    MAIL_PORT,
    NAME,
    PEER_IP_10,
    SERVICE_PORT,
    Neighbourhood,
    entered,
    neighbourhood,
)
from tests.lab.network_matrix import SETTINGS, addresses_of, lab_config, measure, table, wanted, written_table
from tests.support.http import send
from tests.support.identities import People, fresh_node_identity
from tests.support.miners import RunningMiner, running, wait_until
from tests.support.ssh import Login
from utils.ssh import read_banner

pytestmark = [pytest.mark.docker, pytest.mark.lab]

FAILING = "#!/bin/sh\necho 'the kernel refuses' >&2\nexit 4\n"


@pytest.fixture(scope="module", name="place")
def a_lab_with_neighbours() -> Iterator[Neighbourhood]:
    with neighbourhood("--dns", PEER_IP_10) as place:
        yield place


@pytest.fixture(name="inside")
def this_thread_in_the_lab(place: Neighbourhood) -> Iterator[Neighbourhood]:
    with entered(place.lab):
        yield place


@pytest.fixture(name="identity")
def a_node(people: People) -> Identity:
    return fresh_node_identity(people.owner)


def rules_of(node_id: str, *programs: str) -> list[str]:
    """Return every line of the kernel that names a node's chains or interfaces, but for Docker's own."""
    lines: list[str] = []
    for program in programs or ("iptables", "ip6tables"):
        done = subprocess.run([program, "-t", "mangle", "-S"], capture_output=True, text=True, check=True)
        lines += done.stdout.splitlines()
    return [line for line in lines if f"POLARISE-{node_id}" in line]


def iptables(*words: str, program: str = "iptables") -> None:
    """Damage rules, in a lab and nowhere else."""
    assert "lan0" in {name for _, name in socket.if_nameindex()}
    subprocess.run([program, "-t", "mangle", *words], check=True, timeout=30)


def allocate(miner: RunningMiner, people: People, public_key: str | None = None) -> AllocateAnswer:
    return miner.client(people.renter).allocate(AllocateRequest(ssh_public_key=public_key))


def greets_peer(place: Neighbourhood, port: int, address: str = HOST_IP_10) -> bool:
    return place.reaches_from_peer(f"{address}:{port}") == [True]


def test_nine_checks_in_three_settings_are_what_the_document_says(place: Neighbourhood) -> None:
    columns = measure(place)
    assert columns[2] == columns[3] == wanted(), table(columns)
    assert table(columns) == written_table()
    assert [sum(map(int.__eq__, column, wanted())) for column in columns] == [1, 2, 9, 9]


def test_every_private_range_and_mail_is_out_of_reach(place: Neighbourhood) -> None:
    """The peer gets one address out of each blocked range that a host can have, and the lab a way to it."""
    reserved = ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")
    networks = [ipaddress.ip_network(network) for network in BLOCKED if network not in reserved]
    addresses = [str(network[77 % network.num_addresses]) for network in networks]
    for address in addresses:
        subprocess.run(["ip", "-n", place.peer, "address", "add", f"{address}/32", "dev", "lo"], check=True)
        place.lab.output("ip", "route", "add", f"{address}/32", "via", PEER_IP_10)
    targets = [f"{address}:{SERVICE_PORT}" for address in addresses]
    _, shared_bridge, leased, _ = SETTINGS
    with shared_bridge[1](place) as tenants:
        assert all(place.reaches_from(str(tenants.attacker.id), *targets, f"{INTERNET_IP}:{MAIL_PORT}"))
    with leased[1](place) as tenants:
        assert not any(place.reaches_from(str(tenants.attacker.id), *targets, f"{INTERNET_IP}:{MAIL_PORT}"))
        assert place.reaches_from(str(tenants.attacker.id), f"{INTERNET_IP}:{SERVICE_PORT}") == [True]


def test_names_resolve_at_a_private_nameserver_that_is_closed_otherwise(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine was told to use 10.77.0.2; the host's resolv.conf, which the rules read, is another machine's here."""
    monkeypatch.setattr(firewall, "read_nameservers", lambda: (PEER_IP_10,))
    with running(MinerNode(lab_config(people, inside), tmp_path / "miner", identity)) as miner:
        answer = allocate(miner, people)
        container = inside.lab.client.containers.get(answer.container_id)
        asked = container.exec_run(["python3", "-c", f"import socket; print(socket.gethostbyname('{NAME}'))"])
        assert (asked.exit_code, asked.output) == (0, f"{INTERNET_IP}\n".encode())
        assert inside.reaches_from(answer.container_id, f"{PEER_IP_10}:{SERVICE_PORT}") == [False]
        monkeypatch.setattr(firewall, "read_nameservers", tuple)
        miner.node.firewall.guard()
        asked = container.exec_run(["timeout", "3", "python3", "-c", f"import socket; socket.gethostbyname('{NAME}')"])
        assert asked.exit_code != 0
        miner.client(people.renter).terminate(answer.container_id)


def test_ssh_from_a_private_lan_works_and_losing_established_is_noticed_and_mended(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path
) -> None:
    """Without that line every check from inside looks right, and ssh from 10.0.0.0/8 goes silent."""
    with running(MinerNode(lab_config(people, inside), tmp_path / "miner", identity)) as miner:
        answer = allocate(miner, people)
        assert greets_peer(inside, answer.ssh_port)
        chain = f"POLARISE-{miner.node_id}-OUT"
        iptables("-D", chain, "1")
        assert not greets_peer(inside, answer.ssh_port)
        assert inside.reaches_from(answer.container_id, f"{PEER_IP_10}:{SERVICE_PORT}") == [False]
        miner.node.firewall.guard()
        assert greets_peer(inside, answer.ssh_port)
        miner.client(people.renter).terminate(answer.container_id)


def test_whatever_is_done_to_the_rules_is_undone_before_the_next_allocation(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path
) -> None:
    with running(MinerNode(lab_config(people, inside), tmp_path / "miner", identity)) as miner:
        before = rules_of(miner.node_id)
        out, prefix = f"POLARISE-{miner.node_id}-OUT", interface_prefix(miner.node_id)
        for damage in (
            ("-D", out, "3"),
            ("-D", "INPUT", "-i", f"{prefix}+", "-j", f"POLARISE-{miner.node_id}-HOST"),
            ("-I", "INPUT", "1", "-i", f"{prefix}+", "-j", "ACCEPT"),
            ("-I", out, "1", "-j", "ACCEPT"),
            ("-F", out),
            ("-F",),
        ):
            iptables(*damage)
            miner.node.firewall.guard()
            assert rules_of(miner.node_id) == before, damage
            assert miner.node.firewall.state == "on"
        iptables("-F", program="ip6tables")
        answer = allocate(miner, people)
        assert rules_of(miner.node_id) == before
        miner.client(people.renter).terminate(answer.container_id)
        iptables("-F", "INPUT")
    assert rules_of(identity.public_key[:12]) == []


# Begins while it can, then asks for an echo whenever the file says so, and notes whether one came.
_HOLDING_ON = """
import pathlib, socket, time
peer = socket.create_connection(("%s", %d), timeout=5)
peer.recv(5)
pathlib.Path("/tmp/open").touch()
while not pathlib.Path("/tmp/go").exists():
    time.sleep(0.05)
peer.settimeout(3)
try:
    peer.sendall(b"again")
    said = peer.recv(5)
except OSError:
    said = b""
pathlib.Path("/tmp/saying").write_bytes(said or b"nothing")
pathlib.Path("/tmp/saying").rename("/tmp/said")
"""


def test_connection_that_was_opened_while_the_rules_were_lost_ends_when_they_are_back(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path
) -> None:
    with running(MinerNode(lab_config(people, inside), tmp_path / "miner", identity)) as miner:
        said = []
        for is_mended in (False, True):
            answer = allocate(miner, people)
            container = inside.lab.client.containers.get(answer.container_id)
            iptables("-F", f"POLARISE-{miner.node_id}-OUT")
            script = _HOLDING_ON % (PEER_IP_10, ECHO_PORT)
            container.exec_run(["python3", "-c", script], detach=True)
            wait_until(partial(has, container, "/tmp/open"), 10, "the peer was not reached")
            if is_mended:
                miner.node.firewall.guard()
            container.exec_run(["touch", "/tmp/go"])
            wait_until(partial(has, container, "/tmp/said"), 10, "it does not end")
            said.append(container.exec_run(["cat", "/tmp/said"]).output)
            miner.client(people.renter).terminate(answer.container_id)
    assert said == [b"again", b"nothing"]


def has(container: Container, path: str) -> bool:
    """Whether a container has a file."""
    return bool(container.exec_run(["test", "-e", path]).exit_code == 0)


def test_bridge_that_somebody_deleted_is_not_taken_for_an_engine_elsewhere(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path
) -> None:
    """In `auto` an engine elsewhere means no rules; a deleted interface must not have the same price."""
    with running(MinerNode(lab_config(people, inside, firewall="auto"), tmp_path / "miner", identity)) as miner:
        network = miner.allocator.manager.network
        first = network.bridge(miner.allocator.inventory.ssh_ports[0])
        subprocess.run(["ip", "link", "delete", first.interface], check=True)
        with pytest.raises(Unavailable, match="docker network rm"):
            allocate(miner, people)
        assert miner.node.firewall.state == "on"
        assert rules_of(miner.node_id) != []


def test_nothing_is_leased_while_the_rules_cannot_be_written_and_leases_are_told(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(MinerNode(lab_config(people, inside), tmp_path / "miner", identity)) as miner:
        answer = allocate(miner, people)
        lease = miner.allocator.journal.by_container(answer.container_id)
        assert lease is not None
        iptables("-F", f"POLARISE-{miner.node_id}-OUT")
        with monkeypatch.context() as broken:
            (tmp_path / "iptables-restore").write_text(FAILING)
            (tmp_path / "iptables-restore").chmod(0o755)
            broken.setenv("PATH", str(tmp_path), prepend=":")
            with pytest.raises(Unavailable, match="iptables-restore ended with 4: the kernel refuses") as refused:
                allocate(miner, people)
            assert "network.firewall" in refused.value.message
            assert [row.lease_id for row in miner.allocator.journal.all()] == [lease.lease_id]
            ready = send(miner.url, "GET", "/readyz")
            assert ready.status == 503
            assert b"firewall" in ready.body
        miner.client(people.renter).terminate(allocate(miner, people).container_id)
        assert send(miner.url, "GET", "/readyz").status == 200

        def alerts() -> list[str]:
            lines = AgentClient(tmp_path / "miner").read(lease.lease_id, 0).lines
            events = [json.loads(line) for line in lines]
            return [event["kind"] for event in events if event["payload"].get("alert") == "firewall"]

        wait_until(lambda: alerts() == ["alert.raised", "alert.cleared"], 15, "the lease was not told")
        miner.client(people.renter).terminate(answer.container_id)


@pytest.fixture(name="stack")
def things_to_close() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def test_restart_of_the_miner_keeps_sessions_bridges_and_rules_and_the_last_lease_takes_them_away(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    private, public = generate_key_pair()
    config = lab_config(people, inside)
    node_id = identity.public_key[:12]
    with running(MinerNode(config, tmp_path / "miner", identity)) as miner:
        answer = allocate(miner, people, public)
        login = Login.to(answer, tmp_path, private_key=private)
        before = rules_of(node_id)
        session = stack.enter_context(login.session())
        assert session.ask("echo one") == "one"
    assert rules_of(node_id) == before
    assert session.ask("echo two") == "two"
    assert inside.reaches_from(answer.container_id, f"{HOST_IP}:{SERVICE_PORT}", f"{INTERNET_IP}:{SERVICE_PORT}") == [
        False,
        True,
    ]
    with running(MinerNode(config, tmp_path / "miner", identity)) as miner:
        assert rules_of(node_id) == before
        assert session.ask("echo three") == "three"
        assert login.output("echo four") == "four"
        stack.close()
        miner.client(people.renter).terminate(answer.container_id)
    assert rules_of(node_id) == []
    assert inside.lab.client.networks.list(filters={"label": f"polarise.node={node_id}"}) == []


def test_two_nodes_keep_out_of_each_others_rules_and_tenants(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The second node's jumps stand before the first one's; neither takes that for damage, and neither lets pass."""
    other_identity = fresh_node_identity(people.owner)
    with (
        running(MinerNode(lab_config(people, inside), tmp_path / "one", identity)) as one,
        running(MinerNode(lab_config(people, inside), tmp_path / "two", other_identity)) as two,
    ):
        answers = [allocate(miner, people) for miner in (one, two)]
        for miner in (one, two, one, two):
            miner.node.firewall.guard()
        assert not [record for record in caplog.records if "changed by somebody else" in record.message]
        containers = [inside.lab.client.containers.get(answer.container_id) for answer in answers]
        for attacker, victim, answer in zip(containers, containers[::-1], answers[::-1], strict=True):
            _, direct = addresses_of(victim)
            gateway, _ = addresses_of(attacker)
            targets = (f"{direct}:22", f"{gateway}:{answer.ssh_port}", f"{HOST_IP}:{answer.ssh_port}")
            assert inside.reaches_from(str(attacker.id), *targets) == [False] * 3
        two.client(people.renter).terminate(answers[1].container_id)
        one.client(people.renter).terminate(answers[0].container_id)
    for node in (identity, other_identity):
        assert rules_of(node.public_key[:12]) == []


def test_strays_of_the_own_node_go_and_another_nodes_stay(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path
) -> None:
    """A network as an older version made it, and one of somebody else's."""
    client = inside.lab.client
    node_id = identity.public_key[:12]
    stray = client.networks.create(f"polarise-{node_id}", driver="bridge", labels={"polarise.node": node_id})
    other = client.networks.create("polarise-other", driver="bridge", labels={"polarise.node": "0" * 12})
    try:
        with running(MinerNode(lab_config(people, inside), tmp_path / "miner", identity)):
            wait_until(lambda: client.networks.list(ids=[stray.id]) == [], 10, "the stray is still there")
        assert client.networks.list(ids=[other.id]) != []
    finally:
        other.remove()


def test_logins_from_one_address_are_limited(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path
) -> None:
    with running(MinerNode(lab_config(people, inside), tmp_path / "miner", identity)) as miner:
        answer = allocate(miner, people)
        target = f"{HOST_IP}:{answer.ssh_port}"
        done = inside.from_peer(
            "python3",
            "-c",
            "import socket, sys\nn = 0\nfor _ in range(60):\n try:\n"
            "  socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=0.05).close(); n += 1\n"
            " except OSError: pass\nprint(n)",
            *target.split(":"),
        )
        assert LOGINS_BURST - 1 <= int(done.stdout) < 60
        # The host itself, where a proxy or a tunnel ends, is not counted.
        for _ in range(LOGINS_BURST + 1):
            assert read_banner("127.0.0.1", answer.ssh_port, deadline_seconds=10).startswith("SSH-")
        miner.client(people.renter).terminate(answer.container_id)


# Opens until forty in a row got no answer, and holds what it has.
_COLLECTING = """
import socket
held, missed = [], 0
while missed < 40 and len(held) < %d:
    try:
        held.append(socket.create_connection(("%s", %d), timeout=0.2))
        missed = 0
    except OSError:
        missed += 1
print(len(held))
"""


def test_a_tenant_holds_so_many_connections_at_once_and_not_one_more(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path
) -> None:
    with running(MinerNode(lab_config(people, inside), tmp_path / "miner", identity)) as miner:
        answer = allocate(miner, people)
        script = _COLLECTING % (CONNECTIONS_MAX + 20, INTERNET_IP, ECHO_PORT)
        done = inside.lab.client.containers.get(answer.container_id).exec_run(["python3", "-c", script])
        assert done.output == f"{CONNECTIONS_MAX}\n".encode()
        miner.client(people.renter).terminate(answer.container_id)


def test_a_cap_stands_on_the_bridge_each_way_and_everything_passes_through_it(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path
) -> None:
    config = lab_config(
        people, inside, lease_upload_bits_per_second=80_000_000, lease_download_bits_per_second=160_000_000
    )
    private, public = generate_key_pair()
    with running(MinerNode(config, tmp_path / "miner", identity)) as miner:
        answer = allocate(miner, people, public)
        login = Login.to(answer, tmp_path, private_key=private)
        assert login.output("head -c 3000000 /dev/zero | wc -c && head -c 3000000 /dev/zero").endswith("\0")
        number = miner.allocator.manager.network.bridge(answer.ssh_port).interface[2:]
        for device, rate in ((f"pl{number}", "160Mbit"), (f"pu{number}", "80Mbit")):
            (shown,) = json.loads(
                subprocess.run(
                    ["tc", "-s", "-j", "qdisc", "show", "dev", device, "root"], capture_output=True, check=True
                ).stdout
            )
            assert shown["kind"] == "tbf", (device, rate)
            assert shown["options"]["rate"] * 8 == int(rate.removesuffix("Mbit")) * 1_000_000
        assert shown["bytes"] > 3_000_000
        miner.client(people.renter).terminate(answer.container_id)
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    assert number not in links


def test_lease_of_another_engine_than_the_rules_is_refused_where_they_are_required(
    place: Neighbourhood, people: People, identity: Identity, tmp_path: Path
) -> None:
    """The miner runs outside the lab here: its rules would stand where no bridge is."""
    node = MinerNode(lab_config(people, place), tmp_path / "miner", identity)
    with running(node) as miner, pytest.raises(Unavailable, match="is not in this network namespace"):
        allocate(miner, people)
    assert rules_of(node.node_id) == []


def test_lease_of_another_engine_goes_without_rules_where_they_are_not_required(
    place: Neighbourhood, people: People, identity: Identity, tmp_path: Path
) -> None:
    node = MinerNode(lab_config(people, place, firewall="auto"), tmp_path / "miner", identity)
    with running(node):
        assert (node.firewall.state, rules_of(node.node_id)) == ("off", [])
        assert "its engine runs elsewhere" in node.firewall.cause
        assert "firewall off" in render(read_status(tmp_path / "miner"))


def test_ssh_port_is_reached_from_a_container_that_is_no_tenant(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path
) -> None:
    """A validator or renter may itself run in a container of this host."""
    client = inside.lab.client
    beside = client.containers.run(inside.lab.image, ["sleep", "600"], detach=True)
    with running(MinerNode(lab_config(people, inside), tmp_path / "miner", identity)) as miner:
        answer = allocate(miner, people)
        beside.reload()
        gateway, _ = addresses_of(beside)
        targets = (f"{HOST_IP}:{answer.ssh_port}", f"{gateway}:{answer.ssh_port}")
        assert inside.reaches_from(str(beside.id), *targets) == [True, True]
        miner.client(people.renter).terminate(answer.container_id)
    beside.remove(force=True)
