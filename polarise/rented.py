"""A device that is rented cannot prove: what a miner shows instead, signed by both sides of the lease.

Rules:
- The receipt is the miner's word; the renter signs its digest, so that no miner makes it alone.
- The renter must be somebody else: its key is neither the miner's nor its owner's, nor certified by that owner.
- It excuses the devices that the receipt names, while the lease lasts.
"""

from __future__ import annotations

from pydantic import Field

from polarise.decode import WireModel
from polarise.signing import KEY_PATTERN
from polarise.statement import SignedStatement

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
