"""What containers use right now, asked of the engine on demand."""

from __future__ import annotations

import docker
from docker.errors import APIError

from neurons.miner.lease import Lease
from polarise.messages import ContainerUsage
from utils.docker_utils import engine_errors


class ResourceMonitor:
    """Reads the usage of one container at a time."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client

    def usage(self, lease: Lease) -> ContainerUsage:
        """Return memory, CPU time and processes; None where the engine gives no figure.

        Raises:
            Unavailable: The engine cannot be asked.
        """
        with engine_errors():
            try:
                stats = self._client.api.stats(str(lease.container_id), stream=False, one_shot=True)
            except APIError:
                return ContainerUsage()
        cpu_ns = stats.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage")
        return ContainerUsage(
            memory_bytes=stats.get("memory_stats", {}).get("usage"),
            cpu_seconds=None if cpu_ns is None else cpu_ns / 1e9,
            pids_count=stats.get("pids_stats", {}).get("current"),
        )
