"""Every cheat there is, by the file it is in, and the table that `docs/adversaries.md` holds of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from tests.adversaries import (
    absence,
    borrowing,
    clock,
    drip,
    easy_tiles,
    linear,
    memory,
    messages,
    names,
    paths,
    precision,
    shares,
    sharing,
    skipping,
    structure,
)
from tests.adversaries.cheat import EVERY_TIME, Cheat

FILES: Mapping[str, tuple[Cheat, ...]] = MappingProxyType(
    {
        "structure": structure.CHEATS,
        "precision": precision.CHEATS,
        "linear": linear.CHEATS,
        "skipping": skipping.CHEATS,
        "borrowing": borrowing.CHEATS,
        "paths": paths.CHEATS,
        "easy_tiles": easy_tiles.CHEATS,
        "sharing": sharing.CHEATS,
        "clock": clock.CHEATS,
        "absence": absence.CHEATS,
        "messages": messages.CHEATS,
        "drip": drip.CHEATS,
        "shares": shares.CHEATS,
        "memory": memory.CHEATS,
        "names": names.CHEATS,
    }
)
ROSTER: tuple[Cheat, ...] = tuple(cheat for cheats in FILES.values() for cheat in cheats)


def table() -> Iterator[str]:
    """Yield the table's lines."""
    yield "| cheat | how | answer | predicted | file |"
    yield "|---|---|---|---|---|"
    for file, cheats in FILES.items():
        for cheat in cheats:
            answer = ", ".join(f"`{reason}`" for reason in cheat.reasons) or cheat.answer
            formula = "" if cheat.formula == EVERY_TIME else f" = `{cheat.formula}`"
            live = " (not live)" if cheat.no_live else ""
            yield f"| {cheat.name} | {cheat.how} | {answer} | {cheat.predicted:.4f}{formula} | `{file}`{live} |"


if __name__ == "__main__":
    import sys

    sys.stdout.write("\n".join(table()) + "\n")
