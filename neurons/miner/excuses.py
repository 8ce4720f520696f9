"""Why a device need not prove at this moment, and what shows it to the validator that asks.

Rules:
- What is shown has passed the very check that the validator makes; what cannot be shown is declined with 429, which counts
  there as if nobody were at home.
- A device in tenants' hands is never proven (`rented`), nor is one that proves for another validator (`orders`).
- Beyond its share of the hour (`duty`) a device declines whom it can show the orders of others that filled it. To whom it
  cannot, it goes on proving until that validator alone has had a whole share.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from neurons.miner.duty import Work, cap_ms, wait_ms
from neurons.miner.orders import OrderBook
from neurons.miner.rented import RentedDevices
from polarise.errors import ErrorCode, RequestRejected
from polarise.excuse import Excuse
from polarise.messages import PrepareAnswer
from polarise.occupied import ChallengeOrder
from polarise.statement import SignedStatement

logger = logging.getLogger(__name__)


class Excuses:
    """The excuses of one node's devices; holds nothing itself.

    Args:
        orders: What validators have ordered.
        rented: Which devices are in tenants' hands.
        duty_percent: Share of an hour that a device spends on proofs.
    """

    def __init__(self, orders: OrderBook, rented: RentedDevices, duty_percent: float) -> None:
        self._orders = orders
        self._rented = rented
        self._duty_percent = duty_percent

    def from_order(self, order: ChallengeOrder, works: Sequence[Work], now_unix_ms: int) -> PrepareAnswer | None:
        """Return what is answered to an order of which a free device is excused; None where it has to prove.

        Args:
            order: What the validator ordered.
            works: What the device has worked; what is older than an hour may be among it.
            now_unix_ms: Wall clock.

        Raises:
            RequestRejected: TOO_MANY_REQUESTS (429), it is leased and nothing shows it; DUTY_CAP (429), this validator alone
                has had a whole share of the hour.
        """
        leases = self._rented.shown(order.device)
        if leases:
            return _excused_by(Excuse(leases=leases), order)
        share_ms = cap_ms(self._duty_percent)
        if wait_ms(works, share_ms, now_unix_ms) == 0:
            return None
        if (excuse := self._orders.spent(order)) is not None:
            return _excused_by(excuse, order)
        own = [work for work in works if work.validator_key == order.validator_key]
        left_ms = wait_ms(own, share_ms, now_unix_ms)
        if left_ms > 0:
            raise self._spent(order.device, -(-left_ms // 1000))
        return None

    def while_proving(self, orders: Sequence[SignedStatement], order: ChallengeOrder) -> PrepareAnswer:
        """Return what is answered while a device proves for another validator.

        Args:
            orders: What that one ordered for the challenge that has the device.
            order: What is declined.

        Raises:
            RequestRejected: TOO_MANY_REQUESTS (429), those orders excuse from nothing.
        """
        excuse = self._orders.occupied(orders, order)
        if excuse is None:
            raise RequestRejected(
                ErrorCode.TOO_MANY_REQUESTS,
                f"the device {order.device} is proving something else, by no order that you would believe",
                hint="ask again in a minute",
                field="device",
                status=429,
            )
        return _excused_by(excuse, order)

    def _spent(self, device: str, seconds: int) -> RequestRejected:
        return RequestRejected(
            ErrorCode.DUTY_CAP,
            f"the device {device} has spent {self._duty_percent:g} % of the last hour on proofs for you",
            hint=f"ask again in {seconds} s",
            field="device",
            status=429,
            retry_after_seconds=seconds,
        )


def _excused_by(excuse: Excuse, order: ChallengeOrder) -> PrepareAnswer:
    """Return the answer, and let the operator see that it was given."""
    fields = {"challenge_id": order.challenge_id, "validator_key": order.validator_key, "device": order.device}
    shown = {"leases": len(excuse.leases), "orders": len(excuse.orders)}
    logger.info("challenge excused", extra={**fields, **shown})
    return PrepareAnswer(status="rented" if excuse.leases else "occupied", excuse=excuse)
