"""Leases of one renter that share a private network, and everybody else: who reaches whom, and what is left afterwards.

Everything runs in a lab without a way out; `tests.lab.lan` plays the LAN, the cloud's metadata and the internet.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.models.containers import Container
from docker.types import IPAMConfig, IPAMPool

from neurons.miner.container import LimitNotApplied
from neurons.miner.firewall_rules import CONNECTIONS_MAX, LOGINS_BURST, private_prefix
from neurons.miner.journal import Journal
from neurons.miner.node import MinerNode
from polarise.clients import MinerClient
from polarise.errors import ErrorCode, RequestRejected, Unavailable
from polarise.messages import AllocateAnswer, AllocateRequest
from polarise.receipt import Receipt
from polarise.signing import Identity
from tests.lab.lan import (
    HOST_IP,
    INTERNET_IP,
    METADATA_IP,
    METADATA_PORT,
    PEER_IP,
    SERVICE_PORT,
    Neighbourhood,
    entered,
    neighbourhood,
)
from tests.lab.network_matrix import addresses_of, lab_config
from tests.lab.test_network import iptables, rules_of
from tests.support.identities import People, fresh_node_identity
from tests.support.machine import Machine
from tests.support.miners import RunningMiner, running, wait_until
from tests.support.worker import free_port

pytestmark = [pytest.mark.docker, pytest.mark.lab]

# In a container: sends from an address it names, also one that is not its own, and says how that ended.
_SEND_AS = """
import socket, sys
own, to, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.setsockopt(socket.IPPROTO_IP, 15, 1)
    try:
        sender.bind((own, 0))
        sender.sendto(b"posing", (to, port))
    except OSError as err:
        print(err.errno)
    else:
        print(0)
"""


@pytest.fixture(scope="module", name="place")
def a_lab_with_neighbours() -> Iterator[Neighbourhood]:
    with neighbourhood() as place:
        yield place


@pytest.fixture(name="inside")
def this_thread_in_the_lab(place: Neighbourhood) -> Iterator[Neighbourhood]:
    with entered(place.lab):
        yield place


@pytest.fixture(name="identity")
def a_node(people: People) -> Identity:
    return fresh_node_identity(people.owner)


def rent(miner: RunningMiner, who: Identity, network: str | None) -> AllocateAnswer:
    return miner.client(who).allocate(AllocateRequest(private_network=network))


def container_of(place: Neighbourhood, answer: AllocateAnswer) -> Container:
    return place.lab.client.containers.get(answer.container_id)


def output_of(container: Container, *command: str) -> str:
    output = container.exec_run(list(command)).output
    assert isinstance(output, bytes)
    return output.decode().strip()


def private_address(answer: AllocateAnswer) -> str:
    assert answer.private_network is not None
    return answer.private_network.address


def private_things(place: Neighbourhood, node_id: str) -> list[str]:
    """Return a node's private networks at the engine and bridges in the kernel."""
    names = [str(network.name) for network in place.lab.client.networks.list()]
    links = place.lab.output("ip", "-br", "link").split()
    return [name for name in names if name.startswith(f"polarise-{node_id}-p")] + [
        link for link in links if link.startswith(private_prefix(node_id))
    ]


