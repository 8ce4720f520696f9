"""Two miners on one host: names, ports, networks and rules of their own, and no hand in the other's things."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurons.miner.network import Bridge
from neurons.miner.node import MinerNode
from neurons.miner.settings import ssh_ports
from polarise.messages import AllocateRequest
from polarise.signing import Identity
from polarise.ssh_keys import generate_key_pair
from tests.support.engine import containers_of, engine, remove_everything_of
from tests.support.identities import People, fresh_node_identity
from tests.support.miners import miner_config, running
from tests.support.ssh import Login

pytestmark = pytest.mark.docker


@pytest.fixture(name="identities")
def two_nodes_with_ports_of_their_own(people: People) -> Iterator[list[Identity]]:
    config = miner_config(people)
    identities = [fresh_node_identity(people.owner)]
    while len(identities) < 2:
        other = fresh_node_identity(people.owner)
        if ssh_ports(config, other.public_key[:12]) != ssh_ports(config, identities[0].public_key[:12]):
            identities.append(other)
    yield identities
    for identity in identities:
        remove_everything_of(identity.public_key[:12])


def rules_about(bridge: Bridge, node_id: str) -> list[str]:
    """Return the lines of iptables that name a bridge or the node, without their counters."""
    done = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True)
    ours = (bridge.interface, f"POLARISE-{node_id}")
    return [line for line in done.stdout.splitlines() if any(name in line for name in ours)]


def subnet_of(name: str) -> str:
    with engine() as client:
        return str(client.networks.get(name).attrs["IPAM"]["Config"][0]["Subnet"])


def is_network(name: str) -> bool:
    with engine() as client:
        return bool(client.networks.list(names=[name]))


def test_neither_touches_what_is_the_others(people: People, identities: list[Identity], tmp_path: Path) -> None:
    private, public = generate_key_pair()
    config = miner_config(people)
    with running(MinerNode(config, tmp_path / "one", identities[0])) as one:
        client = one.client(people.renter)
        kept = client.allocate(AllocateRequest(ssh_public_key=public))
        login = Login.to(kept, tmp_path, private_key=private)
        network = one.allocator.manager.network.bridge(kept.ssh_port)
        with login.session() as session:
            before = rules_about(network, one.node_id)
            assert before
            with running(MinerNode(config, tmp_path / "two", identities[1])) as two:
                other = two.client(people.renter).allocate(AllocateRequest())
                other_network = two.allocator.manager.network.bridge(other.ssh_port)
                assert other.ssh_port not in ssh_ports(config, one.node_id)
                assert subnet_of(network.name) != subnet_of(other_network.name)
                for miner in (two, one):
                    miner.reconcile()
                with engine() as docker_client:
                    assert containers_of(docker_client, one.node_id) == [kept.container_id]
                    assert containers_of(docker_client, two.node_id) == [other.container_id]
                assert rules_about(network, one.node_id) == before
                assert session.ask("echo one") == "one"
                two.client(people.renter).terminate(other.container_id)
            # The second miner has stopped without a lease; it leaves nothing, and the first one's things alone.
            assert not is_network(other_network.name)
            assert rules_about(other_network, two.node_id) == []
            assert rules_about(network, one.node_id) == before
            one.reconcile()
            assert session.ask("echo two") == "two"
        client.terminate(kept.container_id)


def test_container_of_a_stopped_miner_survives_the_other_ones_reconcile(
    people: People, identities: list[Identity], tmp_path: Path
) -> None:
    private, public = generate_key_pair()
    config = miner_config(people)
    with running(MinerNode(config, tmp_path / "one", identities[0])) as one:
        kept = one.client(people.renter).allocate(AllocateRequest(ssh_public_key=public))
        network = one.allocator.manager.network.bridge(kept.ssh_port)
    assert is_network(network.name)
    with running(MinerNode(config, tmp_path / "two", identities[1])) as two:
        two.reconcile()
        assert Login.to(kept, tmp_path, private_key=private).output("echo alive") == "alive"
    with running(MinerNode(config, tmp_path / "one", identities[0])) as one:
        one.client(people.renter).terminate(kept.container_id)
    assert not is_network(network.name)
    assert rules_about(network, one.node_id) == []
