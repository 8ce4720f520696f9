"""The disk of a lease: a file system of its own, with a size in bytes and in inodes that nothing inside can pass.

A sparse file holds an ext4 file system, mounted through a loop device. It is the upper layer of an overlay whose lower
layer is the image (`image_tree`). Every folder at the top of the overlay is bound into the container, whose root is
read-only, so that whatever a tenant writes lands in the file. Works on any file system and with any storage of the engine.

Rules:
- The size is a multiple of 128 MiB, one block group of ext4, with an inode for each 16 KiB of it: both figures are exact.
- Everything of a lease lies under one folder of its own, below a folder of this node: what is left over can be found
  and removed without asking anybody, and other nodes' things are never looked at.
- Loop devices are never named here: mount(8) takes one that the kernel frees with the last use of the file system.
- Nothing below a mount point is ever removed from outside: folders go by rmdir, which refuses as long as one is mounted.
- Where the node encrypts (`disk_offer`), the overlay's folders lie in an encrypted folder of the file system. Its key is
  the kernel's alone and goes with the mount: a disk that was unmounted, by a reboot too, is lost (`DiskKeyLost`).
- What the receipt promises is read back from the kernel after the container started (`differences`).
- A lease does not see that there are disks of others, nor whose.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from docker.types import Mount

from neurons.miner.image_tree import ImageTrees
from neurons.miner.lease import Lease, LeaseId
from neurons.setup.shell import run
from polarise.errors import SubnetError, Unavailable
from polarise.usage import Loss
from utils import fscrypt
from utils.mounts import MountedAt, read_mounts

logger = logging.getLogger(__name__)

# One block group: mkfs would cut off a last group too small for its own tables, and the size would not be exact.
GRANULE_BYTES = 128 << 20
BYTES_PER_INODE = 16 << 10
TRIAL = LeaseId("trial")
# 4 MiB to 64 MiB, as much as a disk of this size has use for; of the smallest a thirty-second part.
JOURNAL_SHARE, JOURNAL_MIB_MIN, JOURNAL_MIB_MAX = 64, 4, 64
# minixdf: the size that statfs(2) tells is the whole of it, tables included, so that it can be compared exactly.
# noinit_itable: tables that were never used are not written, and the file stays small.
_EXT4_OPTIONS = "loop,nosuid,nodev,noatime,minixdf,noinit_itable,errors=remount-ro"
# These hold no data on a disk: what is written to them is counted as memory, or is the kernel's own.
_NOT_ON_DISK = frozenset(
    {"tmpfs", "devtmpfs", "ramfs", "proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "nsfs", "securityfs"}
)
# Here every lease would see the names and sizes of all others' disks (loop/backing_file); it is covered by nothing at all.
HIDDEN = "/sys/devices/virtual/block"
# The engine mounts these itself.
_KERNELS = frozenset({"dev", "proc", "sys"})


class DiskFailed(SubnetError):
    """A disk cannot be made or mounted here; the message holds what the program said.

    Attributes:
        loss: What became of a lease whose disk it is.
    """

    loss: Loss = "disk_lost"


class DiskKeyLost(DiskFailed):
    """The key of an encrypted disk is gone, and with it what was on the disk."""

    loss = "disk_key_lost"

    def __init__(self) -> None:
        super().__init__("the disk was unmounted, as by a restart of the host, and its key went with that")


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """What is taken of a lease's disk, the file system's own tables included."""

    disk_bytes: int
    inodes_count: int


def round_size(wanted_bytes: int) -> int:
    """Return the size of disk that is made for a wanted one: never less, a whole number of 128 MiB."""
    return -(-wanted_bytes // GRANULE_BYTES) * GRANULE_BYTES


def inodes_of(disk_bytes: int) -> int:
    """Return how many files and folders fit on a disk of a size that `round_size` gave."""
    return disk_bytes // BYTES_PER_INODE


@dataclass(frozen=True, slots=True)
class DiskFiles:
    """Where the parts of one lease's disk lie: the file, and the mount points of its file system and of the overlay."""

    folder: Path

    @property
    def file(self) -> Path:
        """The sparse file."""
        return self.folder / "disk.ext4"

    @property
    def filesystem(self) -> Path:
        """Where it is mounted; holds the overlay's upper and work folders, or the encrypted folder with them."""
        return self.folder / "fs"

    @property
    def encrypted(self) -> Path:
        """The folder of the file system below which all is encrypted, where it is made so."""
        return self.filesystem / "encrypted"

    @property
    def root(self) -> Path:
        """Where the overlay is mounted: the tenant's files over the image's."""
        return self.folder / "root"

    def unmount(self) -> None:
        """Unmount what is mounted of it; its key is gone then, also where somebody still looks into it.

        Raises:
            Unavailable: It stays mounted.
        """
        _unmount(self.root)
        self._forget_key()
        _unmount(self.filesystem)

    def has_key(self) -> bool:
        """Whether its encrypted folder can be read and written now.

        Raises:
            OSError: It cannot be looked at.
        """
        return os.path.ismount(self.filesystem) and _is_encrypted(self.encrypted)

    def _forget_key(self) -> None:
        if not os.path.ismount(self.filesystem) or not self.encrypted.exists():
            return
        try:
            if key := fscrypt.key_of(self.encrypted):
                fscrypt.remove_key(self.filesystem, key)
        except OSError as err:
            logger.warning("the key of a disk goes with its last use only", extra={"cause": str(err)})

    def delete(self) -> None:
        """Delete it; nothing is deleted below what is still mounted.

        Raises:
            Unavailable: It cannot be deleted.
        """
        try:
            self.file.unlink(missing_ok=True)
            for folder in (self.root, self.filesystem, self.folder):
                if folder.exists():
                    folder.rmdir()
        except OSError as err:
            raise Unavailable(f"what is left of a disk cannot be deleted: {err}", retry_after_seconds=30) from err


