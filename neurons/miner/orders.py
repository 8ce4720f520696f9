"""The orders of validators: taken when they come, shown to another validator when a device has to decline it.

Rules:
- An order is the caller's own, for this miner, device and challenge, or it is refused.
- Those that started the clock are kept for an hour beside the work they led to, so many per device and validator that
  none pushes out another's.
- Shown is what the other validator will believe, found by the very check that it makes: of the device's running challenge
  the newest orders, and of the hour the fewest that fill its share.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from neurons.miner.validations import KeptOrder, ValidationTracker
from polarise.canonical import canonical_bytes
from polarise.decode import decode_model
from polarise.errors import ErrorCode, ProofRejected, RequestRejected
from polarise.excuse import Excuse
from polarise.occupied import HOUR_MS, ORDERS_MAX, SHARE_MS, ChallengeOrder, Step, check_occupied, open_order
from polarise.signing import SignatureInvalid
from polarise.statement import SignedStatement


class OrderBook:
    """The orders that one miner was given.

    Args:
        miner_key: This miner's public key.
        tracker: Where those of the hour are kept.
        validators: Keys of the ledger's validators; None where this node knows no ledger, and then all are shown.
    """

    def __init__(self, miner_key: str, tracker: ValidationTracker, validators: Collection[str] | None) -> None:
        self._miner_key = miner_key
        self._tracker = tracker
        self._validators = validators

    def take(
        self, statement: SignedStatement | None, *, validator_key: str, device: str, challenge_id: str, step: Step
    ) -> ChallengeOrder:
        """Verify an order against the request that brings it.

        Raises:
            RequestRejected: INVALID_FIELD (422), there is none, or it is for something else; BAD_SIGNATURE (422).
        """
        if statement is None:
            raise _refused(ErrorCode.INVALID_FIELD, "there is no order, so that nobody else would believe it")
        try:
            order = open_order(statement)
        except SignatureInvalid as err:
            raise _refused(ErrorCode.BAD_SIGNATURE, f"the order does not hold: {err}"[:400]) from err
        for what, got, expected in (
            ("validator", order.validator_key, validator_key),
            ("miner", order.miner_key, self._miner_key),
            ("device", order.device, device),
            ("challenge", order.challenge_id, challenge_id),
            ("step", order.step, step),
        ):
            if got != expected:
                raise _refused(ErrorCode.INVALID_FIELD, f"the order is for another {what}: {got!r}"[:400])
        return order

    def turn(self, order: ChallengeOrder) -> tuple[bool, int, str]:
        """Return its place among all orders; one that would excuse from nothing comes after those that do."""
        return (not self._is_known(order.validator_key), *order.turn)

    def keep(self, statement: SignedStatement, order: ChallengeOrder, now_unix_ms: int) -> None:
        """Keep an order that started the clock; it has been taken."""
        text = canonical_bytes(statement.to_wire()).decode()
        self._tracker.keep_order(
            KeptOrder(
                order.device, order.validator_key, order.challenge_id, order.ordered_unix_ms, order.work_ms, text
            ),
            now_unix_ms,
        )

    def occupied(self, orders: Sequence[SignedStatement], declined: ChallengeOrder) -> Excuse | None:
        """Return what excuses a device from an order, or None where these do not.

        Args:
            orders: Of the challenge that has the device.
            declined: What is to be declined.
        """
        for order in reversed(orders):
            if (excuse := self._believed((order,), declined)) is not None:
                return excuse
        return None

    def spent(self, declined: ChallengeOrder) -> Excuse | None:
        """Return the fewest orders of the hour that fill the device's share, or None where they do not."""
        kept = self._tracker.orders_since(declined.device, declined.ordered_unix_ms - HOUR_MS)
        found: list[SignedStatement] = []
        work_ms = 0
        for order in sorted(kept, key=lambda order: -order.work_ms):
            if not self._counts(order, declined):
                continue
            found.append(decode_model(SignedStatement, order.statement.encode()))
            work_ms += order.work_ms
            if work_ms >= SHARE_MS or len(found) == ORDERS_MAX:
                break
        return self._believed(tuple(found), declined) if work_ms >= SHARE_MS else None

    def _counts(self, order: KeptOrder, declined: ChallengeOrder) -> bool:
        is_other = order.validator_key != declined.validator_key
        is_earlier = (order.ordered_unix_ms, order.validator_key) < declined.turn
        return is_other and is_earlier and self._is_known(order.validator_key)

    def _is_known(self, validator_key: str) -> bool:
        return self._validators is None or validator_key in self._validators

    def _believed(self, orders: tuple[SignedStatement, ...], declined: ChallengeOrder) -> Excuse | None:
        try:
            check_occupied(
                orders,
                validator_key=declined.validator_key,
                miner_key=self._miner_key,
                device=declined.device,
                validators=self._validators,
                ordered_unix_ms=declined.ordered_unix_ms,
            )
        except ProofRejected:
            return None
        return Excuse(orders=orders)


def _refused(code: ErrorCode, message: str) -> RequestRejected:
    return RequestRejected(
        code,
        message,
        hint="send an order signed for this very request; see docs/architecture.md, line 2",
        field="order",
        status=422,
    )
