"""`make test-security`: every attack, tried in a lab; prints the tables, and writes them with ``--write``.

The status is 0 when all is stopped that is not meant to work. What this host's own settings leave open is named, with
the fix, and ends with 1 as well.
"""

from __future__ import annotations

import argparse
import signal
import sys

from tests.lab import network_matrix
from tests.lab.engine import NoLab
from tests.security.probes import holes
from tests.security.run import Found, run
from tests.security.table import section, write

FIXES = dict.fromkeys(
    ("exhaust_inotify", "exhaust_terminals", "exhaust_events"),
    "make setup, or what `python main.py doctor` says of kernel settings",
)


def main() -> int:
    """Run, print, and say what is open."""
    parser = argparse.ArgumentParser(prog="python -m tests.security")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/security.md")
    parser.add_argument(
        "--probes-only", action="store_true", help="leave the attacks on resources and over the network out"
    )
    args = parser.parse_args()
    # A lab is taken down on the way out, also when somebody ends us.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    try:
        found = run(probes_only=args.probes_only)
        network = [] if args.probes_only else network_matrix.run()
    except NoLab as err:
        sys.stderr.write(f"test-security: {err}\n")
        return 2
    if args.probes_only:
        opened = _open_probes(found)
    else:
        sys.stdout.write(f"{section(found)}\n\n{network_matrix.table(network)}\n")
        if args.write:
            write(found)
            network_matrix.write(network)
        opened = [*_open_probes(found), *_open_attacks(found), *network_matrix.opened(network)]
    sys.stdout.write("\n".join(["", *(f"OPEN {line}" for line in opened)] if opened else ["", "all stopped"]) + "\n")
    return 1 if opened else 0


def _open_probes(found: Found) -> list[str]:
    control = found.probes["control"]
    return [
        f"{isolation}: {name}"
        for isolation in ("standard", "strict")
        for name in holes(control, found.probes[isolation])
    ]


def _open_attacks(found: Found) -> list[str]:
    return [
        f"{isolation}: {name}: {said}" + (f"; fix: {FIXES[name]}" if name in FIXES else "")
        for isolation, outcomes in found.attacks.items()
        for name, (is_stopped, said) in outcomes.items()
        if not is_stopped
    ]


if __name__ == "__main__":
    sys.exit(main())
