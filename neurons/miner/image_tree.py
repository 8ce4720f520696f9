"""The files of an image as a folder on the host: the lower layer of every disk made from it.

Rules:
- A tree is taken out of the engine once per image, under a name that is complete only by its last step, a rename.
- Its name is the image's id, so that nodes on one host may share the folder; who makes one holds a lock meanwhile.
- It is never written again. A tree goes when the engine does not hold its image any more and nothing is mounted over it.
- The engine's own storage is not looked into: its layout is its own, and differs with drivers and versions.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import docker
from docker.errors import APIError, ImageNotFound

from neurons.setup.shell import child_environment, run
from polarise.errors import Unavailable
from utils.docker_utils import engine_errors, labelled_containers, remove_container

logger = logging.getLogger(__name__)

LABEL = "polarise.tree"
CHUNK_BYTES = 1 << 20
LOCK_SECONDS = 20.0
SYNC_SECONDS = 120.0
# Of what tar complains about: the first file that did not fit, and why.
LINES_KEPT = 2
_IMAGE_ID = re.compile(r"sha256:([0-9a-f]{64})")
_PARTIAL = "partial"


class ImageTrees:
    """The trees below one folder.

    Args:
        client: The engine.
        folder: Where they lie.
        node_id: Marks the containers that a crash may leave.
    """

    def __init__(self, client: docker.DockerClient, folder: Path, node_id: str) -> None:
        self._client = client
        self._folder = folder
        self._node_id = node_id

    def tree(self, image_id: str) -> Path:
        """Return the tree of an image, taken out of the engine where it is not there yet.

        Args:
            image_id: ``sha256:`` and 64 hex digits, from the engine or our own journal.

        Raises:
            Unavailable: The engine or the disk failed, or somebody else is at work on a tree.
        """
        match = _IMAGE_ID.fullmatch(image_id)
        if match is None:
            raise ValueError(f"{image_id!r} is not the id of an image")
        tree = self._folder / match[1]
        if not tree.is_dir():
            with self._locked():
                if not tree.is_dir():
                    self._take_out(image_id, tree)
        return tree

    def sweep(self) -> None:
        """Remove what a crash left, and the trees of images that the engine does not hold any more.

        Raises:
            Unavailable: The engine cannot be asked, or somebody else is at work on a tree.
        """
        for left in labelled_containers(self._client, f"{LABEL}={self._node_id}"):
            remove_container(self._client, str(left.id))
        if not self._folder.is_dir():
            return
        with self._locked():
            for tree in self._folder.iterdir():
                if tree.is_dir() and not self._is_needed(tree):
                    logger.info("removing the tree of an image that is gone", extra={"tree": str(tree)})
                    shutil.rmtree(tree, ignore_errors=True)

    def _is_needed(self, tree: Path) -> bool:
        if tree.name == _PARTIAL:
            return False
        with self._asking():
            try:
                self._client.images.get(f"sha256:{tree.name}")
            except ImageNotFound:
                mounted = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
                return f"lowerdir={tree}," in mounted
        return True

    def _take_out(self, image_id: str, tree: Path) -> None:
        began = time.monotonic()
        partial = self._folder / _PARTIAL
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o755)
        try:
            with self._throw_away_container(image_id) as container_id:
                self._unpack(container_id, partial)
            # What is renamed must be there after a power cut as well.
            run(["sync", "--file-system", str(partial)], timeout_seconds=SYNC_SECONDS)
            partial.rename(tree)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        logger.info(
            "image taken out of the engine",
            extra={"image_id": image_id, "tree": str(tree), "seconds": round(time.monotonic() - began, 1)},
        )

    @contextlib.contextmanager
    def _throw_away_container(self, image_id: str) -> Iterator[str]:
        """Make a container that is never started: only containers can be exported flat."""
        with self._asking():
            made = self._client.api.create_container(
                image_id, ["true"], labels={LABEL: self._node_id}, network_disabled=True
            )
        container_id = str(made["Id"])
        try:
            yield container_id
        finally:
            remove_container(self._client, container_id)

    def _unpack(self, container_id: str, folder: Path) -> None:
        command = ["tar", "--extract", "--numeric-owner", "--same-permissions", "--same-owner", "--xattrs"]
        command += ["--xattrs-include=*", "--delay-directory-restore", "--directory", str(folder)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=child_environment()
        ) as process:
            assert process.stdin is not None  # noqa: S101  we asked for both pipes
            assert process.stderr is not None  # noqa: S101
            said: list[str] = []
            # On a full disk tar has a word for each file; who does not listen meanwhile waits for ever.
            listening = threading.Thread(target=_keep_first, args=(process.stderr, said), name="tar", daemon=True)
            listening.start()
            # A pipe that breaks is tar's to explain.
            with contextlib.suppress(BrokenPipeError), self._asking():
                for chunk in self._client.api.export(container_id, chunk_size=CHUNK_BYTES):
                    process.stdin.write(chunk)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            listening.join()
        if process.returncode != 0:
            raise Unavailable(f"the image could not be unpacked: {'; '.join(said)}", retry_after_seconds=300)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            with engine_errors():
                yield
        except APIError as err:
            raise Unavailable(f"the engine failed: {err.explanation or err}", retry_after_seconds=60) from err

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, for threads and processes alike."""
        import fcntl  # not on Windows, where commands of other roles import this file too

        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        end = time.monotonic() + LOCK_SECONDS
        with (self._folder / "lock").open("w") as handle:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= end:
                        raise Unavailable(
                            "an image is being unpacked, and is not done", retry_after_seconds=30
                        ) from None
                time.sleep(0.05)
            yield


def _keep_first(stream: IO[bytes], kept: list[str]) -> None:
    for line in stream:
        if len(kept) < LINES_KEPT:
            kept.append(line.decode("utf-8", "replace").strip())
