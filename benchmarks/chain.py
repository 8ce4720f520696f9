"""The whole chain in one run: work against check of the matmul, appends beside bare Ed25519, the audit's entries per second.

Rules:
- The numbers come from `benchmarks.proofs` and `benchmarks.ledger_rates`, with their rules; the audit replays the very
  file that the ledger rows have written, from the copy on, on all cores.
- Prints numbers and asserts nothing about them.

Run: .venv/bin/python -m benchmarks.chain
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

from benchmarks.ledger_rates import Rate, identities, measure, new_genesis, rate
from benchmarks.proofs import MATMUL_HEAD, cpu_model, measure_matmul, print_line, print_row, single_thread_process
from challenges.matmul import MatmulParams
from challenges.solver import NumpyBackend, open_backend
from neurons.ledger.node import LEDGER_FILE
from neurons.validator.audit.audit import Audit, Scope
from neurons.validator.audit.download import copy_file
from neurons.validator.audit.ledger_copy import LedgerCopy
from neurons.validator.audit.report import Report

SIZES = (1024, 2048, 4096)
ROUNDS = 5
OPENINGS = 32
BARE = "Ed25519 verification, bare, 1 thread"


def main() -> None:
    """Measure everything once and print two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entries", type=int, default=5000, help="transactions per row of the ledger (5000)")
    parser.add_argument("--repeat", type=int, default=3, help="counted repetitions of each matrix size (3)")
    parser.add_argument("--max-n", type=int, default=SIZES[-1], help=f"largest matrix size ({SIZES[-1]})")
    parser.add_argument("--device", default="cpu", help="'cpu' or 'cuda:N' for the work (cpu)")
    parser.add_argument("--backend", choices=("auto", "numpy"), default="auto", help="torch if installed, or numpy")
    options = parser.parse_args()
    backend = NumpyBackend() if options.backend == "numpy" else open_backend(options.device)
    print_line(f"command: python -m benchmarks.chain {' '.join(sys.argv[1:])}")
    print_line(
        f"hardware: {cpu_model()}, {os.cpu_count()} cores; Python {platform.python_version()}; "
        f"device {options.device}, {type(backend).__name__}"
    )
    print_line(f"rounds {ROUNDS}, openings {OPENINGS}, repetitions {options.repeat}; check: 1 thread\n{MATMUL_HEAD}")
    with single_thread_process() as verifier:
        for n in (size for size in SIZES if size <= options.max_n):
            params = MatmulParams(n, ROUNDS, openings=OPENINGS)
            print_row("sizes", measure_matmul(params, backend, verifier, options.repeat))
    print_line("")
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(Path(folder), options.entries)
        rates["audit (copied, then blocks, leaves and rules from leaf 0)"] = measure_audit(Path(folder))
    print_line("| what | entries/s | CPU us/entry | x bare verification |\n|---|---:|---:|---:|")
    for name, found in rates.items():
        print_line(
            f"| {name} | {found.per_second:,.0f} | {found.cpu_us:.0f} | {found.cpu_us / rates[BARE].cpu_us:.2f} |"
        )


def measure_audit(folder: Path) -> Rate:
    """Audit the file that `benchmarks.ledger_rates.measure` has left."""
    genesis = new_genesis(*identities())
    copy = LedgerCopy(folder / "copy")
    copy_file(folder / LEDGER_FILE, genesis, copy)
    count = sum(1 for _ in copy.leaves())

    def audit() -> None:
        copy_file(folder / LEDGER_FILE, genesis, copy)
        Audit(copy, genesis, Scope(), Report()).check_ledger()

    return rate(count, audit)


if __name__ == "__main__":
    main()
