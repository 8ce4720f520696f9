"""Watches the Docker engine: is it there, is our image there, do our bridges still exist."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Collection

import docker
from docker.errors import ImageNotFound

from neurons.miner.network import SPARE_COUNT, NodeNetwork
from polarise.errors import Unavailable
from utils.docker_utils import check_engine, engine_work

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 30


class EngineWatch:
    """Makes bridges ahead of leases, says whether containers can be started, and takes the bridges away at the end.

    Args:
        client: The engine.
        network: The node's bridges.
        label: This node's label.
        image: Image reference that must be there.
        used_ports: Ssh ports of all leases; their bridges stay when the node stops.
    """

    name = "engine-watch"

    def __init__(
        self,
        client: docker.DockerClient,
        network: NodeNetwork,
        label: str,
        image: str,
        *,
        used_ports: Callable[[], Collection[int]],
    ) -> None:
        self._client = client
        self._network = network
        self._label = label
        self._image = image
        self._used_ports = used_ports

    def prepare(self) -> None:
        """Make the first bridge; an engine that is down is waited for, and requests are answered 503 meanwhile."""
        try:
            self._make_ready(spare_count=1)
        except Unavailable as err:
            logger.warning("not ready for leases", extra={"cause": err.message})

    def run(self, stop: threading.Event) -> None:
        """Have some bridges ready whatever happens to them; at the end remove those that no lease is left in."""
        was_ready = True
        wait_seconds = 0.0
        while not stop.wait(wait_seconds):
            wait_seconds = INTERVAL_SECONDS
            try:
                self._make_ready(SPARE_COUNT)
                self._network.remove_strays(self._client, self._label)
            except Unavailable as err:
                if was_ready:
                    logger.warning("not ready for leases", extra={"cause": err.message})
                was_ready = False
            else:
                if not was_ready:
                    logger.info("ready for leases again")
                was_ready = True
        with contextlib.suppress(Unavailable):
            self._network.remove(self._client, self._label, keep=self._used_ports())

    def _make_ready(self, spare_count: int) -> None:
        self._network.ensure_spare(self._client, self._label, self._used_ports(), spare_count)
        self.check()

    def check(self) -> None:
        """Ask the engine for the image.

        Raises:
            Unavailable: The engine does not answer, or the image is missing.
        """
        check_engine(self._client)
        with engine_work():
            try:
                self._client.images.get(self._image)
            except ImageNotFound as err:
                raise Unavailable(
                    f"the image {self._image} is not on this host; make it with `python main.py setup`",
                    retry_after_seconds=60,
                ) from err
