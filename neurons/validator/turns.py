"""Who is served first where a validator cannot serve everybody at once: with threads, sockets, checkers, inspections.

Rules:
- Miners that earn, by the newest complete epoch, come before all others: weight needs a device that was shown in a common
  window, and a key costs nothing. So however many new keys let a validator wait, they wait behind whoever earns.
- Everybody's first device comes before anybody's second one: a miner with many devices takes no more threads than its share.
- Lots give the rest, anew each time; else whoever makes keys that sort first would be served first for ever.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TypeVar

ItemT = TypeVar("ItemT")


def in_turn(
    items: Iterable[ItemT],
    *,
    is_earning: Callable[[ItemT], bool],
    ordinal: Callable[[ItemT], int] = lambda _item: 0,
) -> list[ItemT]:
    """Return the items in the order in which they are served.

    Args:
        items: Proofs or miners.
        is_earning: Whether an item is of a miner that had weight in the newest complete epoch.
        ordinal: An item's number among those of its miner, from 0.
    """
    lots = random.SystemRandom()
    return sorted(items, key=lambda item: (not is_earning(item), ordinal(item), lots.random()))
