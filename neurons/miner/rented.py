"""Which devices are in a tenant's hands, and what shows it to a validator: the receipt with the renter's signature.

Rules:
- What counts is the renter's signature over the newest receipt of the lease; a renewal makes a new receipt, and the
  signature over the old one is refused and no longer shown.
- It is checked when it comes and again when it is shown, by the very check that the validator makes: what would cost
  points there is not shown, and the validator hears that the device is busy instead.
- The processor is never rented as a device. While leases hold more of it than the claim leaves free, it is busy: `join`
  claims 70 % of what it measures, and what tenants use cannot be proven as well.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from neurons.miner.journal import Journal
from neurons.miner.lease import Lease, LeaseState
from neurons.miner.receipts import ReceiptWriter
from neurons.miner.running import not_found
from polarise.errors import ErrorCode, ProofRejected, RequestRejected
from polarise.hardware import CPU_DEVICE
from polarise.rented import STATEMENT_KIND, Countersignature, CountersignedReceipt, check_countersigned, check_rented
from polarise.signing import SignatureInvalid
from polarise.statement import SignedStatement
from utils.clock import Clock

logger = logging.getLogger(__name__)

# What a claim of 70 % leaves free.
CPU_SPARE_PERCENT = 30


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
                check_countersigned(signed, miner_key=self._miner_key, owner_key=self._owner_key)
            except ProofRejected as err:
                message = f"{err.message} (got {err.got}, expected {err.expected})"
                raise _refused(ErrorCode.INVALID_FIELD, message[:500]) from err
            return replace(found, countersigned=signed)

        if self._journal.change(lease.lease_id, decide) is None:
            raise not_found(lease.container_id or "")
        logger.info("lease countersigned", extra={"lease_id": lease.lease_id, "renter_key": lease.renter_key})

    def shown(self, device: str) -> CountersignedReceipt | None:
        """Return what shows that a device is rented; None where it is free.

        Raises:
            RequestRejected: TOO_MANY_REQUESTS (429), it is leased and nothing shows it, or it is the processor and tenants
                have too much of it.
        """
        if device == CPU_DEVICE:
            self._refuse_leased_processor()
            return None
        lease = self._journal.by_device(device)
        if lease is None:
            return None
        if lease.state is not LeaseState.ACTIVE or lease.countersigned is None:
            raise _busy(device, "its renter has not countersigned the receipt")
        try:
            check_rented(
                lease.countersigned,
                miner_key=self._miner_key,
                owner_key=self._owner_key,
                device=device,
                now_unix_ms=self._clock.wall_unix_ms(),
            )
        except ProofRejected as err:
            raise _busy(device, err.message) from err
        return lease.countersigned

    def _refuse_leased_processor(self) -> None:
        leased = sum(lease.limits.cpu_milli for lease in self._journal.all() if lease.state is LeaseState.ACTIVE)
        if leased * 100 > self._cpu_milli * CPU_SPARE_PERCENT:
            raise RequestRejected(
                ErrorCode.TOO_MANY_REQUESTS,
                f"tenants hold {leased / 1000:g} of {self._cpu_milli / 1000:g} CPUs",
                hint="the owner claims what leases leave of it (`join`), or offers tenants less: a decline counts as away",
                field="device",
                status=429,
            )


def _refused(code: ErrorCode, message: str) -> RequestRejected:
    return RequestRejected(
        code,
        message,
        hint="sign the newest receipt of this lease with the key that holds it: `renter renew` does both",
        field="countersignature",
        status=422,
    )


def _busy(device: str, cause: str) -> RequestRejected:
    return RequestRejected(
        ErrorCode.TOO_MANY_REQUESTS,
        f"the device {device} is leased, and cannot be shown as rented: {cause}",
        hint="let the renter sign its receipt (`renter renew` does): what cannot be shown as rented counts as away",
        field="device",
        status=429,
    )
