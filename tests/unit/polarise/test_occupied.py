"""A device that proves for another validator is excused by that one's earlier order, and by nothing less."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from polarise.errors import ProofRejected, RejectReason
from polarise.occupied import (
    HOUR_MS,
    ORDERS_MAX,
    SHARE_MS,
    STATEMENT_KIND,
    TAKEN_MS,
    ChallengeOrder,
    Step,
    check_occupied,
    sign_order,
)
from polarise.signing import Identity
from polarise.statement import SignedStatement, sign_statement
from tests.support.identities import identity
from tests.support.proving_miner import MINER, OTHER_VALIDATOR, VALIDATOR

DEVICE = "GPU-0"
NOW = 1_700_000_000_000
THIRD = identity("third validator")
KNOWN = frozenset(validator.public_key for validator in (VALIDATOR, OTHER_VALIDATOR, THIRD))


def _order(
    number: int = 1,
    *,
    who: Identity = OTHER_VALIDATOR,
    step: Step = "prepare",
    ordered_unix_ms: int = NOW - 1,
    work_ms: int = 0,
    miner_key: str = MINER.public_key,
    device: str = DEVICE,
) -> SignedStatement:
    return sign_order(
        who,
        miner_key=miner_key,
        device=device,
        kind="matmul",
        challenge_id=f"{number:032x}",
        step=step,
        work_ms=work_ms,
        ordered_unix_ms=ordered_unix_ms,
    )


def _check(*orders: SignedStatement, validators: Collection[str] | None = KNOWN) -> None:
    check_occupied(
        orders,
        validator_key=VALIDATOR.public_key,
        miner_key=MINER.public_key,
        device=DEVICE,
        validators=validators,
        ordered_unix_ms=NOW,
    )


def _refused(*orders: SignedStatement, validators: Collection[str] | None = KNOWN) -> str:
    with pytest.raises(ProofRejected) as caught:
        _check(*orders, validators=validators)
    assert caught.value.reason is RejectReason.DECLINED
    return caught.value.message


@pytest.mark.parametrize("step", ["prepare", "start"])
def test_order_excuses_for_as_long_as_its_step_can_take(step: Step) -> None:
    _check(_order(step=step, ordered_unix_ms=NOW - TAKEN_MS[step]))
    assert "no share" in _refused(_order(step=step, ordered_unix_ms=NOW - TAKEN_MS[step] - 1))


def test_of_two_orders_at_one_moment_exactly_one_excuses() -> None:
    """Else two validators would excuse a device from each other, and it would prove to nobody."""
    first, second = sorted((VALIDATOR, OTHER_VALIDATOR), key=lambda validator: validator.public_key)

    def excuses(shown: Identity, asks: Identity, shown_unix_ms: int = NOW) -> bool:
        try:
            check_occupied(
                (_order(who=shown, ordered_unix_ms=shown_unix_ms),),
                validator_key=asks.public_key,
                miner_key=MINER.public_key,
                device=DEVICE,
                validators=KNOWN,
                ordered_unix_ms=NOW,
            )
        except ProofRejected:
            return False
        return True

    assert excuses(first, second)
    assert not excuses(second, first)
    assert excuses(second, first, NOW - 1)
    assert not excuses(first, second, NOW + 1)


def test_forged_order_excuses_nothing() -> None:
    order = _order()
    digit = "1" if order.signature[0] != "1" else "2"
    assert "does not hold" in _refused(order.model_copy(update={"signature": digit + order.signature[1:]}))
    assert "does not hold" in _refused(order.model_copy(update={"body": {**order.body, "work_ms": 1}}))
    assert "does not hold" in _refused(order.model_copy(update={"kind": "countersignature"}))
    assert "does not hold" in _refused(order.model_copy(update={"body": {}}))


def test_order_signed_by_the_miner_in_a_validators_name_excuses_nothing() -> None:
    body = ChallengeOrder.model_validate(_order().body)
    assert "does not hold" in _refused(sign_statement(MINER, STATEMENT_KIND, body))


def test_orders_of_nobody_and_ones_own_excuse_nothing() -> None:
    assert "our own" in _refused(_order(who=VALIDATOR))
    stranger = _order(who=identity("stranger"))
    assert "no validator of the ledger" in _refused(stranger)
    assert "no validator of the ledger" in _refused(_order(), validators=())
    # Who has no genesis checks the rest.
    _check(stranger, validators=None)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (_order(miner_key=VALIDATOR.public_key), "another miner"),
        (_order(device="GPU-1"), "another device"),
        (_order(ordered_unix_ms=NOW + 1), "not earlier"),
    ],
)
def test_order_for_something_else_excuses_nothing(order: SignedStatement, message: str) -> None:
    assert message in _refused(order)


def test_one_bad_order_spoils_the_excuse() -> None:
    _check(_order(1), _order(2, who=THIRD))
    assert "our own" in _refused(_order(1), _order(2, who=VALIDATOR))


def _hour(*works_ms: int, step: Step = "start", ordered_unix_ms: int = NOW - HOUR_MS) -> list[SignedStatement]:
    return [
        _order(number, step=step, work_ms=work_ms, ordered_unix_ms=ordered_unix_ms)
        for number, work_ms in enumerate(works_ms)
    ]


def test_orders_of_the_hour_excuse_once_they_fill_the_share() -> None:
    _check(*_hour(SHARE_MS))
    _check(*_hour(SHARE_MS - 1, 1))
    assert "no share" in _refused(*_hour(SHARE_MS - 1))
    assert "older than an hour" in _refused(*_hour(SHARE_MS, ordered_unix_ms=NOW - HOUR_MS - 1))


def test_order_to_get_ready_counts_for_no_hour() -> None:
    """A miner that declines everybody is told to get ready all day."""
    assert "no share" in _refused(*_hour(SHARE_MS, step="prepare"))


def test_order_counts_once() -> None:
    first, second = _hour(SHARE_MS // 2, SHARE_MS // 2)
    _check(first, second)
    assert "twice" in _refused(first, first)
    again = _order(0, step="start", work_ms=SHARE_MS // 2, ordered_unix_ms=NOW - HOUR_MS + 1)
    assert "twice" in _refused(first, again)


def test_nothing_and_too_much_are_a_decline() -> None:
    assert "no order" in _refused()
    _check(*_hour(*[SHARE_MS // ORDERS_MAX] * ORDERS_MAX))
    assert "too many" in _refused(*_hour(*[SHARE_MS] * (ORDERS_MAX + 1)))
