"""Docker networks that are Linux bridges of ours: which subnet each takes, and how one is made, found and removed."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import APIError, NotFound
from docker.models.networks import Network
from docker.types import IPAMConfig, IPAMPool

from polarise.errors import Unavailable

logger = logging.getLogger(__name__)

# A bridge whose own subnet is taken steps aside by more than the hundred bridges of a kind that a node has.
STRIDE = 128
RETRY_SECONDS = 60
INTERFACE_OPTION = "com.docker.network.bridge.name"
# Of the calling thread; /proc/net is the process's.
ROUTES = Path("/proc/thread-self/net/route")


@dataclass(frozen=True, slots=True)
class Pool:
    """Where the subnets of one kind of bridge lie.

    Attributes:
        network: All of them.
        prefix: Length of one.
    """

    network: ipaddress.IPv4Network
    prefix: int


def create_network(
    client: docker.DockerClient,
    name: str,
    interface: str,
    label: str,
    subnets: Iterable[ipaddress.IPv4Network],
    options: Mapping[str, str],
    *,
    is_internal: bool = False,
) -> None:
    """Make a network on the first subnet that nobody has.

    Args:
        client: The engine.
        name: Of the network.
        interface: Of its bridge.
        label: Whose it is, ``name=value``.
        subnets: In the order in which they are tried.
        options: More of the driver's.
        is_internal: Whether the engine routes nothing out of it.

    Raises:
        Unavailable: No subnet is free.
        APIError: The engine refused for another reason.
    """
    key, _, value = label.partition("=")
    refusal = "all are routed elsewhere"
    for subnet in subnets:
        try:
            client.networks.create(
                name,
                driver="bridge",
                labels={key: value},
                check_duplicate=True,
                internal=is_internal,
                ipam=IPAMConfig(pool_configs=[IPAMPool(subnet=str(subnet))]),
                options={INTERFACE_OPTION: interface, **options},
            )
        except APIError as err:
            # "Pool overlaps with other one on this address space": another node hashed to the same subnet.
            refusal = err.explanation or str(err)
            if "overlap" not in refusal.lower():
                raise
        else:
            logger.info("network made", extra={"network": name, "subnet": str(subnet)})
            return
    raise Unavailable(
        f"no free subnet for the network {name}: {refusal}; `docker network ls` shows who has them",
        retry_after_seconds=RETRY_SECONDS,
    )


def free_subnets(
    pool: Pool, node_id: str, number: int, routed: Sequence[ipaddress.IPv4Network]
) -> Iterator[ipaddress.IPv4Network]:
    """Yield the subnets a bridge may take, its own first.

    Args:
        pool: Of its kind.
        node_id: Twelve hex digits.
        number: Of the bridge.
        routed: What this host routes elsewhere; a subnet that overlaps is left out.
    """
    count = 1 << (pool.prefix - pool.network.prefixlen)
    begin = int(node_id[:8], 16) + number
    for step in range(count // STRIDE):
        place = (begin + step * STRIDE) % count
        subnet = ipaddress.IPv4Network((int(pool.network.network_address) + (place << (32 - pool.prefix)), pool.prefix))
        if not any(subnet.overlaps(other) for other in routed):
            yield subnet


def routed_subnets(text: str, pool: Pool) -> list[ipaddress.IPv4Network]:
    """Return the routes inside a pool out of the text of /proc/net/route.

    A wider one, such as 10.0.0.0/8 of a LAN, takes nothing from it: the bridge's own route is the narrower.
    """
    found: list[ipaddress.IPv4Network] = []
    for line in text.splitlines()[1:]:
        words = line.split()
        # The kernel prints both in the host's byte order, which is little-endian wherever this runs.
        address, mask = (int.from_bytes(bytes.fromhex(words[index]), "little") for index in (1, 7))
        network = ipaddress.IPv4Network((address, mask.bit_count()))
        if network.subnet_of(pool.network):
            found.append(network)
    return found


def host_routes(pool: Pool) -> list[ipaddress.IPv4Network]:
    """Read the host's routes inside a pool; where that cannot be done the engine alone says what overlaps."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return routed_subnets(ROUTES.read_text(encoding="ascii"), pool)
    return []


def find_network(client: docker.DockerClient, name: str) -> Network | None:
    """Return the network of a name; None when there is none."""
    try:
        return client.networks.get(name)
    except NotFound:
        return None


def is_made_by(network: Network, label: str, interface: str) -> bool:
    """Whether a network carries a label, ``name=value``, and has this bridge."""
    key, _, value = label.partition("=")
    return (network.attrs.get("Labels") or {}).get(key) == value and interface_of(network) == interface


def foreign(name: str) -> Unavailable:
    """Return what is said where a name is taken by a network that is not this node's, or not as it makes them."""
    return Unavailable(
        f"a Docker network {name} exists and is not this node's: docker network rm {name}",
        retry_after_seconds=RETRY_SECONDS,
    )


def interface_of(network: Network) -> str:
    """Return the name of a network's bridge; empty where the engine chose it."""
    return str((network.attrs.get("Options") or {}).get(INTERFACE_OPTION, ""))


def labelled(client: docker.DockerClient, label: str) -> list[Network]:
    """Return every network with a label."""
    return list(client.networks.list(filters={"label": label}))


def remove_network(network: Network) -> bool:
    """Remove a network; returns False when it is in use, or gone."""
    try:
        network.remove()
    except (NotFound, APIError) as err:
        logger.debug("network not removed", extra={"network": network.name, "cause": str(err)})
        return False
    return True
