"""Which devices are in a tenant's hands, and what shows it to a validator: receipts with a signature of the renter.

Rules:
- What counts is the renter's signature over the newest receipt of the lease; a renewal makes a new receipt, and the
  signature over the old one is refused and no longer shown. Else it is the consent that came with the token under which
  the lease was made, as long as that lasts.
- It is checked when it comes and again when it is shown, by the very check that the validator makes: what would cost
  more than a decline there is not shown.
- The processor is never rented as a device. While leases hold more of it than the claim leaves free it is not proven:
  `join` claims 70 % of what it measures, and what tenants use cannot be proven as well. The largest leases are shown,
  as many as it takes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from neurons.miner.journal import Journal
from neurons.miner.lease import Lease, LeaseState
from neurons.miner.receipts import ReceiptWriter
from neurons.miner.running import not_found
from polarise.errors import ErrorCode, ProofRejected, RequestRejected
from polarise.hardware import CPU_DEVICE
from polarise.messages import ShownBy
from polarise.receipt import Receipt
from polarise.rented import (
    CPU_SPARE_PERCENT,
    LEASES_MAX,
    STATEMENT_KIND,
    Countersignature,
    CountersignedReceipt,
    LeaseConsent,
    ShownLease,
    check_lease,
    check_rented,
    open_consent,
)
from polarise.signing import SignatureInvalid
from polarise.statement import SignedStatement
from utils.clock import Clock

logger = logging.getLogger(__name__)


class RentedDevices:
    """The leased devices of one node, as validators are told about them.

    Args:
        journal: The node's leases.
        receipts: Signs them.
        miner_key: The node's public key.
        owner_key: Who certified it; its own key where nobody did.
        clock: Wall clock.
        cpu_milli: CPUs that leases may have together, in thousandths.
    """

    def __init__(
        self,
        journal: Journal,
        receipts: ReceiptWriter,
        *,
        miner_key: str,
        owner_key: str,
        clock: Clock,
        cpu_milli: int,
    ) -> None:
        self._journal = journal
        self._receipts = receipts
        self._miner_key = miner_key
        self._owner_key = owner_key
        self._clock = clock
        self._cpu_milli = cpu_milli

    def countersign(self, lease: Lease, statement: SignedStatement) -> None:
        """Verify and keep the renter's signature.

        Args:
            lease: The caller's own.
            statement: The ``countersignature`` statement; untrusted.

        Raises:
            RequestRejected: BAD_SIGNATURE (422), it is not the renter's; INVALID_FIELD (422), it is over another receipt
                than the newest, or the renter is the miner or its owner; NOT_FOUND (404), the lease has just ended.
        """
        try:
            statement.open(STATEMENT_KIND, Countersignature, signer=lease.renter_key)
        except SignatureInvalid as err:
            raise _refused(ErrorCode.BAD_SIGNATURE, f"the countersignature does not hold: {err}") from err

        def decide(found: Lease) -> Lease | None:
            if found.state is not LeaseState.ACTIVE:
                return None
            # In the transaction, so that no renewal comes between.
            signed = CountersignedReceipt(receipt=self._receipts.sign(found), countersignature=statement)
            try:
                self._check_lease(ShownLease.of(signed))
            except ProofRejected as err:
                message = f"{err.message} (got {err.got}, expected {err.expected})"
                raise _refused(ErrorCode.INVALID_FIELD, message[:500]) from err
            return replace(found, countersigned=signed)

        if self._journal.change(lease.lease_id, decide) is None:
            raise not_found(lease.container_id or "")
        logger.info("lease countersigned", extra={"lease_id": lease.lease_id, "renter_key": lease.renter_key})

    def check_consent(self, statement: SignedStatement, renter_key: str) -> None:
        """Verify what came with the request for a token.

        Args:
            statement: The ``lease_consent`` statement; untrusted.
            renter_key: Who asks for the token.

        Raises:
            RequestRejected: BAD_SIGNATURE (422), it is not the caller's; INVALID_FIELD (422), it is for another miner, over,
                or for longer than a day.
        """
        hint = "send none, or let `renter token` make it"
        try:
            consent = open_consent(statement, renter_key=renter_key, miner_key=self._miner_key)
        except SignatureInvalid as err:
            message = f"the consent does not hold: {err}"
            raise _refused(ErrorCode.BAD_SIGNATURE, message, field="consent", hint=hint) from err
        except ProofRejected as err:
            message = f"{err.message} (got {err.got}, expected {err.expected})"
            raise _refused(ErrorCode.INVALID_FIELD, message[:500], field="consent", hint=hint) from err
        if consent.expires_unix_ms < self._clock.wall_unix_ms():
            raise _refused(ErrorCode.INVALID_FIELD, "the consent is over", field="consent", hint=hint)

    def shown_by(self, lease: Lease) -> ShownBy | None:
        """Return which signature of its renter shows a lease at this moment."""
        return shown_by(lease, self._clock.wall_unix_ms())

    def shown(self, device: str) -> tuple[ShownLease, ...]:
        """Return what shows that a device is rented; nothing where it is free.

        Raises:
            RequestRejected: TOO_MANY_REQUESTS (429), it is leased, or tenants have too much of the processor, and nothing
                shows it.
        """
        if device == CPU_DEVICE:
            return self._shown_processor()
        lease = self._journal.by_device(device)
        if lease is None:
            return ()
        cause = f"the device {device} is leased, and cannot be shown as rented"
        shown = self._as_shown(lease)
        if shown is None:
            raise _busy(cause, "its renter has not countersigned the receipt, or its consent is over")
        return self._checked((shown,), device, cause)

    def _shown_processor(self) -> tuple[ShownLease, ...]:
        active = [lease for lease in self._journal.all() if lease.state is LeaseState.ACTIVE]
        leased_milli = sum(lease.limits.cpu_milli for lease in active)
        if not self._is_too_much(leased_milli):
            return ()
        cause = f"tenants hold {leased_milli / 1000:g} of {self._cpu_milli / 1000:g} CPUs"
        return self._checked(self._enough(active), CPU_DEVICE, cause)

    def _enough(self, leases: Sequence[Lease]) -> tuple[ShownLease, ...]:
        """Return the fewest leases that show enough, or as many as may be shown."""
        found: list[ShownLease] = []
        held_milli = 0
        for lease in sorted(leases, key=lambda lease: -lease.limits.cpu_milli):
            shown = self._as_shown(lease)
            if shown is None or not self._holds(shown):
                continue
            found.append(shown)
            held_milli += lease.limits.cpu_milli
            if self._is_too_much(held_milli) or len(found) == LEASES_MAX:
                break
        return tuple(found)

    def _is_too_much(self, milli: int) -> bool:
        return milli * 100 > self._cpu_milli * CPU_SPARE_PERCENT

    def _as_shown(self, lease: Lease) -> ShownLease | None:
        if lease.state is not LeaseState.ACTIVE:
            return None
        if lease.countersigned is not None:
            return ShownLease.of(lease.countersigned)
        if self.shown_by(lease) is None:
            return None
        return ShownLease(receipt=self._receipts.sign(lease), consent=lease.consent)

    def _holds(self, lease: ShownLease) -> bool:
        try:
            receipt = self._check_lease(lease)
        except ProofRejected:
            return False
        return self._clock.wall_unix_ms() <= receipt.expires_unix_ms

    def _check_lease(self, lease: ShownLease) -> Receipt:
        return check_lease(
            lease, miner_key=self._miner_key, owner_key=self._owner_key, now_unix_ms=self._clock.wall_unix_ms()
        )

    def _checked(self, leases: tuple[ShownLease, ...], device: str, cause: str) -> tuple[ShownLease, ...]:
        """Show nothing that the validator would not believe."""
        try:
            check_rented(
                leases,
                miner_key=self._miner_key,
                owner_key=self._owner_key,
                device=device,
                claimed_cpu_milli=self._cpu_milli,
                now_unix_ms=self._clock.wall_unix_ms(),
            )
        except ProofRejected as err:
            raise _busy(cause, err.message) from err
        return leases


def shown_by(lease: Lease, now_unix_ms: int) -> ShownBy | None:
    """Return which signature of its renter shows a lease at this moment; all were verified when they came."""
    if lease.countersigned is not None:
        return "countersignature"
    if lease.consent is None:
        return None
    consent = LeaseConsent.model_validate(lease.consent.body)
    return "consent" if consent.covers(lease.created_unix_ms) and consent.covers(now_unix_ms) else None


def _refused(
    code: ErrorCode,
    message: str,
    *,
    field: str = "countersignature",
    hint: str = "sign the newest receipt of this lease with the key that holds it: `renter renew` does both",
) -> RequestRejected:
    return RequestRejected(code, message, hint=hint, field=field, status=422)


def _busy(cause: str, why_not_shown: str) -> RequestRejected:
    return RequestRejected(
        ErrorCode.TOO_MANY_REQUESTS,
        f"{cause}: {why_not_shown}",
        hint="what cannot be shown as rented counts as away: `miner status` names the leases, `renter renew` signs one",
        field="device",
        status=429,
    )
