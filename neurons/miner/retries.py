"""What an ``Idempotency-Key`` is worth: the same request again is the same lease, before and after a restart.

Rules:
- The key belongs to one renter and one request. With another request it is refused (422), and nothing is made.
- While the first request is at work, a second one is told to come back (409 with Retry-After): never two containers.
- A lease that is over is not made again by a late retry: its key is remembered for a day, then it is as good as new.
- A request that failed was no lease: the same key tries again.
"""

from __future__ import annotations

from neurons.miner.admission import rejected
from neurons.miner.journal import Journal
from neurons.miner.lease import Lease, LeaseState
from polarise.canonical import digest_hex
from polarise.errors import ErrorCode, RequestRejected
from polarise.http_signatures import IDEMPOTENCY_HEADER, IDEMPOTENCY_KEY
from polarise.messages import AllocateRequest
from utils.clock import Clock


class Retries:
    """Finds the lease that an earlier request with the same key made.

    Args:
        journal: The node's leases.
        clock: Wall clock.
    """

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock

    def earlier(self, request: AllocateRequest, renter_key: str, key: str | None) -> Lease | None:
        """Return the active lease of an earlier request; None when this is the first one.

        Call it again inside the transaction of the reservation: only there nobody comes between.

        Args:
            request: What is wanted now.
            renter_key: Who asks.
            key: The header; None where none was sent.

        Raises:
            RequestRejected: INVALID_FIELD (422), no usable key; IDEMPOTENCY_KEY_REUSED (422), the key was used for
                another request; CONFLICT (409), the first one is at work, or its lease is over.
        """
        if key is None:
            return None
        if not IDEMPOTENCY_KEY.fullmatch(key):
            raise rejected(
                ErrorCode.INVALID_FIELD,
                IDEMPOTENCY_HEADER,
                "not a usable key",
                "1 to 64 letters, digits, _ or -",
            )
        lease = self._journal.by_idempotency_key(renter_key, key)
        used_for = lease.request_digest if lease else self._spent(renter_key, key)
        if used_for is not None and used_for != request_digest(request):
            raise rejected(
                ErrorCode.IDEMPOTENCY_KEY_REUSED,
                IDEMPOTENCY_HEADER,
                "the key was used for another request",
                "send the first request unchanged, or a fresh key with this one",
            )
        if lease is not None and lease.state is LeaseState.CREATING:
            raise _conflict("the first request with this key is at work", "ask again", retry_after_seconds=1)
        if used_for is not None and (lease is None or lease.state is LeaseState.DELETING):
            raise _conflict("the lease of this key is over", "use a fresh key for a new lease")
        return lease

    def _spent(self, renter_key: str, key: str) -> str | None:
        return self._journal.spent_key(renter_key, key, self._clock.wall_unix_ms())


def request_digest(request: AllocateRequest) -> str:
    """Return what tells one request from another."""
    return digest_hex(request.to_wire())


def granted_meanwhile() -> RequestRejected:
    """Return the answer to a request that was overtaken by its own twin."""
    return _conflict("the first request with this key is done", "ask again", retry_after_seconds=1)


def _conflict(message: str, hint: str, *, retry_after_seconds: int | None = None) -> RequestRejected:
    return RequestRejected(
        ErrorCode.CONFLICT,
        message,
        hint=hint,
        field=IDEMPOTENCY_HEADER,
        status=409,
        retry_after_seconds=retry_after_seconds,
    )
