"""What a run found as two tables, on the terminal and in docs/security.md.

Rules:
- The page holds what the command wrote and nothing else between its markers; a test compares its names with the code's.
- Probes that not even the control can do stand there by name, as not tried.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.security.attacks import ATTACKS
from tests.security.probes import MEANT, SUCCEEDED, counting
from tests.security.run import Found

PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"
BEGIN, END = "<!-- attacks: begin -->", "<!-- attacks: end -->"
COLUMNS = ("default", "standard", "strict")


def stopped_count(found: Found, column: str) -> int:
    """Return how many of the counting probes a container stops."""
    return sum(found.probes[column][name] != SUCCEEDED for name in counting(found.probes["control"]))


def probes_table(found: Found) -> str:
    """Return one row per probe that counts."""
    counted = counting(found.probes["control"])
    rows = ["| probe | `docker run` | standard lease | strict lease |", "|---|---|---|---|"]
    for name in counted:
        cells = [_cell(name, found.probes[column][name]) for column in COLUMNS]
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    counts = [f"**{stopped_count(found, column)}/{len(counted)}**" for column in COLUMNS]
    rows.append(f"| **stopped** | {' | '.join(counts)} |")
    left = [f"`{name}`" for name in found.probes["control"] if name not in counted]
    return "\n".join([*rows, "", f"Not possible on that machine, so not counted: {', '.join(left) or 'none'}."])


def attacks_table(found: Found) -> str:
    """Return one row per attack on what a host has only once."""
    rows = ["| attack | standard lease | strict lease |", "|---|---|---|"]
    for name in ATTACKS:
        cells = [_verdict(*found.attacks[isolation][name]) for isolation in ("standard", "strict")]
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def section(found: Found) -> str:
    """Return everything that stands between the markers."""
    return f"{found.where}.\n\n{probes_table(found)}\n\n{attacks_table(found)}"


def write(found: Found) -> None:
    """Put both tables into the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{section(found)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def written_names() -> tuple[set[str], set[str]]:
    """Return the probes and the attacks that the page names."""
    section_text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    first, _, second = section_text.partition("| attack |")
    not_counted = re.findall(r"`(\w+)`", first.partition("so not counted:")[2])
    return {*re.findall(r"^\| `(\w+)`", first, re.MULTILINE), *not_counted}, set(
        re.findall(r"^\| `(\w+)`", second, re.MULTILINE)
    )


def _cell(name: str, outcome: str) -> str:
    if outcome != SUCCEEDED:
        return "stopped"
    return "works, as meant" if name in MEANT else "**open**"


def _verdict(is_stopped: bool, said: str) -> str:
    return f"{'stopped' if is_stopped else '**not stopped**'}: {said}"
