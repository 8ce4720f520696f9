"""Who has a place among the miners of an epoch where the registry holds more than a validator can examine.

Rules:
- Keys cost little, so an order that anybody can fill keeps others out for ever: by key, whoever made keys that sort first.
- Most places are kept by those who had a score in the newest complete epoch: by weight first, as nobody has weight who did not
  show a device in a common window, then by score. All others draw lots for the rest, anew in each epoch.
- Everything it rests on stands on the ledger, so that an auditor comes to the same places.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from challenges.draw import encode_fields
from polarise.epoch_record import ScoreLine, WeighedLine

MINERS_MAX = 1000
KEPT_MAX = 900
_LOT_DOMAIN = b"polarise/places/lot/1"


class Standing(NamedTuple):
    """What a miner had in the newest complete epoch; the greater keeps its place.

    Attributes:
        weight_ppm: Its share of the market.
        score_ppm: Its score.
    """

    weight_ppm: int
    score_ppm: int


def places(nodes: Iterable[str], standing: Mapping[str, Standing], epoch: int) -> list[str]:
    """Return who is examined, in order of the keys.

    Args:
        nodes: All that stand in the registry, 64 hex digits each.
        standing: By node, what the newest complete epoch by rules 3 said; empty where there was none.
        epoch: The epoch's number.
    """
    found = set(nodes)
    if len(found) <= MINERS_MAX:
        return sorted(found)
    lots = {node: _lot(epoch, node) for node in found}
    scored = [node for node in found if node in standing and standing[node].score_ppm > 0]
    # The lot breaks ties, or equal scores would be in the order of the keys again.
    scored.sort(key=lambda node: (-standing[node].weight_ppm, -standing[node].score_ppm, lots[node]))
    kept = set(scored[:KEPT_MAX])
    drawn = sorted(found - kept, key=lots.__getitem__)
    return sorted([*kept, *drawn[: MINERS_MAX - len(kept)]])


def standing_of(lines: Iterable[ScoreLine]) -> dict[str, Standing]:
    """Return what the lines of a complete epoch say."""
    return {
        line.miner_key: Standing(line.weight_ppm if isinstance(line, WeighedLine) else 0, line.score_ppm)
        for line in lines
    }


def _lot(epoch: int, node: str) -> bytes:
    return hashlib.sha256(encode_fields(_LOT_DOMAIN, epoch, node)).digest()
