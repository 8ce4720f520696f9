"""The Docker engine of this host: is it there, and nothing of a node may stay behind."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache

import docker
from docker.errors import APIError

from neurons.miner.container import NODE_LABEL
from neurons.miner.firewall import remove_rules
from neurons.setup.image import base_image_reference
from tests.support.disks import remove_disks_of
from utils.docker_utils import connect

# Nothing listens there. Not a unix socket: docker-py leaks one per refused connection, and the warning would fail the test.
DEAD_ENGINE = "tcp://127.0.0.1:1"


@cache
def why_no_engine() -> str | None:
    """Return why tests marked docker cannot run here, None when they can."""
    if shutil.which("docker") is None:
        return "there is no `docker` program on this machine"
    done = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        return f"`docker info` fails: {lines[-1] if lines else done.returncode}"
    return _why_no_image(base_image_reference())


def _why_no_image(reference: str) -> str | None:
    done = subprocess.run(["docker", "image", "inspect", reference], capture_output=True, timeout=60, check=False)
    return None if done.returncode == 0 else f"the image {reference} is missing; make it with `python main.py setup`"


@contextlib.contextmanager
def engine() -> Iterator[docker.DockerClient]:
    """A client that is closed at the end."""
    client = connect(None)
    try:
        yield client
    finally:
        client.close()


def containers_of(client: docker.DockerClient, node_id: str) -> list[str]:
    """Return the ids of every container of a node, running or not."""
    found = client.containers.list(all=True, filters={"label": f"{NODE_LABEL}={node_id}"}, ignore_removed=True)
    return sorted(str(container.id) for container in found)


def remove_everything_of(node_id: str) -> None:
    """Remove containers, disks, networks and packet filter rules of a node; what is gone already is fine."""
    with engine() as client:
        for container_id in containers_of(client, node_id):
            with contextlib.suppress(APIError):
                client.api.remove_container(container_id, v=True, force=True)
        remove_disks_of(node_id)
        for network in client.networks.list(filters={"label": f"{NODE_LABEL}={node_id}"}):
            with contextlib.suppress(APIError):
                network.remove()
    remove_rules(node_id)