class LeaseDisks:
    """The disks of one node's leases.

    Args:
        folder: Below it, this node has one folder and the images another.
        node_id: Twelve hex digits.
        trees: The lower layers.
        reach: Called with the name of each step; tests end the process there.
    """

    def __init__(
        self, folder: Path, node_id: str, trees: ImageTrees, reach: Callable[[str], None] = lambda _step: None
    ) -> None:
        self.folder = folder / node_id
        self.trees = trees
        self._reach = reach

    def files(self, lease_id: LeaseId) -> DiskFiles:
        """Return where a lease's disk lies, if it has one."""
        return DiskFiles(self.folder / lease_id)

    def make(self, lease_id: LeaseId, disk_bytes: int, image_id: str, *, is_encrypted: bool = False) -> None:
        """Make and mount the disk of a lease that has none yet.

        Args:
            lease_id: Of the lease.
            disk_bytes: Its size, as `round_size` gives it.
            image_id: What it lies over.
            is_encrypted: Whether all that is written is encrypted, with a new key.

        Raises:
            Unavailable: It cannot be made now; what there is of it stays for `remove`.
        """
        try:
            files = self.files(lease_id)
            self._format(files, disk_bytes, is_encrypted=is_encrypted)
            self._reach("allocate.disk_file")
            self._mount_file(files)
            self._reach("allocate.disk_mounted")
            if is_encrypted:
                self._encrypt(files)
                self._reach("allocate.disk_key")
            self._mount_layers(files, self.trees.tree(image_id), is_encrypted=is_encrypted)
        except (DiskFailed, OSError) as err:
            raise Unavailable(f"the disk of the lease could not be made: {err}", retry_after_seconds=60) from err
        self._reach("allocate.disk")

    def ensure(self, lease: Lease) -> None:
        """Mount the disk of a lease again where it is not: after a reboot its file is all that is left of it.

        Raises:
            DiskKeyLost: It is encrypted, and nobody has the key any more.
            DiskFailed: Its file is gone or cannot be mounted.
            Unavailable: The image cannot be had from the engine now.
        """
        if lease.limits.disk_bytes is None:
            return
        files, is_encrypted = self.files(lease.lease_id), bool(lease.limits.disk_encrypted)
        try:
            if is_encrypted and not files.has_key():
                raise DiskKeyLost
            self._mount_file(files)
            self._mount_layers(files, self.trees.tree(str(lease.image_id)), is_encrypted=is_encrypted)
        except OSError as err:
            raise DiskFailed(f"the disk of the lease cannot be used: {err}") from err

    def mounts(self, lease_id: LeaseId) -> list[Mount]:
        """Return what binds a mounted disk into its container: every folder at the top of it."""
        root = self.files(lease_id).root
        return [Mount(f"/{name}", str(root / name), type="bind", read_only=False) for name in _bound(root)]

    @staticmethod
    def covers() -> dict[str, str]:
        """Return what lies empty in a container that has a disk: where -> options of a file system in memory."""
        return {HIDDEN: "ro,size=4k,mode=555"}

    def usage(self, lease_id: LeaseId) -> DiskUsage | None:
        """Return what is taken of a disk; None where the lease has none, or it is not mounted."""
        root = self.files(lease_id).root
        try:
            if not os.path.ismount(root):
                return None
            found = os.statvfs(root)
        except OSError:
            return None
        taken_bytes = (found.f_blocks - found.f_bfree) * found.f_frsize
        return DiskUsage(taken_bytes, found.f_files - found.f_ffree)

    def differences(self, lease: Lease, pid: int) -> list[str]:
        """Return one sentence for each way in which a container's disk is not the one that was promised.

        Args:
            lease: With the promise in its limits; one without a disk promises nothing.
            pid: First process of its container, as the host counts.

        Raises:
            OSError: The process is gone, or the disk cannot be looked at.
        """
        limits, root = lease.limits, self.files(lease.lease_id).root
        if limits.disk_bytes is None:
            return []
        wrong = _size_differences(root, limits.disk_bytes, limits.disk_inodes)
        wrong += _encryption_differences(root, is_wanted=bool(limits.disk_encrypted))
        return [*wrong, *outside_of(_device(root), _bound(root), read_mounts(str(pid)))]

    def remove(self, lease_id: LeaseId) -> None:
        """Unmount a disk and delete its file; one that is gone already, or never was, is fine.

        Raises:
            Unavailable: It cannot be unmounted; nothing was deleted.
        """
        files = self.files(lease_id)
        if not files.folder.exists():
            return
        files.unmount()
        self._reach("terminate.disk_unmounted")
        files.delete()

    def known(self) -> list[LeaseId]:
        """Return the leases of which this node has a disk, or something of one."""
        return [LeaseId(entry.name) for entry in self.folder.iterdir()] if self.folder.is_dir() else []

    def allocated_bytes(self) -> int:
        """Return what the files of all disks of this node take on the host's disk by now."""
        return sum(_taken_by(self.files(lease_id).file) for lease_id in self.known())

    def try_out(self, *, is_encrypted: bool = False) -> None:
        """Make, mount, write and remove the smallest disk.

        Raises:
            DiskFailed: It does not work here; the message says why.
            Unavailable: What was made cannot be removed again.
        """
        files = self.files(TRIAL)
        try:
            files.unmount()
            files.delete()
            self._format(files, GRANULE_BYTES, is_encrypted=is_encrypted)
            # Any folder does for a lower layer, this node's own as well; nothing is looked up in it.
            self._mount_file(files)
            if is_encrypted:
                self._encrypt(files)
            self._mount_layers(files, self.folder, is_encrypted=is_encrypted)
            (files.root / "a-file").write_bytes(b"written")
            wrong = _size_differences(files.root, GRANULE_BYTES, inodes_of(GRANULE_BYTES))
            if wrong := [*wrong, *_encryption_differences(files.root, is_wanted=is_encrypted)]:
                raise DiskFailed("; ".join(wrong))
        except OSError as err:
            raise DiskFailed(str(err)) from err
        finally:
            files.unmount()
            files.delete()

    def _format(self, files: DiskFiles, disk_bytes: int, *, is_encrypted: bool) -> None:
        files.folder.mkdir(mode=0o700, parents=True)
        with files.file.open("xb") as handle:
            handle.truncate(disk_bytes)
        files.file.chmod(0o600)
        journal_mib = min(max(disk_bytes // JOURNAL_SHARE >> 20, JOURNAL_MIB_MIN), JOURNAL_MIB_MAX)
        options = [
            *("-q", "-F", "-b", "4096", "-m", "0", "-I", "256", "-i", str(BYTES_PER_INODE)),
            *("-O", "^resize_inode,encrypt" if is_encrypted else "^resize_inode"),
            *("-J", f"size={journal_mib}", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"),
        ]
        _program("mkfs.ext4", *options, str(files.file))

    def _mount_file(self, files: DiskFiles) -> None:
        if os.path.ismount(files.filesystem):
            return
        files.filesystem.mkdir(mode=0o700, exist_ok=True)
        _program("mount", "-t", "ext4", "-o", _EXT4_OPTIONS, str(files.file), str(files.filesystem))

    def _encrypt(self, files: DiskFiles) -> None:
        key = fscrypt.add_random_key(files.filesystem)
        files.encrypted.mkdir(mode=0o700)
        fscrypt.encrypt_folder(files.encrypted, key)

    def _mount_layers(self, files: DiskFiles, lower: Path, *, is_encrypted: bool) -> None:
        if os.path.ismount(files.root):
            return
        above = files.encrypted if is_encrypted else files.filesystem
        upper, work = above / "upper", above / "work"
        upper.mkdir(mode=0o755, exist_ok=True)
        work.mkdir(mode=0o755, exist_ok=True)
        files.root.mkdir(mode=0o700, exist_ok=True)
        # Named after node and lease, so that an operator sees in the list of mounts whose it is.
        name = mount_name(self.folder.name, files.folder.name)
        layers = f"lowerdir={lower},upperdir={upper},workdir={work},index=off,nosuid,nodev"
        _program("mount", "-t", "overlay", "-o", layers, name, str(files.root))


def mount_name(node_id: str, lease_id: str) -> str:
    """Return the name under which a lease's overlay stands in the list of mounts."""
    return f"polarise-{node_id}-{lease_id[:12]}"


def unmount_all(node_id: str) -> None:
    """Remove the disks of all leases of a node that runs no more; for who takes down a whole node.

    Raises:
        Unavailable: One cannot be unmounted.
    """
    for mounted in read_mounts():
        if mounted.source.startswith(mount_name(node_id, "")):
            DiskFiles(Path(mounted.point).parent).unmount()


def _bound(root: Path) -> list[str]:
    """Return the folders at the top that become the container's own; links to them need no mount."""
    entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name not in _KERNELS]


def _size_differences(root: Path, disk_bytes: int, disk_inodes: int | None) -> list[str]:
    found = os.statvfs(root)
    pairs = (
        ("disk_bytes", found.f_blocks * found.f_frsize, disk_bytes),
        ("disk_inodes", found.f_files, disk_inodes),
    )
    return [f"{name} is {got}, asked for {want}" for name, got, want in pairs if got != want]


def _encryption_differences(root: Path, *, is_wanted: bool) -> list[str]:
    """Ask the kernel which folders the overlay writes to, and what becomes of what is written there."""
    # The kernel tells where a mount is, not by which links it was reached.
    mounted = [found for found in read_mounts() if found.point == os.path.realpath(root)]
    folders = [mounted[-1].option(name) for name in ("upperdir", "workdir")] if mounted else []
    if not folders or None in folders:
        return ["the folders that the disk is written to cannot be seen"]
    found = [_is_encrypted(Path(str(folder))) for folder in folders]
    return [] if found == [is_wanted] * 2 else [f"disk_encrypted is {all(found)}, asked for {is_wanted}"]


def _is_encrypted(folder: Path) -> bool:
    """Whether what is written to a folder is encrypted, with a key that the kernel holds now."""
    key = fscrypt.key_of(folder) if folder.exists() else None
    return key is not None and fscrypt.has_key(folder, key)


def outside_of(device: str, bound: list[str], mounts: list[MountedAt]) -> Iterator[str]:
    """Say what of a container can be written and is not on its disk, and whether it sees those of others.

    Args:
        device: The disk's, ``major:minor``.
        bound: Names of the folders at the top that must be on it.
        mounts: What the container's first process sees.
    """
    # A later mount on the same point covers an earlier one.
    by_point = {mounted.point: mounted for mounted in mounts}
    root = by_point.get("/")
    if root is None or not root.is_read_only:
        yield "the root of the container can be written"
    for name in bound:
        found = by_point.get(f"/{name}")
        if found is None or found.device != device:
            yield f"/{name} is not on the disk of the lease"
    hidden = by_point.get(HIDDEN)
    if hidden is None or hidden.kind != "tmpfs":
        yield f"{HIDDEN} is not covered: the disks of other leases can be seen"
    for mounted in by_point.values():
        if not mounted.is_read_only and mounted.device != device and mounted.kind not in _NOT_ON_DISK:
            yield f"{mounted.point} ({mounted.kind}) can be written and is not on the disk of the lease"


def _device(path: Path) -> str:
    number = path.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def _taken_by(file: Path) -> int:
    try:
        return file.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _unmount(point: Path) -> None:
    """Unmount whatever is mounted there; what somebody still looks into goes when they are done.

    Raises:
        Unavailable: It stays mounted.
    """
    if not os.path.ismount(point):
        return
    outcome = run(["umount", str(point)])
    if os.path.ismount(point):
        logger.warning("disk is in use, unmounting when it is let go", extra={"mount": str(point)})
        outcome = run(["umount", "--lazy", str(point)])
    if os.path.ismount(point):
        raise Unavailable(f"{point} cannot be unmounted: {outcome.tail(1)}", retry_after_seconds=30)


def _program(*command: str) -> None:
    outcome = run(command)
    if not outcome.ok:
        raise DiskFailed(f"{command[0]} failed: {outcome.tail(2) or outcome.status}")
