"""A device that proves for another validator cannot prove for this one: the orders that a miner shows instead.

Rules:
- An order is a validator's signed word that it has one device of one miner prove. It goes with the request to get ready,
  and with the one that starts the clock; a miner cannot make one, and one's own order excuses nobody.
- It excuses at the moment: from its stamp on for as long as that step of a proof can take. Or it excuses for the hour:
  orders *that started the clock* announce the share of an hour that the design gives to proofs, 2 %. What was only
  prepared counts for no hour, else a miner that declines everybody would collect orders for doing so.
- Only an earlier order excuses, by the stamps that both validators signed. So of validators who ask at the same moment one
  is the first, whatever their clocks say, and to that one the device has to prove.
- Who orders must be a validator of the ledger: anybody else could be the miner.
- Whatever does not hold is DECLINED: it says no more than a plain "not now", and costs no less.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from polarise.decode import WireModel
from polarise.errors import ProofRejected, RejectReason
from polarise.signing import KEY_PATTERN, Identity, SignatureInvalid
from polarise.statement import SignedStatement, sign_statement

STATEMENT_KIND = "challenge_order"
HOUR_MS = 3_600_000
# 2 % of an hour, over all validators.
SHARE_MS = 72_000
# The share at a second each, which is the least a validator may ask for.
ORDERS_MAX = 72
WORK_MS_MAX = 180_000
Step = Literal["prepare", "start"]
# How long a device is taken by a step: all get ready within three minutes, memory and all; a proof takes three, and its
# openings some seconds. A test compares this with what validators wait.
TAKEN_MS = MappingProxyType({"prepare": 160_000, "start": 210_000})


class ChallengeOrder(WireModel):
    """Body of a validator's ``challenge_order`` statement.

    Attributes:
        validator_key: Who orders; must be the statement's signer.
        miner_key: Node key of the miner.
        device: UUID of the device that has to prove.
        kind: Which proof.
        challenge_id: The validator's name for it, 32 hex digits.
        step: ``prepare`` or ``start``.
        work_ms: How long the work takes by the miner's claim; 0 before the start.
        ordered_unix_ms: When, by the validator's clock.
    """

    validator_key: str = Field(pattern=KEY_PATTERN)
    miner_key: str = Field(pattern=KEY_PATTERN)
    device: str = Field(min_length=1, max_length=96)
    kind: str = Field(pattern=r"^[a-z]{1,16}$")
    challenge_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    step: Step
    work_ms: int = Field(ge=0, le=WORK_MS_MAX)
    ordered_unix_ms: int = Field(ge=0, lt=2**53)

    @property
    def turn(self) -> tuple[int, str]:
        """Its place among the orders of all validators; no two of different validators have the same."""
        return self.ordered_unix_ms, self.validator_key


def sign_order(
    identity: Identity,
    *,
    miner_key: str,
    device: str,
    kind: str,
    challenge_id: str,
    step: Step,
    ordered_unix_ms: int,
    work_ms: int = 0,
) -> SignedStatement:
    """Sign an order as the validator; the arguments are those of `ChallengeOrder`."""
    order = ChallengeOrder(
        validator_key=identity.public_key,
        miner_key=miner_key,
        device=device,
        kind=kind,
        challenge_id=challenge_id,
        step=step,
        work_ms=min(work_ms, WORK_MS_MAX),
        ordered_unix_ms=ordered_unix_ms,
    )
    return sign_statement(identity, STATEMENT_KIND, order)


def open_order(statement: SignedStatement) -> ChallengeOrder:
    """Verify an order and return its body.

    Raises:
        SignatureInvalid: It is none, or not signed by the validator it names.
    """
    return statement.open(STATEMENT_KIND, ChallengeOrder, signer=str(statement.body.get("validator_key")))


def check_occupied(
    orders: Sequence[SignedStatement],
    *,
    validator_key: str,
    miner_key: str,
    device: str,
    validators: Collection[str] | None,
    ordered_unix_ms: int,
) -> None:
    """Check that other validators' orders excuse a device from this validator's.

    Args:
        orders: What the miner showed; untrusted.
        validator_key: Who asks.
        miner_key: Node key of the miner.
        device: UUID of the device that does not prove.
        validators: Keys of the ledger's validators; None where they are not known, and then anybody's order counts.
        ordered_unix_ms: Stamp of the order that the device declines.

    Raises:
        ProofRejected: DECLINED: one of them does not hold, or all together excuse nothing.
    """
    if not orders:
        raise _declined("says it proves for another validator and shows no order")
    if len(orders) > ORDERS_MAX:
        raise _declined("too many orders are shown", len(orders), f"at most {ORDERS_MAX}")
    opened = [_checked(order, miner_key=miner_key, device=device) for order in orders]
    for order in opened:
        _check_orderer(order, validator_key, validators)
        _check_time(order, (ordered_unix_ms, validator_key))
    names = {(order.validator_key, order.challenge_id, order.step) for order in opened}
    if len(names) != len(opened):
        raise _declined("an order is shown twice", len(opened), len(names))
    if any(ordered_unix_ms - order.ordered_unix_ms <= TAKEN_MS[order.step] for order in opened):
        return
    work_ms = sum(order.work_ms for order in opened if order.step == "start")
    if work_ms < SHARE_MS:
        raise _declined("the shown orders fill no share of the hour", f"{work_ms} ms", f">= {SHARE_MS} ms")


def _checked(statement: SignedStatement, *, miner_key: str, device: str) -> ChallengeOrder:
    try:
        order = open_order(statement)
    except SignatureInvalid as err:
        raise _declined(f"a shown order does not hold: {err}"[:400]) from err
    for what, got, expected in (("miner", order.miner_key, miner_key), ("device", order.device, device)):
        if got != expected:
            raise _declined(f"a shown order is for another {what}", got, expected)
    return order


def _check_orderer(order: ChallengeOrder, validator_key: str, validators: Collection[str] | None) -> None:
    if order.validator_key == validator_key:
        raise _declined("a shown order is our own", order.challenge_id, "another validator's")
    if validators is not None and order.validator_key not in validators:
        raise _declined("a shown order is by no validator of the ledger", order.validator_key)


def _check_time(order: ChallengeOrder, turn: tuple[int, str]) -> None:
    if order.turn > turn:
        raise _declined("a shown order is not earlier than ours", order.ordered_unix_ms, f"< {turn[0]}")
    if order.ordered_unix_ms < turn[0] - HOUR_MS:
        raise _declined("a shown order is older than an hour", order.ordered_unix_ms, f">= {turn[0] - HOUR_MS}")


def _declined(message: str, got: object = None, expected: object = None) -> ProofRejected:
    return ProofRejected(RejectReason.DECLINED, message, got=got, expected=expected)
