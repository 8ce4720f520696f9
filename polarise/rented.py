"""A device that is rented cannot prove: what a miner shows instead, signed by both sides of the lease.

Rules:
- The receipt is the miner's word. The renter signs its digest; or, where the renter's client cannot sign, it signed a
  consent beforehand: leases that this miner grants it within the consent's time may be shown as its own, as long as that
  time lasts, a day at most. So no miner makes an excuse alone.
- The renter must be somebody else: its key is neither the miner's nor its owner's. A second key of the same person
  looks like anybody's; that is why the excuse wears off (see `neurons.validator.scoring`).
- A GPU is excused by the one lease that names it. The processor is excused by leases that hold more of the claimed CPUs
  together than a claim leaves free, each counted once.
- A lease excuses while it lasts. One that is over by our clock says nothing untrue, so that the device counts as missing;
  leases that hold too little are DECLINED; all else that does not hold is MALFORMED.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from polarise.decode import WireModel
from polarise.errors import ProofRejected, RejectReason
from polarise.hardware import CPU_DEVICE
from polarise.receipt import STATEMENT_KIND as RECEIPT_KIND
from polarise.receipt import Receipt
from polarise.signing import KEY_PATTERN, Identity, SignatureInvalid
from polarise.statement import SignedStatement, sign_statement

STATEMENT_KIND = "countersignature"
CONSENT_KIND = "lease_consent"
CONSENT_MS_MAX = 24 * 3_600_000
LEASES_MAX = 16
# What a claim of 70 % of the measured rate leaves free of the processor.
CPU_SPARE_PERCENT = 30


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


class LeaseConsent(WireModel):
    """Body of a renter's ``lease_consent`` statement, given with the request for a token.

    Attributes:
        renter_key: Who consents; must be the statement's signer.
        miner_key: Who may show the leases.
        not_before_unix_ms: Leases granted from here on.
        expires_unix_ms: Leases granted until here, and shown until here; at most `CONSENT_MS_MAX` later.
    """

    renter_key: str = Field(pattern=KEY_PATTERN)
    miner_key: str = Field(pattern=KEY_PATTERN)
    not_before_unix_ms: int = Field(ge=0, lt=2**53)
    expires_unix_ms: int = Field(ge=0, lt=2**53)

    def covers(self, unix_ms: int) -> bool:
        """Whether an instant lies within its time, both ends included."""
        return self.not_before_unix_ms <= unix_ms <= self.expires_unix_ms


class CountersignedReceipt(WireModel):
    """Both halves; how bundles of before version 3 keep a shown lease.

    Attributes:
        receipt: The miner's ``receipt`` statement.
        countersignature: The renter's ``countersignature`` statement over it.
    """

    receipt: SignedStatement
    countersignature: SignedStatement


class ShownLease(WireModel):
    """A lease as it is shown: the miner's half, and one of the renter's two.

    Attributes:
        receipt: The miner's ``receipt`` statement.
        countersignature: The renter's ``countersignature`` statement over it.
        consent: Or the renter's ``lease_consent`` statement that covers it.
    """

    receipt: SignedStatement
    countersignature: SignedStatement | None = None
    consent: SignedStatement | None = None

    @staticmethod
    def of(pair: CountersignedReceipt) -> ShownLease:
        """Return a countersigned receipt as it is shown."""
        return ShownLease(receipt=pair.receipt, countersignature=pair.countersignature)


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


def sign_consent(identity: Identity, miner_key: str, not_before_unix_ms: int, expires_unix_ms: int) -> SignedStatement:
    """Sign a consent as the renter; the arguments are those of `LeaseConsent`."""
    consent = LeaseConsent(
        renter_key=identity.public_key,
        miner_key=miner_key,
        not_before_unix_ms=not_before_unix_ms,
        expires_unix_ms=expires_unix_ms,
    )
    return sign_statement(identity, CONSENT_KIND, consent)


def check_rented(
    leases: Sequence[ShownLease],
    *,
    miner_key: str,
    owner_key: str,
    device: str,
    claimed_cpu_milli: int,
    now_unix_ms: int,
) -> tuple[Receipt, ...]:
    """Check that a device is in the hands of others at this moment.

    Args:
        leases: What the miner showed; untrusted.
        miner_key: Node key of the miner.
        owner_key: Who certified the miner's key.
        device: UUID of the device that does not prove.
        claimed_cpu_milli: CPUs that the registry entry claims, in thousandths.
        now_unix_ms: The validator's wall clock.

    Returns:
        The receipts that excuse the device.

    Raises:
        ProofRejected: MISSING where a lease lasts at another time, or none is shown; DECLINED where tenants hold too little
            of the processor; MALFORMED where other devices are leased, and as `check_lease`.
    """
    if not leases:
        raise ProofRejected(RejectReason.MISSING, "says it is rented and shows no receipt")
    keys = {"miner_key": miner_key, "owner_key": owner_key}
    if device != CPU_DEVICE:
        if len(leases) != 1:
            raise _rejected("a GPU is in one lease", str(len(leases)), "1")
        return (check_rented_device(leases[0], **keys, device=device, now_unix_ms=now_unix_ms),)
    receipts = tuple(check_lease(lease, **keys, now_unix_ms=now_unix_ms) for lease in leases)
    for receipt in receipts:
        _check_lasts(receipt, now_unix_ms)
    _check_processor(receipts, claimed_cpu_milli)
    return receipts


def check_rented_device(lease: ShownLease, *, miner_key: str, owner_key: str, device: str, now_unix_ms: int) -> Receipt:
    """Check that one lease holds a device at this moment; the arguments are those of `check_rented`.

    Raises:
        ProofRejected: MISSING where the lease lasts at another time; MALFORMED where other devices are leased, and as
            `check_lease`.
    """
    receipt = check_lease(lease, miner_key=miner_key, owner_key=owner_key, now_unix_ms=now_unix_ms)
    if device not in receipt.devices:
        raise _rejected("the lease holds other devices", ", ".join(receipt.devices)[:300] or "none", device)
    _check_lasts(receipt, now_unix_ms)
    return receipt


def check_lease(lease: ShownLease, *, miner_key: str, owner_key: str, now_unix_ms: int) -> Receipt:
    """Check that two different parties signed one lease, whatever it holds and whenever it lasts.

    Args:
        lease: Both halves; untrusted.
        miner_key: Node key of the miner.
        owner_key: Who certified the miner's key.
        now_unix_ms: Wall clock; a consent excuses within its own time only.

    Raises:
        ProofRejected: MALFORMED where a signature does not hold, the halves do not belong together, or the renter is the
            miner itself; MISSING where the consent is over, or was not yet.
    """
    if (lease.countersignature is None) is (lease.consent is None):
        raise _rejected(
            "a lease is shown by one signature of its renter", "both or none", "countersignature or consent"
        )
    try:
        receipt = lease.receipt.open(RECEIPT_KIND, Receipt, signer=miner_key)
        _same("node of the receipt", receipt.node_key, miner_key)
        if lease.countersignature is not None:
            _check_countersigned(lease.receipt, receipt, lease.countersignature)
        if lease.consent is not None:
            _check_consented(receipt, lease.consent, now_unix_ms)
    except SignatureInvalid as err:
        raise ProofRejected(RejectReason.MALFORMED, f"the shown lease does not hold: {err}"[:400]) from err
    if receipt.renter_key in {miner_key, owner_key}:
        raise _rejected("the renter is the miner itself", receipt.renter_key, "a key of another owner")
    return receipt


def open_consent(statement: SignedStatement, *, renter_key: str, miner_key: str) -> LeaseConsent:
    """Verify a consent and return its body.

    Raises:
        SignatureInvalid: It is none, or not signed by this renter.
        ProofRejected: MALFORMED, it is made out to others, or lasts longer than a day.
    """
    consent = statement.open(CONSENT_KIND, LeaseConsent, signer=renter_key)
    _same("renter of the consent", consent.renter_key, renter_key)
    _same("miner of the consent", consent.miner_key, miner_key)
    span_ms = consent.expires_unix_ms - consent.not_before_unix_ms
    if not 0 <= span_ms <= CONSENT_MS_MAX:
        raise _rejected("the consent lasts too long", f"{span_ms} ms", f"at most {CONSENT_MS_MAX} ms")
    return consent


def _check_countersigned(statement: SignedStatement, receipt: Receipt, countersignature: SignedStatement) -> None:
    countersigned = countersignature.open(STATEMENT_KIND, Countersignature)
    _same("countersigned receipt", countersigned.receipt, statement.digest())
    _same("countersigned lease", countersigned.lease_id, receipt.lease_id)
    _same("countersigned node", countersigned.node_key, receipt.node_key)
    _same("signer of the countersignature", countersignature.signer, receipt.renter_key)


def _check_consented(receipt: Receipt, statement: SignedStatement, now_unix_ms: int) -> None:
    consent = open_consent(statement, renter_key=receipt.renter_key, miner_key=receipt.node_key)
    if not consent.covers(receipt.granted_unix_ms):
        expected = f"{consent.not_before_unix_ms}..{consent.expires_unix_ms}"
        raise _rejected("the consent covers leases of another time", str(receipt.granted_unix_ms), expected)
    if not consent.covers(now_unix_ms):
        raise ProofRejected(
            RejectReason.MISSING,
            "the renter's consent is over",
            got=str(now_unix_ms),
            expected=f"<= {consent.expires_unix_ms}",
        )


def _check_processor(receipts: Sequence[Receipt], claimed_cpu_milli: int) -> None:
    if len({receipt.lease_id for receipt in receipts}) != len(receipts):
        raise _rejected("a lease is shown twice", str(len(receipts)), "each lease once")
    held_milli = sum(receipt.limits.cpu_milli for receipt in receipts)
    if held_milli * 100 <= claimed_cpu_milli * CPU_SPARE_PERCENT:
        raise ProofRejected(
            RejectReason.DECLINED,
            "the shown leases hold too little of the processor",
            got=f"{held_milli / 1000:g} CPUs",
            expected=f"more than {CPU_SPARE_PERCENT} % of {claimed_cpu_milli / 1000:g}",
        )


def _check_lasts(receipt: Receipt, now_unix_ms: int) -> None:
    if not receipt.granted_unix_ms <= now_unix_ms <= receipt.expires_unix_ms:
        expected = f"{receipt.granted_unix_ms}..{receipt.expires_unix_ms}"
        raise ProofRejected(
            RejectReason.MISSING, "the shown lease does not last now", got=str(now_unix_ms), expected=expected
        )


def _same(what: str, got: str, expected: str) -> None:
    if got != expected:
        raise _rejected(f"the {what} is another", got, expected)


def _rejected(message: str, got: str, expected: str) -> ProofRejected:
    return ProofRejected(RejectReason.MALFORMED, message, got=got, expected=expected)
