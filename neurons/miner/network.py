"""The bridges of one node: one for each ssh port, so that no two containers share a network.

Rules:
- Names, interfaces and subnets derive from the node id and the port, so that several nodes on one host never share one.
- A bridge is made once and used by lease after lease; some are made ahead, so that allocating waits for none.
- A network that exists already is taken only if it carries this node's label; so is one that is removed.
- No container is made in a bridge that lies where the packet filter is not.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import APIError, NotFound
from docker.models.networks import Network
from docker.types import IPAMConfig, IPAMPool

from neurons.miner.bandwidth_cap import BandwidthCap
from neurons.miner.firewall import Firewall
from neurons.miner.firewall_rules import interface_prefix
from polarise.errors import Unavailable
from utils.docker_utils import engine_errors

logger = logging.getLogger(__name__)

SUBNETS = ipaddress.IPv4Network("10.201.0.0/16")
SUBNET_PREFIX = 29
# A bridge whose own subnet is taken steps aside by more than the hundred ports that a node has.
STRIDE = 128
SPARE_COUNT = 2
RETRY_SECONDS = 60
INTERFACE_OPTION = "com.docker.network.bridge.name"
# Of the calling thread; /proc/net is the process's.
ROUTES = Path("/proc/thread-self/net/route")


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
    """

    def __init__(
        self,
        node_id: str,
        ssh_ports: range = range(0, 1000),
        firewall: Firewall | None = None,
        cap: BandwidthCap | None = None,
    ) -> None:
        self.node_id = node_id
        self.firewall = firewall
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
            Unavailable: The engine cannot be asked, the name is taken by somebody else, no subnet is free, or the bridge
                does not lie where the packet filter is.
        """
        bridge = self.bridge(ssh_port)
        key, _, value = label.partition("=")
        with engine_errors(), self._making:
            found = _find(client, bridge.name)
            if found is None:
                self._create(client, bridge, {key: value})
            elif (found.attrs.get("Labels") or {}).get(key) != value or _interface_of(found) != bridge.interface:
                raise Unavailable(
                    f"a Docker network {bridge.name} exists and is not this node's: docker network rm {bridge.name}",
                    retry_after_seconds=RETRY_SECONDS,
                )
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
        """Remove every network with this node's label but those of some ports; one in use is left alone.

        Args:
            client: The engine.
            label: This node's label.
            keep: Ports whose bridges stay.

        Raises:
            Unavailable: The engine cannot be asked.
        """
        kept = {self.bridge(port).name for port in keep if port in self._ssh_ports}
        with engine_errors(), self._making:
            for found in _labelled(client, label):
                if found.name not in kept:
                    self._remove(found)

    def remove_strays(self, client: docker.DockerClient, label: str) -> None:
        """Remove networks with this node's label that no port of it has: of another block of ports, or an older version.

        Raises:
            Unavailable: The engine cannot be asked.
        """
        self.remove(client, label, keep=self._ssh_ports)

    def _remove(self, found: Network) -> None:
        try:
            found.remove()
        except (NotFound, APIError) as err:
            logger.debug("network not removed", extra={"network": found.name, "cause": str(err)})
            return
        if self._cap is not None:
            self._cap.forget(_interface_of(found))

    def _create(self, client: docker.DockerClient, bridge: Bridge, labels: dict[str, str]) -> None:
        refusal = "all are routed elsewhere"
        for subnet in free_subnets(self.node_id, bridge.number, _routes()):
            try:
                client.networks.create(
                    bridge.name,
                    driver="bridge",
                    labels=labels,
                    check_duplicate=True,
                    ipam=IPAMConfig(pool_configs=[IPAMPool(subnet=str(subnet))]),
                    options={
                        INTERFACE_OPTION: bridge.interface,
                        "com.docker.network.bridge.enable_icc": "false",
                    },
                )
            except APIError as err:
                # "Pool overlaps with other one on this address space": another node hashed to the same subnet.
                refusal = err.explanation or str(err)
                if "overlap" not in refusal.lower():
                    raise
            else:
                logger.info("network made", extra={"network": bridge.name, "subnet": str(subnet)})
                return
        raise Unavailable(
            f"no free subnet in {SUBNETS}: {refusal}; `docker network ls` shows who has them",
            retry_after_seconds=RETRY_SECONDS,
        )


def free_subnets(node_id: str, number: int, routed: Sequence[ipaddress.IPv4Network]) -> Iterator[ipaddress.IPv4Network]:
    """Yield the subnets a bridge may take, its own first.

    Args:
        node_id: Twelve hex digits.
        number: Of the bridge.
        routed: What this host routes elsewhere; a subnet that overlaps is left out.
    """
    count = 1 << (SUBNET_PREFIX - SUBNETS.prefixlen)
    begin = int(node_id[:8], 16) + number
    for step in range(count // STRIDE):
        place = (begin + step * STRIDE) % count
        subnet = ipaddress.IPv4Network((int(SUBNETS.network_address) + (place << (32 - SUBNET_PREFIX)), SUBNET_PREFIX))
        if not any(subnet.overlaps(other) for other in routed):
            yield subnet


def routed_subnets(text: str) -> list[ipaddress.IPv4Network]:
    """Return the routes inside our range out of the text of /proc/net/route.

    A wider one, such as 10.0.0.0/8 of a LAN, takes nothing from it: the bridge's own route is the narrower.
    """
    found: list[ipaddress.IPv4Network] = []
    for line in text.splitlines()[1:]:
        words = line.split()
        # The kernel prints both in the host's byte order, which is little-endian wherever this runs.
        address, mask = (int.from_bytes(bytes.fromhex(words[index]), "little") for index in (1, 7))
        network = ipaddress.IPv4Network((address, mask.bit_count()))
        if network.subnet_of(SUBNETS):
            found.append(network)
    return found


def _routes() -> list[ipaddress.IPv4Network]:
    """Read the host's routes; where that cannot be done the engine alone says what overlaps."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return routed_subnets(ROUTES.read_text(encoding="ascii"))
    return []


def _find(client: docker.DockerClient, name: str) -> Network | None:
    try:
        return client.networks.get(name)
    except NotFound:
        return None


def _interface_of(network: Network) -> str:
    return str((network.attrs.get("Options") or {}).get(INTERFACE_OPTION, ""))


def _labelled(client: docker.DockerClient, label: str) -> list[Network]:
    return list(client.networks.list(filters={"label": label}))
