"""The disks of leases in tests: one folder for all miners, so that the image is unpacked once, and nothing left in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import docker

from neurons.miner.disk import LeaseDisks, unmount_all
from neurons.miner.disk_offer import DiskOffer, DiskSettings
from neurons.miner.image_tree import ImageTrees
from neurons.setup.checks.lease_disk import encryption_obstacle, measure_lease_disk, obstacle

# Stays between runs, with the tree of the base image; what belongs to a node goes with it.
FOLDER = Path(f"/var/tmp/polarise-tests-{os.getuid()}")


def disk_offer(client: docker.DockerClient, folder: Path, **changes: object) -> DiskOffer:
    """Return an offer of disks below a folder of the test's own: 256 MiB where a request names none, 1 GiB together."""
    values: dict[str, object] = {"mode": "loop", "default_bytes": 256 << 20, "reserve_bytes": 0, "total_bytes": 1 << 30}
    node_id = "0" * 12
    settings = DiskSettings(**{"engine_host": None, **values, **changes})  # type: ignore[arg-type]  # each of its type
    trees = ImageTrees(client, folder / "images", node_id)
    return DiskOffer(client, LeaseDisks(folder, node_id, trees), settings, ())


def why_no_disks() -> str | None:
    """Return why leases can have no disk on this machine, None where they can."""
    found = obstacle(measure_lease_disk())
    return None if found is None else found[0]


def why_no_encryption() -> str | None:
    """Return why the disks of leases cannot be encrypted on this machine, None where they can."""
    facts = measure_lease_disk()
    found = obstacle(facts) or encryption_obstacle(facts)
    return None if found is None else found[0]


def remove_disks_of(node_id: str) -> None:
    """Unmount and delete every disk of a node that runs no more."""
    unmount_all(node_id)
    shutil.rmtree(FOLDER / node_id, ignore_errors=True)


def left_over(node_id: str) -> list[str]:
    """Return what is left of a node's disks: mounts, loop devices, folders."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    loops = subprocess.run(["losetup", "--list", "--noheadings"], capture_output=True, text=True, check=True).stdout
    folder = FOLDER / node_id
    return [
        *(line for line in mounts if node_id in line),
        *(line for line in loops.splitlines() if node_id in line),
        *(str(entry) for entry in (folder.iterdir() if folder.is_dir() else ())),
    ]
