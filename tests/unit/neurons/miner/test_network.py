"""Names and ports that derive from a node's id, so that two nodes on one host never meet."""

import pytest

from neurons.miner.network import NodeNetwork
from neurons.miner.settings import SSH_PORTS, ssh_ports
from polarise.errors import Unavailable
from tests.support.engine import DEAD_ENGINE
from tests.support.identities import People, identity
from tests.support.miners import miner_config
from utils.docker_utils import connect

IDS = [identity(str(number)).public_key[:12] for number in range(200)]


def test_interface_name_fits_into_linux() -> None:
    assert {len(NodeNetwork(node_id).interface) for node_id in IDS} == {15}


def test_names_of_two_nodes_differ() -> None:
    assert len({NodeNetwork(node_id).name for node_id in IDS}) == len(IDS)
    assert len({NodeNetwork(node_id).interface for node_id in IDS}) == len(IDS)


def test_ports_are_a_block_of_their_own_below_the_clients_range(people: People) -> None:
    config = miner_config(people)
    blocks = [ssh_ports(config, node_id) for node_id in IDS]
    for block in blocks:
        assert len(block) == config.docker.ssh_port_count
        assert block[0] in SSH_PORTS
        assert block[-1] in SSH_PORTS
        # Two blocks are the same one or do not touch.
        assert all(other == block or not set(other) & set(block) for other in blocks)
    assert len({block[0] for block in blocks}) > 50


def test_configured_ports_win(people: People) -> None:
    config = miner_config(people, docker={"ssh_port_first": 40_000, "ssh_port_count": 7})
    assert ssh_ports(config, IDS[0]) == range(40_000, 40_007)


def test_engine_that_is_away_makes_no_network() -> None:
    client = connect(DEAD_ENGINE)
    try:
        with pytest.raises(Unavailable):
            NodeNetwork(IDS[0]).ensure(client, "polarise.node=x")
    finally:
        client.close()
