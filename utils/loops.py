"""The files behind loop devices, as the kernel names them; see Linux Documentation/ABI/testing/sysfs-block-loop."""

from __future__ import annotations

import os
from pathlib import Path

BLOCK_DEVICES = Path("/sys/block")
# What stat(2) counts blocks in, whatever the file system's are.
BLOCK_BYTES = 512


def growth_bytes(filesystem_of: Path, *, leave_out: Path, devices: Path = BLOCK_DEVICES) -> int:
    """Return how much the files behind all loop devices can still grow on one file system, until they have their size.

    Args:
        filesystem_of: A folder on that file system.
        leave_out: Files below this folder are not counted.
        devices: Where the kernel tells it.
    """
    # The kernel tells where a file is, not by which links it was reached.
    number, leave_out = filesystem_of.stat().st_dev, leave_out.resolve()
    return sum(_growth(file, number) for file in _files(devices) if leave_out not in file.parents)


def _files(devices: Path) -> set[Path]:
    found = set()
    for told in devices.glob("loop*/loop/backing_file"):
        try:
            found.add(Path(os.fsdecode(told.read_bytes().removesuffix(b"\n"))))
        except OSError:
            # The device was let go meanwhile.
            continue
    return found


def _growth(file: Path, device_number: int) -> int:
    try:
        found = file.stat()
    except OSError:
        # Deleted, or a path of another mount namespace.
        return 0
    return max(0, found.st_size - found.st_blocks * BLOCK_BYTES) if found.st_dev == device_number else 0
