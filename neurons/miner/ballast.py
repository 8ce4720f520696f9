"""Room that is kept on the disk of the journal, and given up when a lease has to end on a full one.

Rules:
- A new lease never gets it: on a full disk granting is 503 while the room is still there.
- It is taken again once the disk has far more than that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from pathlib import Path

logger = logging.getLogger(__name__)

FILE_NAME = "ballast"
# A hundred transactions' worth of the journal's log.
SIZE_BYTES = 1 << 20
FREE_FACTOR = 16


class Ballast:
    """One file of room.

    Args:
        folder: On the disk it is about.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE_NAME
        self.is_given_up = False

    def take(self) -> None:
        """Fill the file unless it is there; a disk with little room is left alone."""
        try:
            if self._file.exists() or shutil.disk_usage(self._file.parent).free < FREE_FACTOR * SIZE_BYTES:
                return
            # Not `posix_fallocate` alone: a file system that copies on write would count no byte of it.
            part = self._file.with_suffix(".part")
            part.write_bytes(os.urandom(SIZE_BYTES))
            part.replace(self._file)
            self.is_given_up = False
        except OSError as err:
            logger.warning("no room can be kept on the journal's disk", extra={"cause": str(err)})

    def give_up(self) -> bool:
        """Let go of the room; returns False when there was none."""
        with contextlib.suppress(OSError):
            self._file.unlink()
            self.is_given_up = True
            logger.error("the journal's disk is full: the last room on it is used to end leases; free some")
            return True
        return False
