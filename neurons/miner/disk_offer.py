"""Whether leases here get disks of their own, how large, encrypted or not, and how much of the host's they get together.

Rules:
- What this host, its kernel and its engine can do is tried once at the start, never assumed: a disk is made and mounted.
- Where it does not work, `auto` leaves leases as they would be without, and says why; `loop` keeps the node from starting.
- Encryption is tried the same way. `auto` goes on without it and says why; `required` keeps the node from starting, and
  never lets a lease without an encrypted disk come to be.
- The engine must see our mounts: it must be on this host, in our mount namespace, and its root must be root.
- Promises never exceed what is free: files grow later, so that all promises count, not what is written so far. Those of
  other nodes on the same file system count too; the kernel names their files, wherever they lie. What two nodes promise at
  the same moment is looked at again when the files are there (`allocate`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import docker
from docker.errors import APIError

from neurons.miner.disk import DiskFailed, LeaseDisks
from neurons.setup.checks.lease_disk import encryption_obstacle, measure_lease_disk, obstacle
from polarise.errors import ConfigError, Unavailable
from polarise.quantities import format_size
from utils import host, loops
from utils.docker_utils import engine_errors

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 30
DEFAULT_SOCKET = Path("/var/run/docker.sock")
DiskMode = Literal["auto", "loop", "none"]
DiskEncryption = Literal["auto", "required", "off"]


@dataclass(frozen=True, slots=True)
class DiskSettings:
    """What the owner says of disks.

    Attributes:
        mode: ``auto`` where it works, ``loop`` always, ``none`` never.
        encryption: ``auto`` where it works, ``required`` always, ``off`` never.
        default_bytes: Disk of a lease that names none.
        reserve_bytes: What leases leave free on the host's disk.
        total_bytes: What all leases may have together; None for all that is free but the reserve.
        engine_host: The engine's address as configured, None for the local one.
    """

    mode: DiskMode
    default_bytes: int
    reserve_bytes: int
    total_bytes: int | None
    engine_host: str | None
    encryption: DiskEncryption = "auto"


class DiskOffer:
    """What this node can promise of disk; as a service it finds out what the engine allows.

    Args:
        client: The engine.
        disks: Makes them.
        settings: What the owner says.
        images: References whose trees are taken out of the engine at the start, so that no lease waits for it.
    """

    name = "disk-offer"

    def __init__(
        self, client: docker.DockerClient, disks: LeaseDisks, settings: DiskSettings, images: Sequence[str]
    ) -> None:
        self.disks = disks
        self.settings = settings
        self._client = client
        self._images = images
        self._obstacle: str | None = "docker.disk is none" if settings.mode == "none" else None
        self._is_settled = False
        self._is_encrypting = False

    def prepare(self) -> None:
        """Try a disk on this host, and ask the engine; one that is down is asked again later.

        Raises:
            ConfigError: ``docker.disk`` is ``loop`` or ``docker.disk_encryption`` ``required``, and it does not work here.
        """
        self._give_up(self._obstacle or self._try_host())
        with contextlib.suppress(Unavailable):
            self._settle()

    def run(self, stop: threading.Event) -> None:
        """Take the images out of the engine, and remove what nobody needs; again until the engine has answered."""
        while not self._has_trees() and not stop.wait(INTERVAL_SECONDS):
            pass
        stop.wait()

    def why_none(self) -> str | None:
        """Return why leases get no disk of their own here; None where they get one, as far as is known."""
        return self._obstacle

    def encrypts(self) -> bool:
        """Whether the disks of new leases are encrypted."""
        return self._is_encrypting

    def describe(self) -> str:
        """Say in a few words what leases get, for the miner's first line."""
        return self._obstacle or ("one per lease, encrypted" if self._is_encrypting else "one per lease, not encrypted")

    def capacity_bytes(self) -> int:
        """Return what all leases of this node may be promised together, those of now included."""
        if self._obstacle is not None:
            return 0
        folder = _existing(self.disks.folder)
        there = host.disk_free_bytes(folder) + self.disks.allocated_bytes()
        promised_elsewhere = loops.growth_bytes(folder, leave_out=self.disks.folder)
        capacity = there - promised_elsewhere - self.settings.reserve_bytes
        return max(0, capacity if self.settings.total_bytes is None else min(capacity, self.settings.total_bytes))

    def _settle(self) -> None:
        """Find out once whether the engine can use our mounts; leases of until then are read back as all are."""
        if self._obstacle is None and not self._is_settled:
            self._give_up(engine_obstacle(self._client, self.settings.engine_host))
        self._is_settled = True

    def _has_trees(self) -> bool:
        try:
            self._settle()
            self.disks.trees.sweep()
            for reference in self._images if self._obstacle is None else ():
                self._take_out(reference)
        except Unavailable as err:
            logger.warning("disks of leases wait for the engine", extra={"cause": err.message})
            return False
        return True

    def _take_out(self, reference: str) -> None:
        with engine_errors():
            try:
                image_id = str(self._client.images.get(reference).id)
            except APIError as err:
                # The engine watch says that the image is missing, and the fix.
                logger.debug("image not there", extra={"image": reference, "cause": str(err)})
                return
        self.disks.trees.tree(image_id)

    def _give_up(self, found: str | None) -> None:
        if found is None:
            return
        self._obstacle = found
        if self.settings.encryption == "required":
            raise _not_encrypted(f"leases can get no disk at all: {found}")
        if self.settings.mode == "none":
            return
        if self.settings.mode == "loop":
            raise ConfigError(f"leases can get no disk: {found}", key_path="docker.disk", allowed="auto or none")
        logger.warning("leases get no disk of their own and can fill the host's", extra={"cause": found})

    def _try_encryption(self) -> None:
        if self.settings.encryption == "off":
            return
        found = encryption_obstacle(measure_lease_disk())
        try:
            if found is None:
                self.disks.try_out(is_encrypted=True)
                self._is_encrypting = True
                return
            cause = f"{found[0]}; {found[1]}"
        except DiskFailed as err:
            cause = str(err)
        if self.settings.encryption == "required":
            raise _not_encrypted(cause)
        logger.warning("disks of leases are not encrypted", extra={"cause": cause})

    def _try_host(self) -> str | None:
        if (found := obstacle(measure_lease_disk())) is not None:
            return f"{found[0]}; {found[1]}"
        try:
            check_folder(self.disks.folder)
            self._try_encryption()
            if not self._is_encrypting:
                self.disks.try_out()
        except (DiskFailed, Unavailable, OSError) as err:
            return str(err)
        if self.capacity_bytes() < self.settings.default_bytes:
            free, wanted = format_size(self.capacity_bytes()), format_size(self.settings.default_bytes)
            return f"docker.default_disk is {wanted}, and leases can have {free} together; make room, or set it lower"
        return None


