"""The Docker engine through docker-py: connect, and tell "gone" from "cannot be asked".

Rules:
- An engine that does not answer is `Unavailable`; what it holds is then unknown, never gone.
- Ids are checked against a pattern before they reach a URL of the engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker
import requests
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container

from polarise.errors import Unavailable

CONTAINER_ID = re.compile(r"[0-9a-f]{12,64}")
TIMEOUT_SECONDS = 60
PING_SECONDS = 5


def connect(host: str | None) -> docker.DockerClient:
    """Return a client; nothing is sent before it is used.

    Args:
        host: Engine URL, None for the environment's or the local one.

    Raises:
        Unavailable: The address of the engine cannot be used.
    """
    with engine_errors():
        if host is None:
            return _PatientClient.from_env(timeout=TIMEOUT_SECONDS)
        return _PatientClient(base_url=host, timeout=TIMEOUT_SECONDS)


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turn "the engine does not answer" into `Unavailable`; the engine's own refusals pass through.

    Raises:
        Unavailable: No engine, or it hung.
    """
    try:
        yield
    except APIError:
        raise
    except (requests.exceptions.RequestException, DockerException, ConnectionError) as err:
        raise Unavailable(
            f"the Docker engine does not answer ({type(err).__name__}); is dockerd running? `docker info` tells",
            retry_after_seconds=5,
        ) from err


@contextmanager
def engine_work() -> Iterator[None]:
    """As `engine_errors`, for what the engine has no reason to refuse: a refusal is a failure too, to be tried again later.

    Raises:
        Unavailable: The engine does not answer, or refused.
    """
    with engine_errors():
        try:
            yield
        except APIError as err:
            raise Unavailable(f"the engine refused: {err.explanation or err}", retry_after_seconds=10) from err


def check_engine(client: docker.DockerClient) -> None:
    """Ask the engine for a sign of life, which a running one gives at once.

    Raises:
        Unavailable: None came; one that hangs is known after seconds, where a call would wait for a minute.
    """
    with engine_errors():
        client.api.get(f"{client.api.base_url}/_ping", timeout=PING_SECONDS).raise_for_status()


def find_container(client: docker.DockerClient, container_id: str) -> Container | None:
    """Return a container by its id, None when the engine says that there is none.

    Raises:
        Unavailable: The engine cannot be asked, or failed at it.
        ValueError: Not a container id.
    """
    if not CONTAINER_ID.fullmatch(container_id):
        raise ValueError(f"{container_id!r} is not a container id")
    with engine_work():
        try:
            return client.containers.get(container_id)
        except NotFound:
            return None


def labelled_containers(client: docker.DockerClient, *labels: str) -> list[Container]:
    """Return all containers, running or not, that carry each of ``labels`` (``name=value``).

    The engine is asked once for the list, and once more for each container on it: name as many labels as are known.

    Raises:
        Unavailable: The engine cannot be asked, or failed at it.
    """
    with engine_work():
        return list(client.containers.list(all=True, filters={"label": list(labels)}, ignore_removed=True))


def remove_container(client: docker.DockerClient, container_id: str) -> None:
    """Kill and remove a container with its anonymous volumes; one that is gone already is fine.

    Raises:
        Unavailable: The engine cannot be asked, or could not do it now.
    """
    if not CONTAINER_ID.fullmatch(container_id):
        raise ValueError(f"{container_id!r} is not a container id")
    with engine_work():
        try:
            client.api.remove_container(container_id, v=True, force=True)
        except NotFound:
            return
        except APIError as err:
            # 409: another request is removing it at this moment; that is what we want.
            if err.status_code != 409:
                raise


class _PatientApi(docker.APIClient):
    """Asks the engine for its version at the first request instead of when it is made; docker-py connects at once.

    A fixed version is no way out: Debian 12's engine ends at 1.41, and Docker 29 begins at 1.44.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  docker-py's own arguments
        super().__init__(*args, **{**kwargs, "version": DEFAULT_DOCKER_API_VERSION})
        self._found: str | None = None

    @property
    def _version(self) -> str:
        if self._found is None:
            self._found = str(self._retrieve_server_version())  # type: ignore[attr-defined]  # not in the stubs
        return self._found

    @_version.setter
    def _version(self, version: str) -> None:
        self._found = version


class _PatientClient(docker.DockerClient):
    """docker-py's client over a `_PatientApi`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  docker-py's own arguments
        self.api = _PatientApi(*args, **kwargs)