def test_mates_reach_each_other_and_nobody_else_does(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path
) -> None:
    with running(MinerNode(lab_config(people, inside), tmp_path / "miner", identity)) as miner:
        one, two = (rent(miner, people.renter, "a") for _ in range(2))
        elsewhere = rent(miner, people.renter, "b")
        stranger = rent(miner, people.other_renter, "a")
        alone = rent(miner, people.other_renter, None)
        assert (one.private_network and one.private_network.name, alone.private_network) == ("a", None)
        view = miner.client(people.renter).container(two.container_id)
        assert view.private_network == two.private_network
        assert two.receipt.open("receipt", Receipt).private_network == two.private_network

        # The host gets what it never has, an address in the network and so a way into it: the rules hold all the same.
        mate, gateway = private_address(two), private_address(one).rpartition(".")[0] + ".1"
        inside.lab.output("ip", "address", "add", f"{gateway}/26", "dev", private_bridge(miner, 0))
        others = [f"{private_address(answer)}:22" for answer in (elsewhere, stranger)]
        host = [f"{address}:{SERVICE_PORT}" for address in (gateway, HOST_IP, PEER_IP)]
        beyond = [f"{METADATA_IP}:{METADATA_PORT}", f"{INTERNET_IP}:{SERVICE_PORT}"]
        assert inside.reaches_from(one.container_id, f"{mate}:22", *beyond, *others, *host) == [
            *(True, False, True),
            *[False] * 5,
        ]
        mates = [f"{private_address(answer)}:22" for answer in (one, two)]
        for outsider in (elsewhere, stranger, alone):
            assert inside.reaches_from(outsider.container_id, *mates) == [False, False]
        inside.from_peer("ip", "route", "add", f"{mate}/32", "via", HOST_IP)
        assert inside.reaches_from_peer(mates[1]) == [False]
        inside.lab.output("ip", "address", "delete", f"{gateway}/26", "dev", private_bridge(miner, 0))
        assert inside.reaches_from(two.container_id, mates[0]) == [True]

        # The names the engine gives lead to mates, and to nobody else.
        names = f"import socket; print(socket.gethostbyname('{two.container_id[:12]}'))"
        assert output_of(container_of(inside, one), "python3", "-c", names) == mate
        assert output_of(container_of(inside, stranger), "timeout", "2", "python3", "-c", names) == ""

        refuse_to_pose(inside, one, two)
        many_connections_are_cut(inside, one, mate)
        for who, answers in ((people.renter, (one, two, elsewhere)), (people.other_renter, (stranger, alone))):
            for answer in answers:
                miner.client(who).terminate(answer.container_id)
        assert private_things(inside, miner.node_id) == []
    assert rules_of(identity.public_key[:12]) == []


def private_bridge(miner: RunningMiner, number: int) -> str:
    return miner.allocator.manager.network.private.interface(number)


def refuse_to_pose(place: Neighbourhood, one: AllocateAnswer, two: AllocateAnswer) -> None:
    """A mate's address cannot be taken, no packet is forwarded, and a private address does not leave through the other way."""
    container = container_of(place, one)

    def send_as(own: str, to: str) -> str:
        return output_of(container, "python3", "-c", _SEND_AS, own, to, "9")

    assert send_as(private_address(one), private_address(two)) == "0"
    assert send_as(private_address(two), INTERNET_IP) != "0"
    assert output_of(container, "cat", "/proc/sys/net/ipv4/ip_forward") == "0"
    # The kernel lets a program name its private address on the way to the internet; the filter does not.
    with subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{place.peer}", "--", "timeout", "3", "python3", "-c", _LISTEN],
        stdout=subprocess.PIPE,
    ) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == b"ready\n"
        assert send_as(private_address(one), INTERNET_IP) == "0"
        assert send_as("0.0.0.0", INTERNET_IP) == "0"
        # The one that may comes through, and comes second.
        assert listener.stdout.readline().strip() not in (b"", private_address(one).encode())


_LISTEN = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("0.0.0.0", 9))
    print("ready", flush=True)
    print(server.recvfrom(64)[1][0], flush=True)
"""


def many_connections_are_cut(place: Neighbourhood, one: AllocateAnswer, mate: str) -> None:
    """What two leases say to each other fills the host's table of connections, and is bounded like all else."""
    script = (
        "import socket, sys\nheld = []\n"
        "while len(held) < 700:\n"
        "  try: held.append(socket.create_connection((sys.argv[1], 22), timeout=0.2))\n"
        "  except OSError: break\n"
        "print(len(held))"
    )
    held = int(output_of(container_of(place, one), "python3", "-c", script, mate))
    assert LOGINS_BURST < held <= CONNECTIONS_MAX


