"""`python main.py image update`: the name moves only to an image that a login worked with; containers keep theirs."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import ImageNotFound

from neurons.setup.checkout import Checkout
from neurons.setup.errors import SetupError
from neurons.setup.image import LABEL, base_image_reference, image_id, layers
from neurons.setup.image_update import build_twice, describe, remove_unnamed, update
from neurons.setup.preflight import read_login
from neurons.setup.progress import Progress

pytestmark = pytest.mark.docker

REFERENCE = "polarise/test-image-update:one"


def derived(reference: str, remove: str | None, add: str | None) -> None:
    """Make an image from the base image that lacks a file, or has one more."""
    client = docker.from_env()
    made = client.containers.create(base_image_reference(), ["sh", "-c", f"rm -f {remove}" if remove else "true"])
    try:
        if remove is not None:
            made.start()
            made.wait()
        if add is not None:
            made.put_archive("/", one_file(add))
        made.commit(*reference.split(":"), conf={"Labels": {LABEL: "test"}})
    finally:
        made.remove(force=True)
        client.close()


def one_file(name: str) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return archive.getvalue()


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    derived(REFERENCE, None, "first")
    yield Checkout(tmp_path)
    client = docker.from_env()
    client.images.remove(REFERENCE, force=True)
    client.close()
    remove_unnamed()


def test_new_leases_get_the_new_image_and_old_containers_keep_theirs(checkout: Checkout) -> None:
    before = image_id(REFERENCE)
    client = docker.from_env()
    container = client.containers.run(REFERENCE, ["sleep", "300"], detach=True)
    try:
        said = update(checkout, REFERENCE, Progress(3), build=lambda _progress, name: derived(name, None, "second"))
        after = image_id(REFERENCE)
        assert after is not None
        assert after != before
        assert after in said
        assert "stay until their containers end" in said
        container.reload()
        assert (container.status, container.attrs["Image"]) == ("running", before)
        login = read_login(checkout)
        assert login is not None
        assert login.image_id == after
        assert after in describe(REFERENCE)
    finally:
        container.remove(force=True)
    assert remove_unnamed() == 0
    with pytest.raises(ImageNotFound):
        client.images.get(str(before))
    client.close()


def test_image_that_nobody_can_log_in_to_is_not_put_in_place(checkout: Checkout) -> None:
    before = image_id(REFERENCE)
    with pytest.raises(SetupError, match="ssh"):
        update(checkout, REFERENCE, Progress(3), build=lambda _progress, name: derived(name, "/usr/sbin/sshd", None))
    assert image_id(REFERENCE) == before
    assert image_id(f"{REFERENCE}-next") is None
    assert read_login(checkout) is None


def test_equal_content_is_no_update(checkout: Checkout) -> None:
    def again(_progress: Progress, name: str) -> None:
        client = docker.from_env()
        client.images.get(REFERENCE).tag(name)
        client.close()

    before = image_id(REFERENCE)
    assert "nothing new" in update(checkout, REFERENCE, Progress(3), build=again)
    assert image_id(REFERENCE) == before
    first, second = build_twice(REFERENCE, Progress(2), build=again)
    assert first == second == layers(REFERENCE)
    assert image_id(f"{REFERENCE}-first") is None
