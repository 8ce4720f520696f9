"""Draining: an operator's word that this miner grants no new leases; those that run go on.

Rules:
- The word is a file in the data directory, so that it needs no running daemon, holds at once, and outlives a restart:
  a miner that is drained for an upgrade comes back drained.
- Only granting stops. Renewals, logins, proofs and ends go on, and a repeated answer under an Idempotency-Key too.
"""

from __future__ import annotations

from pathlib import Path

from polarise.errors import ConfigError, ErrorCode, Unavailable

FILE_NAME = "draining"
RETRY_SECONDS = 300


class Drain:
    """Whether one node drains.

    Args:
        root: Its data directory.
    """

    def __init__(self, root: Path) -> None:
        self._file = root / FILE_NAME

    def is_on(self) -> bool:
        """Whether no new lease is granted; asked again for each request."""
        return self._file.exists()

    def switch(self, *, on: bool) -> None:
        """Begin or end it; twice is fine.

        Raises:
            ConfigError: The data directory is not there, or this user may not write it.
        """
        try:
            if on:
                self._file.touch(mode=0o600)
            else:
                self._file.unlink(missing_ok=True)
        except OSError as err:
            raise ConfigError(
                f"cannot write: {err.strerror}",
                origin=str(self._file),
                allowed="the miner's data directory, as its user",
            ) from err

    def check(self) -> None:
        """Refuse a new lease while it is on.

        Raises:
            Unavailable: DRAINING.
        """
        if self.is_on():
            raise Unavailable(
                "this miner takes no new leases for now, its owner lets it run empty; rent from another, or ask again later",
                retry_after_seconds=RETRY_SECONDS,
                code=ErrorCode.DRAINING,
            )
