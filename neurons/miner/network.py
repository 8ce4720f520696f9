"""The bridges of one node: one for each ssh port, so that no two containers share a network.

Rules:
- Names, interfaces and subnets derive from the node id and the port, so that several nodes on one host never share one.
- A bridge is made once and used by lease after lease; some are made ahead, so that allocating waits for none.
- A network that exists already is taken only if it carries this node's label; so is one that is removed.
- No container is made in a bridge that lies where the packet filter is not.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import docker
from docker.models.networks import Network

from neurons.miner.bandwidth_cap import BandwidthCap
from neurons.miner.bridges import (
    Pool,
    create_network,
    find_network,
    foreign,
    free_subnets,
    host_routes,
    interface_of,
    is_made_by,
    labelled,
    remove_network,
)
from neurons.miner.firewall import Firewall
from neurons.miner.firewall_rules import LEASE_RANGE, interface_prefix
from neurons.miner.private_network import PrivateNetworks
from utils.docker_utils import engine_work

POOL = Pool(ipaddress.IPv4Network(LEASE_RANGE), 29)
SPARE_COUNT = 2
OPTIONS = {"com.docker.network.bridge.enable_icc": "false"}


@dataclass(frozen=True, slots=True)
class Bridge:
    """The network of one ssh port.

    Attributes:
        number: Its place in the node's block of ports, 0 to 999.
        name: Of the Docker network.
        interface: Linux allows 15 characters.
    """

    number: int
    name: str
    interface: str


class NodeNetwork:
    """All bridges of one node.

    Args:
        node_id: Twelve hex digits.
        ssh_ports: The node's ports; each has a bridge of its own.
        firewall: What keeps tenants from the rest; None where nobody asked for one.
        cap: How fast each bridge may be.
        used_private: Returns the numbers of the private networks that rows of the journal name.
    """

    def __init__(
        self,
        node_id: str,
        ssh_ports: range = range(0, 1000),
        firewall: Firewall | None = None,
        cap: BandwidthCap | None = None,
        used_private: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self.node_id = node_id
        self.firewall = firewall
        self.private = PrivateNetworks(node_id, firewall, used_private)
        self._ssh_ports = ssh_ports
        self._cap = cap
        # A bridge that two threads miss at the same moment is made once: the engine allows two of one name.
        self._making = threading.Lock()

    def bridge(self, ssh_port: int) -> Bridge:
        """Return the bridge of a port, whether it is there or not."""
        number = self._ssh_ports.index(ssh_port)
        return Bridge(number, f"polarise-{self.node_id}-{number:03d}", f"{interface_prefix(self.node_id)}{number:03d}")

    def guard(self) -> None:
        """See to it that the packet filter stands.

        Raises:
            Unavailable: It does not; nothing may be handed out.
        """
        if self.firewall is not None:
            self.firewall.guard()

    def ensure(self, client: docker.DockerClient, label: str, ssh_port: int) -> None:
        """Make the bridge of a port unless it is there.

        Args:
            client: The engine.
            label: This node's label, ``name=value``.
            ssh_port: One of the node's.

        Raises:
            Unavailable: The engine cannot be asked or refuses, the name is taken by somebody else, no subnet is free, or the bridge
                does not lie where the packet filter is.
        """
        bridge = self.bridge(ssh_port)
        with engine_work(), self._making:
            found = find_network(client, bridge.name)
            if found is None:
                subnets = free_subnets(POOL, self.node_id, bridge.number, host_routes(POOL))
                create_network(client, bridge.name, bridge.interface, label, subnets, OPTIONS)
            elif not is_made_by(found, label, bridge.interface):
                raise foreign(bridge.name)
        if self.firewall is not None:
            self.firewall.guard_interface(bridge.interface, is_new=found is None)

    def hold_cap(self, ssh_port: int) -> None:
        """Cap the bandwidth of the container that runs in the bridge of a port."""
        if self._cap is not None and ssh_port in self._ssh_ports:
            self._cap.hold(self.bridge(ssh_port).interface)

    def ensure_spare(self, client: docker.DockerClient, label: str, used: Iterable[int], count: int) -> None:
        """Make the bridges of the next ports that nobody uses, in the order in which they are given out.

        Args:
            client: The engine.
            label: This node's label.
            used: Ports of leases.
            count: How many to have ready.

        Raises:
            Unavailable: As `ensure`.
        """
        taken = set(used)
        for port in [port for port in self._ssh_ports if port not in taken][:count]:
            self.ensure(client, label, port)
        # A container that was started again has a new cable, and after a reboot a new bridge.
        for port in taken:
            self.hold_cap(port)

    def remove(self, client: docker.DockerClient, label: str, keep: Collection[int] = ()) -> None:
        """Remove every network with this node's label that no lease needs; one in use is left alone.

        Args:
            client: The engine.
            label: This node's label.
            keep: Ports whose bridges stay.

        Raises:
            Unavailable: The engine cannot be asked.
        """
        kept = {self.bridge(port).name for port in keep if port in self._ssh_ports}
        with engine_work(), self._making:
            for found in labelled(client, label):
                if found.name not in kept and not self.private.is_private(found):
                    self._remove(found)
        self.private.sweep(client, label)

    def remove_strays(self, client: docker.DockerClient, label: str) -> None:
        """Remove networks with this node's label that no port of it has: of another block of ports, or an older version.

        Raises:
            Unavailable: The engine cannot be asked.
        """
        self.remove(client, label, keep=self._ssh_ports)

    def _remove(self, found: Network) -> None:
        if remove_network(found) and self._cap is not None:
            self._cap.forget(interface_of(found))
