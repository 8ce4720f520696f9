"""A device that is rented cannot prove: what a miner shows instead, signed by both sides of the lease.

Rules:
- The receipt is the miner's word; the renter signs its digest, so that no miner makes it alone.
- The renter must be somebody else: its key is neither the miner's nor its owner's. A second key of the same person
  looks like anybody's; that is why the excuse wears off (see `neurons.validator.scoring`).
- It excuses the devices that the receipt names, while the lease lasts. One that is over by our clock says nothing
  untrue, so that the device counts as missing; all else that does not hold is MALFORMED.
"""

from __future__ import annotations

from pydantic import Field

from polarise.decode import WireModel
from polarise.errors import ProofRejected, RejectReason
from polarise.receipt import STATEMENT_KIND as RECEIPT_KIND
from polarise.receipt import Receipt
from polarise.signing import KEY_PATTERN, Identity, SignatureInvalid
from polarise.statement import SignedStatement, sign_statement

STATEMENT_KIND = "countersignature"


class Countersignature(WireModel):
    """Body of a renter's ``countersignature`` statement.

    Attributes:
        receipt: Digest of the miner's receipt statement, 64 hex digits.
        lease_id: The lease it is about.
        node_key: The miner.
        signed_unix_ms: When, by the renter's clock.
    """

    receipt: str = Field(pattern=r"^[0-9a-f]{64}$")
    lease_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    node_key: str = Field(pattern=KEY_PATTERN)
    signed_unix_ms: int = Field(ge=0, lt=2**53)


class CountersignedReceipt(WireModel):
    """Both halves.

    Attributes:
        receipt: The miner's ``receipt`` statement.
        countersignature: The renter's ``countersignature`` statement over it.
    """

    receipt: SignedStatement
    countersignature: SignedStatement


def countersign(identity: Identity, receipt: SignedStatement, signed_unix_ms: int) -> SignedStatement:
    """Sign a receipt as the renter it is made out to.

    Args:
        identity: The renter.
        receipt: The miner's statement, already checked.
        signed_unix_ms: Wall clock.

    Raises:
        SignatureInvalid: It is no receipt.
    """
    body = receipt.open(RECEIPT_KIND, Receipt)
    countersignature = Countersignature(
        receipt=receipt.digest(), lease_id=body.lease_id, node_key=body.node_key, signed_unix_ms=signed_unix_ms
    )
    return sign_statement(identity, STATEMENT_KIND, countersignature)


def check_rented(
    lease: CountersignedReceipt, *, miner_key: str, owner_key: str, device: str, now_unix_ms: int
) -> Receipt:
    """Check that a device is in the hands of somebody else at this moment.

    Args:
        lease: What the miner showed; untrusted.
        miner_key: Node key of the miner.
        owner_key: Who certified the miner's key.
        device: UUID of the device that does not prove.
        now_unix_ms: The validator's wall clock.

    Returns:
        The receipt that excuses the device.

    Raises:
        ProofRejected: MISSING where the lease lasts at another time; MALFORMED where other devices are leased, and as
            `check_countersigned`.
    """
    receipt = check_countersigned(lease, miner_key=miner_key, owner_key=owner_key)
    if device not in receipt.devices:
        raise _rejected("the lease holds other devices", ", ".join(receipt.devices)[:300] or "none", device)
    if not receipt.granted_unix_ms <= now_unix_ms <= receipt.expires_unix_ms:
        expected = f"{receipt.granted_unix_ms}..{receipt.expires_unix_ms}"
        raise ProofRejected(
            RejectReason.MISSING, "the shown lease does not last now", got=str(now_unix_ms), expected=expected
        )
    return receipt


def check_countersigned(lease: CountersignedReceipt, *, miner_key: str, owner_key: str) -> Receipt:
    """Check that two different parties signed one lease, whatever it holds and whenever it lasts.

    Args:
        lease: Both halves; untrusted.
        miner_key: Node key of the miner.
        owner_key: Who certified the miner's key.

    Raises:
        ProofRejected: MALFORMED where a signature does not hold, the two halves do not belong together, or the renter is
            the miner itself.
    """
    try:
        receipt = lease.receipt.open(RECEIPT_KIND, Receipt, signer=miner_key)
        countersigned = lease.countersignature.open(STATEMENT_KIND, Countersignature)
    except SignatureInvalid as err:
        raise ProofRejected(RejectReason.MALFORMED, f"the shown lease does not hold: {err}"[:400]) from err
    renter_key = lease.countersignature.signer
    _same("node of the receipt", receipt.node_key, miner_key)
    _same("countersigned receipt", countersigned.receipt, lease.receipt.digest())
    _same("countersigned lease", countersigned.lease_id, receipt.lease_id)
    _same("countersigned node", countersigned.node_key, miner_key)
    _same("signer of the countersignature", renter_key, receipt.renter_key)
    if renter_key in {miner_key, owner_key}:
        raise _rejected("the renter is the miner itself", renter_key, "a key of another owner")
    return receipt


def _same(what: str, got: str, expected: str) -> None:
    if got != expected:
        raise _rejected(f"the {what} is another", got, expected)


def _rejected(message: str, got: str, expected: str) -> ProofRejected:
    return ProofRejected(RejectReason.MALFORMED, message, got=got, expected=expected)
