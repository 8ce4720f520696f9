"""What a miner shows a validator in place of a proof: leases in tenants' hands, or orders of other validators."""

from __future__ import annotations

from pydantic import Field

from polarise.decode import WireModel
from polarise.occupied import ORDERS_MAX
from polarise.rented import LEASES_MAX, ShownLease
from polarise.statement import SignedStatement

# In canonical form. The most that an honest miner shows is 72 orders, 69 kB, or 16 leases.
EXCUSE_BYTES_MAX = 96 * 1024
# With white space, and what stands beside it.
ANSWER_BYTES_MAX = 128 * 1024


class Excuse(WireModel):
    """One or the other; which of them it has to be is said beside it.

    Attributes:
        leases: Each signed by the miner and its renter; see `polarise.rented`.
        orders: ``challenge_order`` statements of other validators; see `polarise.occupied`.
    """

    leases: tuple[ShownLease, ...] = Field(default=(), max_length=LEASES_MAX)
    orders: tuple[SignedStatement, ...] = Field(default=(), max_length=ORDERS_MAX)
