"""One lock per lease, for whoever changes its login, its folder or its container; nobody waits for one without end.

Rules:
- One holds, one more may wait, and only so long; the next is told to come back. A renter thus ties up two threads per
  lease, however slowly its container answers.
- What ends a lease in time (`keeper`, `reconcile`) never waits: it asks with no patience at all and comes back.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from neurons.miner.lease import LeaseId
from polarise.errors import Unavailable

WAIT_SECONDS = 2.0
# The one that holds and the one that waits.
USERS_MAX = 2


class LeaseBusy(Unavailable):
    """Somebody else works on the lease at this moment."""

    def __init__(self) -> None:
        super().__init__("another request is changing this lease", retry_after_seconds=1)


@dataclass(slots=True)
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    users_count: int = 0


class LeaseLocks:
    """The locks of one node; an entry lives as long as somebody uses it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._entries: dict[LeaseId, _Entry] = {}

    @contextlib.contextmanager
    def holding(self, lease_id: LeaseId, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
        """Keep everybody else's hands off one lease.

        Raises:
            LeaseBusy: It was not free in time.
        """
        with self._guard:
            entry = self._entries.setdefault(lease_id, _Entry())
            if entry.users_count >= USERS_MAX:
                raise LeaseBusy
            entry.users_count += 1
        try:
            if not entry.lock.acquire(timeout=wait_seconds):
                raise LeaseBusy
            try:
                yield
            finally:
                entry.lock.release()
        finally:
            with self._guard:
                entry.users_count -= 1
                if entry.users_count == 0:
                    del self._entries[lease_id]
