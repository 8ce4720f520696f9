"""A node's data directory: one owner at a time, and a layout that says what lies where.

``keys/ journal.sqlite nonces.sqlite evidence/ leases/<id>/ run/ lock``
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType

from polarise.errors import ConfigError
from polarise.keyfile import make_private_folder


class DataDir:
    """Paths of one node and the lock that keeps a second process out; use it as a context manager.

    Args:
        root: The folder.
        wait_seconds: How long to wait for the lock on entering.

    Raises:
        ConfigError: On entering, when another process holds the lock (named by its process id) or the folder cannot
            be written.
    """

    def __init__(self, root: Path, *, wait_seconds: float = 0.0) -> None:
        self.root = root
        self.wait_seconds = wait_seconds
        self.keys = root / "keys"
        self.node_key = self.keys / "node.key"
        self.token_secrets = self.keys / "token-secrets"
        self.journal = root / "journal.sqlite"
        self.nonces = root / "nonces.sqlite"
        self.leases = root / "leases"
        self.evidence = root / "evidence"
        self.run = root / "run"
        self.firewall = self.run / "firewall.json"
        # Made on entering; a process that needs fewer says so.
        self.folders: tuple[Path, ...] = (root, self.keys, self.leases, self.evidence, self.run)
        self._lock_path = root / "lock"
        self._lock_descriptor: int | None = None

    def __enter__(self) -> DataDir:
        try:
            for folder in self.folders:
                make_private_folder(folder)
            # Through a link the process number would be written over whatever it leads to.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(self._lock_path, flags, 0o600)
        except OSError as err:
            raise ConfigError(
                f"cannot use the data directory: {err}", key_path="data_dir", allowed="a folder this user may write"
            ) from err
        try:
            self._take_lock(descriptor)
        except OSError as err:
            os.lseek(descriptor, 0, os.SEEK_SET)
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise ConfigError(
                f"process {holder} already runs on {self.root}",
                key_path="data_dir",
                allowed="stop that process, or give this node a data directory of its own",
            ) from err
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._lock_descriptor = descriptor
        return self

    def _take_lock(self, descriptor: int) -> None:
        end = time.monotonic() + self.wait_seconds
        while True:
            try:
                return _lock(descriptor)
            except OSError:
                if time.monotonic() >= end:
                    raise
            time.sleep(0.05)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None


if sys.platform == "win32":  # written for validators there, not run

    def _lock(descriptor: int) -> None:
        import msvcrt

        # One byte far behind the process id, which others must stay able to read.
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:

    def _lock(descriptor: int) -> None:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
