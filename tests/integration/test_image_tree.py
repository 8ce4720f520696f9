"""An image as a folder on the host: complete or not there, once for all who want it, and gone with its image."""

from __future__ import annotations

import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from neurons.miner.disk import GRANULE_BYTES, LeaseDisks
from neurons.miner.image_tree import LABEL, ImageTrees
from neurons.miner.lease import LeaseId
from neurons.setup.image import base_image_reference
from polarise.errors import Unavailable
from tests.support.disks import FOLDER
from tests.support.engine import engine

pytestmark = [pytest.mark.docker, pytest.mark.disk]

NODE = "1" * 12
NOBODYS = f"sha256:{'0' * 64}"


@pytest.fixture(name="client")
def client_of_the_engine() -> Iterator[docker.DockerClient]:
    with engine() as client:
        yield client


@pytest.fixture(name="image_id")
def id_of_the_base_image(client: docker.DockerClient) -> str:
    return str(client.images.get(base_image_reference()).id)


def throw_away_containers(client: docker.DockerClient) -> int:
    return len(client.containers.list(all=True, filters={"label": f"{LABEL}={NODE}"}))


def test_two_who_want_it_at_once_get_one_tree_with_owners_and_modes(
    client: docker.DockerClient, image_id: str, tmp_path: Path
) -> None:
    found: list[tuple[Path, int]] = []

    def take() -> None:
        tree = ImageTrees(client, tmp_path / "images", NODE).tree(image_id)
        found.append((tree, tree.stat().st_ino))

    takers = [threading.Thread(target=take) for _ in range(2)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert len(found) == 2
    assert len(set(found)) == 1
    tree = found[0][0]
    assert stat.S_IMODE((tree / "tmp").stat().st_mode) == 0o1777
    assert stat.S_IMODE((tree / "usr" / "bin" / "su").stat().st_mode) & stat.S_ISUID
    assert (tree / "bin").is_symlink()
    assert sorted(entry.name for entry in (tmp_path / "images").iterdir()) == sorted([tree.name, "lock"])
    assert throw_away_containers(client) == 0


def test_image_that_the_engine_does_not_hold_leaves_nothing(client: docker.DockerClient, tmp_path: Path) -> None:
    trees = ImageTrees(client, tmp_path / "images", NODE)
    with pytest.raises(Unavailable, match="No such image"):
        trees.tree(NOBODYS)
    assert [entry.name for entry in (tmp_path / "images").iterdir()] == ["lock"]
    for name in ("polarise/base:latest", f"{image_id_of(client)}/../x", ""):
        with pytest.raises(ValueError, match="not the id"):
            trees.tree(name)


def test_what_a_crash_left_is_swept_and_what_is_used_stays(
    client: docker.DockerClient, image_id: str, tmp_path: Path
) -> None:
    """A tree whose image is gone stays as long as a disk lies over it."""
    images = tmp_path / "images"
    trees = ImageTrees(client, images, NODE)
    for name in ("partial", "0" * 64, "2" * 64, image_id.removeprefix("sha256:")):
        (images / name / "usr").mkdir(parents=True)
    client.api.create_container(image_id, ["true"], labels={LABEL: NODE})
    disks = LeaseDisks(tmp_path, NODE, trees)
    disks.make(LeaseId("a" * 32), GRANULE_BYTES, f"sha256:{'2' * 64}")
    try:
        trees.sweep()
        left = sorted(entry.name for entry in images.iterdir())
        assert left == sorted(["2" * 64, image_id.removeprefix("sha256:"), "lock"])
        assert throw_away_containers(client) == 0
    finally:
        disks.remove(LeaseId("a" * 32))
    trees.sweep()
    assert not (images / ("2" * 64)).exists()


def test_tree_that_does_not_fit_is_told_and_not_kept(
    client: docker.DockerClient, image_id: str, tmp_path: Path
) -> None:
    """The smallest disk stands in for a host whose disk is full: the image is larger than what is left of it."""
    disks = LeaseDisks(FOLDER, NODE, ImageTrees(client, FOLDER / "images", NODE))
    disks.make(LeaseId("b" * 32), GRANULE_BYTES, image_id)
    small = disks.files(LeaseId("b" * 32)).root / "srv"
    try:
        with (small / "ballast").open("wb") as ballast:
            ballast.write(bytes(32 << 20))
        with pytest.raises(Unavailable, match="No space left"):
            ImageTrees(client, small / "images", NODE).tree(image_id)
        assert [entry.name for entry in (small / "images").iterdir()] == ["lock"]
    finally:
        disks.remove(LeaseId("b" * 32))
        shutil.rmtree(FOLDER / NODE, ignore_errors=True)


def image_id_of(client: docker.DockerClient) -> str:
    return str(client.images.get(base_image_reference()).id)
