"""The engine's client: "gone" and "cannot be asked" are two things, and ids are looked at before they are used."""

import pytest

from polarise.errors import Unavailable
from tests.support.engine import DEAD_ENGINE, engine
from utils.docker_utils import connect, find_container, labelled_containers, remove_container

NOT_IDS = ["", "../images/x", "ab", "A" * 12, "a" * 65, "abcdef012345\n", "abcdef01234g"]


def test_client_is_made_without_asking_the_engine() -> None:
    """A miner whose engine is down at its start has to come up and say so."""
    connect(DEAD_ENGINE).close()


def test_engine_that_is_not_there_is_unavailable_and_nothing_is_gone() -> None:
    client = connect(DEAD_ENGINE)
    try:
        for ask in (
            lambda: find_container(client, "a" * 12),
            lambda: labelled_containers(client, "a=b"),
            lambda: remove_container(client, "a" * 12),
        ):
            with pytest.raises(Unavailable, match="is dockerd running"):
                ask()
    finally:
        client.close()


@pytest.mark.parametrize("container_id", NOT_IDS)
def test_what_is_no_id_never_reaches_the_engine(container_id: str) -> None:
    client = connect(DEAD_ENGINE)
    try:
        with pytest.raises(ValueError, match="is not a container id"):
            find_container(client, container_id)
        with pytest.raises(ValueError, match="is not a container id"):
            remove_container(client, container_id)
    finally:
        client.close()


@pytest.mark.docker
def test_container_that_is_gone_is_none_and_removing_it_is_fine() -> None:
    with engine() as client:
        assert find_container(client, "0" * 64) is None
        remove_container(client, "0" * 64)
        assert client.api.api_version >= "1.41"
