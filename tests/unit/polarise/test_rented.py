"""A rented device is excused by a lease that both sides signed, and by nothing less."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polarise.errors import ProofRejected, RejectReason
from polarise.receipt import Receipt
from polarise.rented import CountersignedReceipt, check_rented
from polarise.signing import Identity
from polarise.statement import SignedStatement
from tests.support.identities import identity
from tests.support.proving_miner import MINER, OWNER
from tests.support.rented import EXPIRES, GPU, GRANTED, RENTER, Lease


def _check(lease: CountersignedReceipt, *, device: str = GPU, now_unix_ms: int = GRANTED) -> Receipt:
    return check_rented(
        lease,
        miner_key=MINER.public_key,
        owner_key=OWNER.public_key,
        device=device,
        now_unix_ms=now_unix_ms,
    )


def _reason(lease: CountersignedReceipt, *, device: str = GPU, now_unix_ms: int = GRANTED) -> RejectReason:
    with pytest.raises(ProofRejected) as refused:
        _check(lease, device=device, now_unix_ms=now_unix_ms)
    return refused.value.reason


@pytest.mark.parametrize("now_unix_ms", [GRANTED, EXPIRES])
def test_a_lease_that_both_sides_signed_excuses_its_device_from_its_first_to_its_last_millisecond(
    now_unix_ms: int,
) -> None:
    assert _check(Lease().signed(), now_unix_ms=now_unix_ms).renter_key == RENTER.public_key


@pytest.mark.parametrize("now_unix_ms", [GRANTED - 1, EXPIRES + 1])
def test_a_lease_of_another_time_excuses_nothing_and_is_no_untruth(now_unix_ms: int) -> None:
    assert _reason(Lease().signed(), now_unix_ms=now_unix_ms) is RejectReason.MISSING


def test_a_device_that_the_receipt_does_not_name_is_not_excused() -> None:
    assert _reason(Lease().signed(), device=GPU[:-1] + "2") is RejectReason.MALFORMED


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
    assert _reason(lease.signed()) is RejectReason.MALFORMED


@pytest.mark.parametrize("half", ["receipt", "countersignature"])
def test_one_changed_digit_of_a_signature_breaks_the_excuse(half: str) -> None:
    lease = Lease().signed()
    statement: SignedStatement = getattr(lease, half)
    digit = "1" if statement.signature[0] != "1" else "2"
    broken = statement.model_copy(update={"signature": digit + statement.signature[1:]})
    assert _reason(lease.model_copy(update={half: broken})) is RejectReason.MALFORMED


def test_a_countersignature_is_no_other_statement_of_the_renter() -> None:
    lease = Lease().signed()
    other = lease.countersignature.model_copy(update={"kind": "receipt"})
    assert _reason(lease.model_copy(update={"countersignature": other})) is RejectReason.MALFORMED


def test_the_second_lease_of_a_device_does_not_need_the_first_ones_signature() -> None:
    second = replace(Lease(), lease_id="5" * 32, countersigned_lease="5" * 32)
    assert _check(second.signed()).lease_id == "5" * 32
