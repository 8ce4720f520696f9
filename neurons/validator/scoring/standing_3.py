"""Which reasons excuse a device, by rules 3; what stands and what wears off is as in `standing`.

Rules:
- Neutral is what the validator itself did not measure, a lease that its renter signed, and a proof for another validator
  that shows its signed order. Nobody is blamed; the value stays for twelve rounds in a row, then halves per round.
- A plain decline is none of them: whoever is asked in a round and says "not now" was not there.
"""

from __future__ import annotations

from polarise.errors import RejectReason

NEUTRAL_REASONS = frozenset({RejectReason.NOT_MEASURED, RejectReason.RENTED, RejectReason.OCCUPIED})