def test_private_network_outlives_flush_engine_and_container_and_its_addresses_stay(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path
) -> None:
    with running(MinerNode(lab_config(people, inside), tmp_path / "miner", identity)) as miner:
        one, two = (rent(miner, people.renter, "a") for _ in range(2))
        target = f"{private_address(two)}:22"
        iptables("-F", f"POLARISE-{miner.node_id}-PRI")
        miner.node.firewall.guard()
        assert inside.reaches_from(one.container_id, target) == [True]
        container_of(inside, two).kill()
        miner.reconcile()
        assert inside.reaches_from(one.container_id, target) == [True]
        inside.lab.engine.stop()
        inside.lab.engine.start()
        inside.lab.engine.wait(inside.lab.client)
        miner.allocator.manager.network.remove_strays(inside.lab.client, f"polarise.node={miner.node_id}")
        # A container ends once more; the second time is its last, so only the other may have ended before.
        wait_until(lambda: reaches_after_reconcile(miner, inside, one), 30, "the first does not come back")
        assert [view.container_id for view in miner.client(people.renter).containers()] == [one.container_id]
        third = rent(miner, people.renter, "a")
        assert private_address(third) == private_address(two)
        assert inside.reaches_from(one.container_id, f"{private_address(third)}:22") == [True]
        for answer in (one, third):
            assert private_things(inside, miner.node_id) != []
            miner.client(people.renter).terminate(answer.container_id)
        assert private_things(inside, miner.node_id) == []


def reaches_after_reconcile(miner: RunningMiner, place: Neighbourhood, answer: AllocateAnswer) -> bool:
    miner.reconcile()
    return bool(container_of(place, answer).status == "running")


def rent_and_release(client: MinerClient) -> None:
    client.terminate(client.allocate(AllocateRequest(private_network="a")).container_id)


@pytest.mark.parametrize("step", ["allocate.joined", "terminate.forgotten"])
def test_crash_leaves_no_private_network(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path, step: str
) -> None:
    config = lab_config(people, inside, port=free_port())
    machine = Machine(people, identity, tmp_path / "miner", config)
    node_id = identity.public_key[:12]
    with machine.process(crash_at=step) as process:
        with pytest.raises(Unavailable):
            rent_and_release(machine.client(process))
        process.wait_killed()
    assert private_things(inside, node_id) != []
    with machine.process() as process:
        for view in machine.client(process).containers():
            assert view.private_network is not None
            machine.client(process).terminate(view.container_id)
        wait_until(lambda: private_things(inside, node_id) == [], 10, "a private network is left")
        assert process.terminate() == 0
    with Journal(tmp_path / "miner" / "journal.sqlite") as journal:
        assert journal.all() == []
    assert rules_of(node_id) == []
    assert inside.lab.client.networks.list(filters={"label": f"polarise.node={node_id}"}) == []


def test_taken_name_and_subnets_are_said_and_a_second_network_of_a_container_is_not_handed_out(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node_id = identity.public_key[:12]
    client = inside.lab.client
    foreign = client.networks.create(f"polarise-{node_id}-p000", driver="bridge")
    with running(MinerNode(lab_config(people, inside), tmp_path / "miner", identity)) as miner:
        with pytest.raises(Unavailable, match="docker network rm"):
            rent(miner, people.renter, "a")
        foreign.remove()
        assert miner.allocator.journal.all() == []
        pools = [
            client.networks.create(f"taken-{half}", driver="bridge", ipam=docker_pool(f"10.202.{half}.0/17"))
            for half in (0, 128)
        ]
        with pytest.raises(Unavailable, match="no free subnet"):
            rent(miner, people.renter, "a")
        for pool in pools:
            pool.remove()
        answer = rent(miner, people.renter, "a")
        lease = miner.allocator.journal.by_container(answer.container_id)
        assert lease is not None
        _, own = addresses_of(container_of(inside, answer))
        assert own != private_address(answer)
        client.networks.get("bridge").connect(answer.container_id)
        with pytest.raises(LimitNotApplied, match="it is in the networks"):
            miner.allocator.manager.check_limits(container_of(inside, answer), lease)
        miner.client(people.renter).terminate(answer.container_id)


def docker_pool(subnet: str) -> IPAMConfig:
    return IPAMConfig(pool_configs=[IPAMPool(subnet=subnet)])


def test_miner_without_a_packet_filter_refuses_by_the_fields_name(
    inside: Neighbourhood, people: People, identity: Identity, tmp_path: Path
) -> None:
    config = lab_config(people, inside, firewall="off")
    with running(MinerNode(config, tmp_path / "miner", identity)) as miner:
        with pytest.raises(RequestRejected) as caught:
            rent(miner, people.renter, "a")
        assert (caught.value.code, caught.value.field) == (ErrorCode.NOT_SUPPORTED, "private_network")
        assert "network.firewall" in (caught.value.hint or "")
        assert private_things(inside, miner.node_id) == []
