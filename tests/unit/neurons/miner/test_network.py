"""Names and ports that derive from a node's id, so that two nodes on one host never meet."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import docker
import pytest

from neurons.miner.bridges import INTERFACE_OPTION, free_subnets, routed_subnets
from neurons.miner.engine import EngineWatch
from neurons.miner.firewall_rules import interface_prefix
from neurons.miner.network import POOL, NodeNetwork
from neurons.miner.settings import SSH_PORTS, ssh_ports
from polarise.errors import Unavailable
from tests.support.engine import DEAD_ENGINE, engine
from tests.support.identities import People, identity
from tests.support.miners import miner_config
from utils.docker_utils import connect, find_container

IDS = [identity(str(number)).public_key[:12] for number in range(200)]


def test_interface_name_fits_into_linux() -> None:
    networks = [NodeNetwork(node_id, range(1024, 2024)) for node_id in IDS]
    assert {len(network.bridge(port).interface) for network in networks for port in (1024, 2023)} == {15}


def test_no_two_ports_of_any_nodes_share_a_bridge() -> None:
    bridges = [NodeNetwork(node_id, range(1024, 1034)).bridge(port) for node_id in IDS for port in range(1024, 1034)]
    assert len({bridge.name for bridge in bridges}) == len(bridges)
    assert len({bridge.interface for bridge in bridges}) == len(bridges)


def test_each_bridge_has_a_subnet_of_its_own_and_many_to_step_aside_to() -> None:
    firsts = [next(free_subnets(POOL, IDS[0], number, ())) for number in range(100)]
    assert len(set(firsts)) == 100
    every = list(free_subnets(POOL, IDS[0], 0, ()))
    assert every[0] == firsts[0]
    assert len(set(every)) == 64
    assert all(subnet.subnet_of(POOL.network) and subnet.prefixlen == 29 for subnet in every)


def test_subnet_that_the_host_routes_elsewhere_is_left_out_and_a_wider_route_is_not_in_the_way() -> None:
    """Addresses and masks as Linux prints them: 10.201.7.0/24, then a LAN of 10.0.0.0/8, then the default route."""
    head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
    rows = [("tun0", "0007C90A", "00FFFFFF"), ("eth0", "0000000A", "000000FF"), ("eth0", "00000000", "00000000")]
    text = head + "".join(f"{name}\t{to}\t00000000\t0001\t0\t0\t0\t{mask}\t0\t0\t0\n" for name, to, mask in rows)
    routed = routed_subnets(text, POOL)
    assert [str(network) for network in routed] == ["10.201.7.0/24"]
    # 10.201.7.0/29 is the 224th of the range, 10.201.8.0/29 the first behind the route.
    inside, behind = f"{223:08x}{IDS[0][8:]}", f"{256:08x}{IDS[0][8:]}"
    assert str(next(free_subnets(POOL, inside, 1, ()))) == "10.201.7.0/29"
    assert str(next(free_subnets(POOL, inside, 1, routed))) == "10.201.11.0/29"
    assert str(next(free_subnets(POOL, behind, 0, routed))) == "10.201.8.0/29"


def test_rules_of_a_node_name_its_bridges_and_no_other_nodes() -> None:
    interface = NodeNetwork(IDS[0], range(1024, 1034)).bridge(1033).interface
    assert [node_id for node_id in IDS if interface.startswith(interface_prefix(node_id))] == [IDS[0]]


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
            NodeNetwork(IDS[0]).ensure(client, "polarise.node=x", 0)
    finally:
        client.close()


class FailingEngine(BaseHTTPRequestHandler):
    """Lives, says which version it is, and fails at everything else, as one whose disk is full."""

    def do_GET(self) -> None:
        is_version = self.path.endswith("/version")
        body = b'{"ApiVersion": "1.41"}' if is_version else b'{"message": "no space left on device"}'
        self.send_response(200 if is_version or self.path.endswith("/_ping") else 500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture(name="failing")
def client_of_an_engine_that_fails() -> Iterator[docker.DockerClient]:
    with ThreadingHTTPServer(("127.0.0.1", 0), FailingEngine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = connect(f"tcp://127.0.0.1:{server.server_port}")
        yield client
        client.close()
        server.shutdown()


def test_engine_that_fails_at_something_is_an_outage_and_no_defect_of_ours(failing: docker.DockerClient) -> None:
    """Else a full disk of the engine's answers renters 500, and ends the services that look after leases."""
    network, label = NodeNetwork(IDS[0]), "polarise.node=x"
    watch = EngineWatch(failing, network, label, "an-image", used_ports=tuple)
    asked: list[Callable[[], object]] = [
        lambda: network.ensure(failing, label, 0),
        lambda: network.remove_strays(failing, label),
        lambda: network.private.sweep(failing, label),
        lambda: find_container(failing, "a" * 12),
        watch.check,
    ]
    for ask in asked:
        with pytest.raises(Unavailable, match="no space left on device"):
            ask()


@pytest.mark.docker
def test_bridge_whose_interface_somebody_else_has_is_refused_with_the_reason() -> None:
    network = NodeNetwork(IDS[1])
    with engine() as client:
        options = {INTERFACE_OPTION: network.bridge(0).interface}
        foreign = client.networks.create(f"foreign-{IDS[1]}", driver="bridge", options=options)
        try:
            with pytest.raises(Unavailable, match="same bridge name"):
                network.ensure(client, f"polarise.node={IDS[1]}", 0)
        finally:
            foreign.remove()
