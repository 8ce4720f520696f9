"""The process a daemon owns: who may read the files it makes, and how many it may open."""

from __future__ import annotations

import os
import sys

PRIVATE_UMASK = 0o077


def take_process() -> None:
    """Make new files readable by this user alone, and raise the limit of open files as far as this user may.

    Both are the process's, so only a daemon's main thread calls it.
    """
    os.umask(PRIVATE_UMASK)
    _raise_open_files()


if sys.platform == "win32":  # written for validators there, not run

    def open_files_max() -> int:
        """Return how many files and sockets this process may open."""
        return 8192

    def _raise_open_files() -> None:
        """Nothing to raise."""

else:
    import resource

    def open_files_max() -> int:
        """Return how many files and sockets this process may open."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return sys.maxsize if soft == resource.RLIM_INFINITY else soft

    def _raise_open_files() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
