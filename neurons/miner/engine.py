"""Watches the Docker engine: is it there, is our image there, does our network still exist."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

import docker
from docker.errors import ImageNotFound

from neurons.miner.network import NodeNetwork
from polarise.errors import Unavailable
from utils.docker_utils import engine_errors

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 30


class EngineWatch:
    """Makes the node's network, says whether containers can be started, and takes the network away at the end.

    Args:
        client: The engine.
        network: The node's bridge.
        label: This node's label.
        image: Image reference that must be there.
        has_leases: Whether a lease still needs the network; asked when the node stops.
    """

    name = "engine-watch"

    def __init__(
        self,
        client: docker.DockerClient,
        network: NodeNetwork,
        label: str,
        image: str,
        *,
        has_leases: Callable[[], bool],
    ) -> None:
        self._client = client
        self._network = network
        self._label = label
        self._image = image
        self._has_leases = has_leases

    def prepare(self) -> None:
        """Make the network; an engine that is down is waited for, and requests are answered 503 meanwhile."""
        try:
            self._network.ensure(self._client, self._label)
            self.check()
        except Unavailable as err:
            logger.warning("not ready for leases", extra={"cause": err.message})

    def run(self, stop: threading.Event) -> None:
        """Make the network again whenever somebody removed it; remove it at the end unless a lease is left in it."""
        was_ready = True
        while not stop.wait(INTERVAL_SECONDS):
            try:
                self._network.ensure(self._client, self._label)
                self.check()
            except Unavailable as err:
                if was_ready:
                    logger.warning("not ready for leases", extra={"cause": err.message})
                was_ready = False
            else:
                if not was_ready:
                    logger.info("ready for leases again")
                was_ready = True
        if not self._has_leases():
            with contextlib.suppress(Unavailable):
                self._network.remove(self._client)

    def check(self) -> None:
        """Ask the engine for the image.

        Raises:
            Unavailable: The engine does not answer, or the image is missing.
        """
        with engine_errors():
            try:
                self._client.images.get(self._image)
            except ImageNotFound as err:
                raise Unavailable(
                    f"the image {self._image} is not on this host; make it with `python main.py setup`",
                    retry_after_seconds=60,
                ) from err
