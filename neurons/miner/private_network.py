"""The networks in which leases of one renter reach each other, where they asked for one by name; nobody else is in them.

Rules:
- One bridge for each renter and name. It goes with the last lease in it; the journal's rows say which are in use.
- It is given only where the packet filter stands: nothing leaves it for the host, a LAN or another lease.
- The host has no address in it, and a container that is in one forwards no packets, so that it leads nowhere.
- Names of bridges derive from the node and a number. What the renter called it never reaches the engine.
- An address is chosen here and held by the engine as long as the container lives, also when it is started again.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import docker
from docker.models.containers import Container
from docker.models.networks import Network

from neurons.miner.bridges import (
    RETRY_SECONDS,
    Pool,
    create_network,
    find_network,
    foreign,
    free_subnets,
    host_routes,
    is_made_by,
    labelled,
    remove_network,
)
from neurons.miner.firewall import Firewall
from neurons.miner.firewall_rules import PRIVATE_NETWORKS_MAX, PRIVATE_RANGE, private_prefix
from neurons.miner.lease import Lease, PrivatePlace
from polarise.errors import ErrorCode, RequestRejected, Unavailable
from utils.docker_utils import engine_work

logger = logging.getLogger(__name__)

POOL = Pool(ipaddress.IPv4Network(PRIVATE_RANGE), 26)
# Of the 62 addresses the engine keeps the first for a gateway, which is never set up.
FIRST_HOST = 2
MEMBERS_MAX = 61
FIELD = "private_network"
# Of the container: its two interfaces are no way from one network to the other.
SYSCTLS = {"net.ipv4.ip_forward": "0"}
OPTIONS = {"com.docker.network.bridge.inhibit_ipv4": "true"}


class PrivateNetworks:
    """All private networks of one node.

    Args:
        node_id: Twelve hex digits.
        firewall: What keeps them apart; None where there is none, and none are given then.
        used: Returns the numbers of the networks that rows of the journal name.
    """

    def __init__(self, node_id: str, firewall: Firewall | None, used: Callable[[], Collection[int]]) -> None:
        self._node_id = node_id
        self._firewall = firewall
        self._used = used
        # From the look at the rows to the end of what follows from it: no network goes that a new row has just named.
        self._lock = threading.Lock()

    def name(self, number: int) -> str:
        """Return the name of a network at the engine."""
        return f"{self._prefix}{number:03d}"

    def interface(self, number: int) -> str:
        """Return the name of a network's bridge; Linux allows 15 characters."""
        return f"{private_prefix(self._node_id)}{number:03d}"

    def is_private(self, network: Network) -> bool:
        """Whether a network is one of these, in use or not."""
        return str(network.name).startswith(self._prefix)

    def why_none(self) -> str | None:
        """Return why this miner gives none, None where it does."""
        if self._firewall is None:
            return "it has no packet filter"
        return f"it has no packet filter: {self._firewall.cause}" if self._firewall.state == "off" else None

    def join(self, client: docker.DockerClient, label: str, container: Container, place: PrivatePlace) -> PrivatePlace:
        """Put a container that was not started yet into its network, which is made where it is missing.

        Args:
            client: The engine.
            label: This node's label.
            container: The lease's.
            place: As the journal has it.

        Returns:
            The place with its address.

        Raises:
            Unavailable: The engine cannot be asked or refuses, no subnet is free, or the packet filter does not stand.
        """
        with engine_work(), self._lock:
            network = self._ensure(client, label, place.number)
            address = str(_subnet_of(network)[FIRST_HOST + place.member])
            network.connect(container, ipv4_address=address)
        return replace(place, address=address)

    def sweep(self, client: docker.DockerClient, label: str) -> None:
        """Remove the networks that no row names any more.

        Raises:
            Unavailable: The engine cannot be asked.
        """
        with engine_work(), self._lock:
            kept = {self.name(number) for number in self._used()}
            for network in labelled(client, label):
                if self.is_private(network) and network.name not in kept:
                    remove_network(network)

    @property
    def _prefix(self) -> str:
        return f"polarise-{self._node_id}-p"

    def _ensure(self, client: docker.DockerClient, label: str, number: int) -> Network:
        name, interface = self.name(number), self.interface(number)
        found = find_network(client, name)
        is_new = found is None
        if found is None:
            subnets = free_subnets(POOL, self._node_id, number, host_routes(POOL))
            create_network(client, name, interface, label, subnets, OPTIONS, is_internal=True)
            found = client.networks.get(name)
        elif not is_made_by(found, label, interface) or not found.attrs.get("Internal"):
            raise foreign(name)
        if self._firewall is not None:
            self._firewall.guard_interface(interface, is_new=is_new)
        if (cause := self.why_none()) is not None:
            raise Unavailable(
                f"this miner gives no private networks any more: {cause}", retry_after_seconds=RETRY_SECONDS
            )
        return found


def choose_place(name: str, renter_key: str, leases: Sequence[Lease]) -> PrivatePlace:
    """Return the first free place of a renter in the network of that name, or the first of a new one.

    Args:
        name: As the renter calls it.
        renter_key: Whose.
        leases: All rows; also one that is about to go holds its place.

    Raises:
        RequestRejected: NO_CAPACITY (409), the network or the node is full.
    """
    mates = [lease.private for lease in leases if lease.private and lease.renter_key == renter_key]
    mates = [place for place in mates if place.name == name]
    numbers = {lease.private.number for lease in leases if lease.private}
    if mates:
        number, members = mates[0].number, {place.member for place in mates}
    else:
        free = (candidate for candidate in range(PRIVATE_NETWORKS_MAX) if candidate not in numbers)
        number, members = next(free, -1), set()
    if number < 0:
        raise _full(f"all {PRIVATE_NETWORKS_MAX} private networks of this host are taken")
    member = next((candidate for candidate in range(MEMBERS_MAX) if candidate not in members), None)
    if member is None:
        raise _full(f"your private network {name!r} has {MEMBERS_MAX} leases, which is the most")
    return PrivatePlace(name, number, member)


def joined(container_attrs: dict[str, Any]) -> dict[str, str]:
    """Return the networks a container is in, name -> its address there, out of what the engine says of it."""
    networks = container_attrs["NetworkSettings"]["Networks"] or {}
    return {str(name): str(network.get("IPAddress") or "") for name, network in networks.items()}


def _full(message: str) -> RequestRejected:
    hint = "leave it out, or ask again when a lease has ended"
    return RequestRejected(ErrorCode.NO_CAPACITY, message, hint=hint, field=FIELD, status=409)


def _subnet_of(network: Network) -> ipaddress.IPv4Network:
    """Return where a network lies.

    Raises:
        Unavailable: Not where this node would have put it.
    """
    with contextlib.suppress(KeyError, IndexError, TypeError, ValueError):
        subnet = ipaddress.IPv4Network(network.attrs["IPAM"]["Config"][0]["Subnet"])
        if subnet.subnet_of(POOL.network) and subnet.prefixlen == POOL.prefix:
            return subnet
    raise foreign(str(network.name))
