"""A rented device is excused by a lease that both sides signed, and by nothing less."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polarise.errors import ProofRejected, RejectReason
from polarise.receipt import Receipt
from polarise.rented import CONSENT_MS_MAX, ShownLease, check_rented, sign_consent
from polarise.signing import Identity
from polarise.statement import SignedStatement
from tests.support.identities import identity
from tests.support.proving_miner import MINER, OWNER
from tests.support.rented import EXPIRES, GPU, GRANTED, RENTER, Lease

CLAIMED_MILLI = 2000


def _check(
    *leases: ShownLease, device: str = GPU, now_unix_ms: int = GRANTED, owner_key: str = OWNER.public_key
) -> tuple[Receipt, ...]:
    return check_rented(
        leases,
        miner_key=MINER.public_key,
        owner_key=owner_key,
        device=device,
        claimed_cpu_milli=CLAIMED_MILLI,
        now_unix_ms=now_unix_ms,
    )


def _reason(*leases: ShownLease, device: str = GPU, now_unix_ms: int = GRANTED) -> RejectReason:
    with pytest.raises(ProofRejected) as refused:
        _check(*leases, device=device, now_unix_ms=now_unix_ms)
    return refused.value.reason


@pytest.mark.parametrize("now_unix_ms", [GRANTED, EXPIRES])
def test_a_lease_that_both_sides_signed_excuses_its_device_from_its_first_to_its_last_millisecond(
    now_unix_ms: int,
) -> None:
    (receipt,) = _check(Lease().shown(), now_unix_ms=now_unix_ms)
    assert receipt.renter_key == RENTER.public_key


@pytest.mark.parametrize("now_unix_ms", [GRANTED - 1, EXPIRES + 1])
def test_a_lease_of_another_time_excuses_nothing_and_is_no_untruth(now_unix_ms: int) -> None:
    assert _reason(Lease().shown(), now_unix_ms=now_unix_ms) is RejectReason.MISSING


def test_a_device_that_the_receipt_does_not_name_is_not_excused() -> None:
    assert _reason(Lease().shown(), device=GPU[:-1] + "2") is RejectReason.MALFORMED


@pytest.mark.parametrize(
    "lease",
    [
        pytest.param(Lease(miner=RENTER), id="receipt signed by another"),
        pytest.param(Lease(node_key=RENTER.public_key), id="receipt names another node"),
        pytest.param(Lease(digest="4" * 64), id="another receipt countersigned"),
        pytest.param(Lease(countersigned_lease="1" * 31 + "2"), id="another lease countersigned"),
        pytest.param(Lease(countersigned_node=OWNER.public_key), id="another node countersigned"),
        pytest.param(Lease(renter=identity("stranger")), id="countersigned by who does not hold the lease"),
        pytest.param(Lease(renter=MINER, renter_key=MINER.public_key), id="rented by the miner itself"),
        pytest.param(Lease(renter=Identity(OWNER), renter_key=OWNER.public_key), id="rented by the miner's owner"),
    ],
)
def test_half_a_lease_or_one_with_oneself_excuses_nothing(lease: Lease) -> None:
    assert _reason(lease.shown()) is RejectReason.MALFORMED


@pytest.mark.parametrize("half", ["receipt", "countersignature"])
def test_one_changed_digit_of_a_signature_breaks_the_excuse(half: str) -> None:
    lease = Lease().shown()
    statement: SignedStatement = getattr(lease, half)
    digit = "1" if statement.signature[0] != "1" else "2"
    broken = statement.model_copy(update={"signature": digit + statement.signature[1:]})
    assert _reason(lease.model_copy(update={half: broken})) is RejectReason.MALFORMED


def test_a_countersignature_is_no_other_statement_of_the_renter() -> None:
    lease = Lease().shown()
    assert lease.countersignature is not None
    other = lease.countersignature.model_copy(update={"kind": "receipt"})
    assert _reason(lease.model_copy(update={"countersignature": other})) is RejectReason.MALFORMED


def test_the_second_lease_of_a_device_does_not_need_the_first_ones_signature() -> None:
    second = replace(Lease(), lease_id="5" * 32, countersigned_lease="5" * 32)
    assert _check(second.shown())[0].lease_id == "5" * 32


def test_nothing_shown_is_missing_and_a_gpu_is_in_one_lease() -> None:
    assert _reason() is RejectReason.MISSING
    assert _reason(Lease().shown(), _cpu_lease(1, 2000)) is RejectReason.MALFORMED


def _cpu_lease(number: int, cpu_milli: int, **changes: object) -> ShownLease:
    """A lease of processors only."""
    lease_id = f"{number:032x}"
    made = replace(Lease(), lease_id=lease_id, countersigned_lease=lease_id, devices=(), cpu_milli=cpu_milli)
    return replace(made, **changes).shown()  # type: ignore[arg-type]  # dataclasses.replace checks the names


@pytest.mark.parametrize("parts", [(601,), (301, 300), (1, 600)])
def test_processor_is_excused_by_leases_that_hold_more_than_a_claim_leaves_free(parts: tuple[int, ...]) -> None:
    """Of two CPUs 30 % are 600 thousandths."""
    leases = [_cpu_lease(number, milli) for number, milli in enumerate(parts)]
    assert len(_check(*leases, device="cpu")) == len(parts)


@pytest.mark.parametrize("parts", [(600,), (300, 300), ()])
def test_leases_that_leave_enough_of_the_processor_free_are_a_decline(parts: tuple[int, ...]) -> None:
    leases = [_cpu_lease(number, milli) for number, milli in enumerate(parts)]
    assert _reason(*leases, device="cpu") is (RejectReason.DECLINED if parts else RejectReason.MISSING)


def test_one_lease_is_not_counted_twice() -> None:
    """Neither one receipt, nor two of one lease, the second of which is of a renewal."""
    first, renewed = _cpu_lease(1, 400), _cpu_lease(1, 400, expires_unix_ms=EXPIRES + 1)
    assert _reason(first, first, device="cpu") is RejectReason.MALFORMED
    assert _reason(first, renewed, device="cpu") is RejectReason.MALFORMED
    assert _check(first, _cpu_lease(2, 400), device="cpu")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"miner": RENTER}, RejectReason.MALFORMED, id="another miner's receipt"),
        pytest.param({"node_key": RENTER.public_key}, RejectReason.MALFORMED, id="receipt names another miner"),
        pytest.param({"expires_unix_ms": GRANTED - 1}, RejectReason.MISSING, id="ended lease"),
        pytest.param({"granted_unix_ms": GRANTED + 1}, RejectReason.MISSING, id="lease to come"),
        pytest.param(
            {"renter": Identity(OWNER), "renter_key": OWNER.public_key},
            RejectReason.MALFORMED,
            id="own owner as renter",
        ),
        pytest.param({"renter": MINER, "renter_key": MINER.public_key}, RejectReason.MALFORMED, id="itself as renter"),
    ],
)
def test_one_bad_lease_among_the_shown_spoils_the_excuse(changes: dict[str, object], reason: RejectReason) -> None:
    assert _check(_cpu_lease(1, 601), _cpu_lease(2, 601), device="cpu")
    assert _reason(_cpu_lease(1, 601), _cpu_lease(2, 601, **changes), device="cpu") is reason


def _consent(
    who: Identity = RENTER,
    *,
    miner_key: str = MINER.public_key,
    not_before_unix_ms: int = GRANTED,
    expires_unix_ms: int = EXPIRES,
) -> SignedStatement:
    return sign_consent(who, miner_key, not_before_unix_ms, expires_unix_ms)


@pytest.mark.parametrize("now_unix_ms", [GRANTED, EXPIRES])
def test_consent_counts_like_a_countersignature_from_its_first_to_its_last_millisecond(now_unix_ms: int) -> None:
    (receipt,) = _check(Lease().consented(_consent()), now_unix_ms=now_unix_ms)
    assert receipt.renter_key == RENTER.public_key
    cpu = replace(Lease(), devices=(), cpu_milli=601).consented(_consent())
    assert _check(cpu, device="cpu", now_unix_ms=now_unix_ms)


@pytest.mark.parametrize(
    ("consent", "reason"),
    [
        pytest.param(_consent(not_before_unix_ms=GRANTED + 1), RejectReason.MALFORMED, id="granted before it"),
        pytest.param(
            _consent(not_before_unix_ms=0, expires_unix_ms=GRANTED - 1), RejectReason.MALFORMED, id="and after"
        ),
        pytest.param(_consent(identity("stranger")), RejectReason.MALFORMED, id="of who does not hold the lease"),
        pytest.param(_consent(miner_key=OWNER.public_key), RejectReason.MALFORMED, id="to another miner"),
        pytest.param(
            _consent(expires_unix_ms=GRANTED + CONSENT_MS_MAX + 1), RejectReason.MALFORMED, id="longer than a day"
        ),
        pytest.param(_consent().model_copy(update={"kind": "receipt"}), RejectReason.MALFORMED, id="another kind"),
        pytest.param(
            _consent().model_copy(update={"body": {**_consent().body, "expires_unix_ms": EXPIRES + 1}}),
            RejectReason.MALFORMED,
            id="one millisecond longer than signed",
        ),
    ],
)
def test_consent_that_does_not_cover_the_lease_excuses_nothing(consent: SignedStatement, reason: RejectReason) -> None:
    assert _reason(Lease().consented(consent)) is reason


def test_consent_of_a_day_holds_and_the_lease_is_shown_no_longer_than_it_lasts() -> None:
    day = replace(Lease(), expires_unix_ms=GRANTED + 2 * CONSENT_MS_MAX).consented(
        _consent(expires_unix_ms=GRANTED + CONSENT_MS_MAX)
    )
    assert _check(day, now_unix_ms=GRANTED + CONSENT_MS_MAX)
    assert _reason(day, now_unix_ms=GRANTED + CONSENT_MS_MAX + 1) is RejectReason.MISSING


def test_a_lease_is_shown_by_one_signature_of_its_renter_and_not_by_two_or_none() -> None:
    both = Lease().shown().model_copy(update={"consent": _consent()})
    assert _reason(both) is RejectReason.MALFORMED
    assert _reason(both.model_copy(update={"consent": None, "countersignature": None})) is RejectReason.MALFORMED


def test_miner_cannot_consent_to_itself() -> None:
    own = Lease(renter_key=OWNER.public_key).consented(_consent(Identity(OWNER)))
    assert _reason(own) is RejectReason.MALFORMED