def _not_encrypted(cause: str) -> ConfigError:
    return ConfigError(
        f"disks of leases cannot be encrypted: {cause}", key_path="docker.disk_encryption", allowed="auto or off"
    )


def check_folder(folder: Path) -> None:
    """Refuse a folder whose name mount(8) would take apart, or in which others could put links.

    Raises:
        DiskFailed: It is one.
    """
    if any(character in str(folder) for character in ":,\\ \t\n"):
        raise DiskFailed(f"{folder} has a character in its name that a mount option cannot hold")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for level in (folder, folder.parent):
        found = level.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise DiskFailed(f"{level} must be a folder of this user's that nobody else may write; chmod go-w {level}")


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def engine_obstacle(client: docker.DockerClient, configured: str | None) -> str | None:
    """Return why the engine could not use our mounts.

    Raises:
        Unavailable: It cannot be asked.
    """
    with engine_errors():
        try:
            options = [str(option) for option in client.info().get("SecurityOptions") or ()]
        except APIError as err:
            raise Unavailable(f"the engine failed: {err.explanation or err}", retry_after_seconds=30) from err
    if any(option.startswith(("name=userns", "name=rootless")) for option in options):
        return "the engine maps root to another user, who may not enter the folders of disks"
    address = configured or os.environ.get("DOCKER_HOST") or f"unix://{DEFAULT_SOCKET}"
    if not address.startswith("unix://"):
        return f"the engine at {address} is not known to be on this machine; use its unix socket"
    try:
        is_ours = engine_namespace(Path(address.removeprefix("unix://"))) == Path("/proc/self/ns/mnt").readlink()
    except OSError as err:
        return f"it cannot be seen whether the engine sees our mounts: {err}"
    return (
        None
        if is_ours
        else "the engine does not see our mounts; run the miner without a service manager's PrivateTmp or ProtectSystem"
    )


def engine_namespace(path: Path) -> Path:
    """Return the mount namespace of who listens on a socket; where a service manager does, it has the host's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    process = struct.unpack("3i", credentials)[0]
    return Path(f"/proc/{process}/ns/mnt").readlink()
