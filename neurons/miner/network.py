"""The bridge of one node: its containers' own network, where no container reaches another.

Rules:
- Name, interface and subnet derive from the node id, so several nodes on one host never share one.
- Inter-container traffic is off (``icc=false``); published ports are the only way in.
- A network that exists already is taken only if it carries this node's label.
"""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass

import docker
from docker.errors import APIError, NotFound
from docker.types import IPAMConfig, IPAMPool

from polarise.errors import ConfigError
from utils.docker_utils import engine_errors

logger = logging.getLogger(__name__)

SUBNETS = ipaddress.ip_network("10.201.0.0/16")
SUBNET_PREFIX = 24
ATTEMPTS = 32


@dataclass(frozen=True, slots=True)
class NodeNetwork:
    """The names of one node's bridge."""

    node_id: str

    @property
    def name(self) -> str:
        """Name of the Docker network."""
        return f"polarise-{self.node_id}"

    @property
    def interface(self) -> str:
        """Name of the bridge interface; Linux allows 15 characters."""
        return f"pl-{self.node_id}"

    def ensure(self, client: docker.DockerClient, label: str) -> None:
        """Make the network unless it is there.

        Args:
            client: The engine.
            label: This node's label, ``name=value``.

        Raises:
            ConfigError: The name is taken by somebody else, or no subnet is free.
            Unavailable: The engine cannot be asked.
        """
        key, _, value = label.partition("=")
        with engine_errors():
            try:
                found = client.networks.get(self.name)
            except NotFound:
                self._create(client, {key: value})
                return
        if (found.attrs.get("Labels") or {}).get(key) != value:
            raise ConfigError(
                f"a Docker network {self.name} exists and is not this node's", allowed=f"docker network rm {self.name}"
            )

    def remove(self, client: docker.DockerClient) -> None:
        """Remove the network; one that is gone or still in use is left alone."""
        with engine_errors():
            try:
                client.networks.get(self.name).remove()
            except (NotFound, APIError) as err:
                logger.debug("network not removed", extra={"network": self.name, "cause": str(err)})

    def _create(self, client: docker.DockerClient, labels: dict[str, str]) -> None:
        subnets = list(SUBNETS.subnets(new_prefix=SUBNET_PREFIX))
        first = int(self.node_id[:8], 16)
        refusal = ""
        for attempt in range(ATTEMPTS):
            subnet = subnets[(first + attempt) % len(subnets)]
            try:
                client.networks.create(
                    self.name,
                    driver="bridge",
                    labels=labels,
                    ipam=IPAMConfig(pool_configs=[IPAMPool(subnet=str(subnet))]),
                    options={
                        "com.docker.network.bridge.name": self.interface,
                        "com.docker.network.bridge.enable_icc": "false",
                    },
                )
            except APIError as err:
                # "Pool overlaps with other one on this address space": another node hashed to the same subnet.
                refusal = err.explanation or str(err)
                if "overlap" not in refusal.lower():
                    raise
            else:
                logger.info("network made", extra={"network": self.name, "subnet": str(subnet)})
                return
        raise ConfigError(f"no free subnet in {SUBNETS}: {refusal}", allowed="docker network prune")
