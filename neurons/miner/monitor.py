"""What containers use right now, asked of the engine and of their disks on demand."""

from __future__ import annotations

import docker
from docker.errors import APIError

from neurons.miner.disk import LeaseDisks
from neurons.miner.lease import Lease
from polarise.messages import ContainerUsage
from utils.docker_utils import check_engine, engine_errors


class ResourceMonitor:
    """Reads the usage of one container at a time.

    Args:
        client: The engine.
        disks: The disks of leases.
    """

    def __init__(self, client: docker.DockerClient, disks: LeaseDisks) -> None:
        self._client = client
        self._disks = disks

    def usage(self, lease: Lease) -> ContainerUsage:
        """Return memory, CPU time, processes and disk; None where there is no figure.

        Raises:
            Unavailable: The engine cannot be asked.
        """
        # One that hangs would hold a thread of the API for a minute with each question.
        check_engine(self._client)
        with engine_errors():
            try:
                stats = self._client.api.stats(str(lease.container_id), stream=False, one_shot=True)
            except APIError:
                stats = {}
        disk = self._disks.usage(lease.lease_id)
        cpu_ns = stats.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage")
        return ContainerUsage(
            memory_bytes=stats.get("memory_stats", {}).get("usage"),
            cpu_seconds=None if cpu_ns is None else cpu_ns / 1e9,
            pids_count=stats.get("pids_stats", {}).get("current"),
            disk_bytes=None if disk is None else disk.disk_bytes,
            disk_inodes=None if disk is None else disk.inodes_count,
        )
