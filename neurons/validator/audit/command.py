"""`python main.py audit`: derive every score anew from the ledger and the evidence; exit status 7 when one does not hold.

``audit log`` beside it reads the log of one node (`neurons.base.audit_log_command`).

This module is stdlib only at import, so that building the parser needs no virtual environment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from neurons.base.audit_log_command import add_log_parser

if TYPE_CHECKING:
    from neurons.validator.audit.audit import Audit
    from neurons.validator.audit.ledger_copy import LedgerCopy
    from neurons.validator.audit.report import Report, Step
    from polarise.genesis import Genesis

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_OK = 0
EXIT_NOT_VERIFIED = 7
PROGRESS_SECONDS = 2.0

EPILOG = """\
exit status: 0 everything that can be recomputed came out equal; 2 usage; 4 something cannot be fetched;
5 no such validator; 7 something does not hold, with its place
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add ``audit``."""
    parser = subparsers.add_parser(
        "audit",
        help="derive every score anew from the ledger and the evidence",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_log_parser(parser.add_subparsers(dest="verb", metavar="[log]"))
    # Asked for in `run`, because `audit log` goes without them.
    ledger = parser.add_mutually_exclusive_group()
    ledger.add_argument("--ledger", metavar="URL", help="download the ledger from its API")
    ledger.add_argument("--ledger-file", type=Path, metavar="FILE", help="read the ledger's own file (ledger.sqlite)")
    ledger.add_argument("--offline", type=Path, metavar="DIR", help="read what --download DIR has kept; no network")
    parser.add_argument("--genesis", type=Path, metavar="FILE", help="the ledger's genesis, from somebody you trust")
    evidence = parser.add_mutually_exclusive_group()
    evidence.add_argument("--evidence", type=Path, metavar="DIR", help="folder of bundles (default: downloaded ones)")
    evidence.add_argument("--evidence-url", metavar="URL", help="fetch bundles here and not where each record says")
    parser.add_argument(
        "--events",
        type=Path,
        metavar="FILE",
        help="event lines a validator kept (its telemetry.sqlite), added up again",
    )
    parser.add_argument("--download", type=Path, metavar="DIR", help="keep the download, and go on with it next time")
    parser.add_argument(
        "--allow-private", action="store_true", help="fetch bundles from loopback and private addresses, too"
    )
    parser.add_argument("--validator", metavar="KEY", help="only this validator: node key, or its unique beginning")
    parser.add_argument(
        "--from", dest="first_epoch", type=_epoch, default=0, metavar="EPOCH", help="only epochs from this one on"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="fail on openings thrown away before their time, also where the validator signed that it did",
    )
    parser.add_argument("--keep-going", action="store_true", help="name everything that does not hold, not the first")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print")
    parser.set_defaults(handler=run, refuse=parser.error)


def run(args: argparse.Namespace) -> int:
    """Audit, print, and return the exit status."""
    from neurons.validator.audit.audit import Audit, Scope
    from neurons.validator.audit.ledger_copy import LedgerCopy
    from neurons.validator.audit.report import FirstFailure, Report
    from polarise.errors import ConfigError
    from polarise.genesis import read_genesis

    if args.ledger is None and args.ledger_file is None and args.offline is None:
        args.refuse("one of the arguments --ledger --ledger-file --offline is required")
    if args.genesis is None:
        args.refuse("the following arguments are required: --genesis")
    began = time.monotonic()
    if args.events is not None and not args.events.is_file():
        raise ConfigError(f"there is no {args.events}", origin="--events", allowed="a validator's telemetry.sqlite")
    genesis = read_genesis(args.genesis)
    is_table = args.output == "table"
    report = Report(
        keep_going=args.keep_going, on_step=_print_step if is_table else lambda _step: None, on_progress=_Progress()
    )
    if is_table:
        print(f"audit of {genesis.net}, genesis {genesis.hash}")
    with _folder(args) as folder:
        copy = LedgerCopy(folder)
        audit = Audit(copy, genesis, Scope(args.validator, args.first_epoch, args.strict), report)
        with contextlib.suppress(FirstFailure):
            _get_ledger(args, genesis, copy, report)
            audit.check_ledger()
            bundles = _get_evidence(args, audit, folder, report)
            audit.check_epochs(bundles)
            if args.events is not None:
                audit.check_events(args.events, bundles)
    seconds = time.monotonic() - began
    if is_table:
        _print_end(report, seconds)
    else:
        print(json.dumps({"net": genesis.net, "seconds": round(seconds, 3), **_wire(report)}, indent=2))
    return EXIT_OK if report.holds else EXIT_NOT_VERIFIED


def _get_ledger(args: argparse.Namespace, genesis: Genesis, copy: LedgerCopy, report: Report) -> None:
    from neurons.validator.audit.download import copy_file, download_ledger
    from neurons.validator.audit.report import FirstFailure, Place
    from polarise.errors import AnswerInvalid, LogFork

    if args.offline is not None:
        copy.check_exists()
        return
    with report.step("ledger") as step:
        try:
            if args.ledger_file is not None:
                copy_file(args.ledger_file, genesis, copy)
            else:
                download_ledger(args.ledger, genesis, copy, report.progress)
        except (AnswerInvalid, LogFork) as err:
            report.fail(Place(field="the ledger's answer"), err.message)
        step.detail = f"from {args.ledger or args.ledger_file}"
    if not report.holds:
        raise FirstFailure("without a whole copy there is nothing to go on with, whatever was asked for")


def _get_evidence(args: argparse.Namespace, audit: Audit, folder: Path, report: Report) -> Path:
    from neurons.validator.audit.download import EVIDENCE_FOLDER, BundleDownload

    if args.evidence is not None:
        return Path(args.evidence)
    target = folder / EVIDENCE_FOLDER
    if args.offline is None:
        with report.step("download") as step:
            download = BundleDownload(target, base_url=args.evidence_url, allow_private=args.allow_private)
            step.detail = f"{download.fetch(audit.wanted(), report.progress)} bundles"
    return target


@contextlib.contextmanager
def _folder(args: argparse.Namespace) -> Iterator[Path]:
    """Where the copy lies: as named, or for the time of the audit."""
    if (named := args.offline or args.download) is not None:
        yield named
        return
    with tempfile.TemporaryDirectory(prefix="polarise-audit-") as folder:
        yield Path(folder)


class _Progress:
    """Prints a line to stderr every other second at most."""

    def __init__(self) -> None:
        self._printed = time.monotonic()

    def __call__(self, line: str) -> None:
        if time.monotonic() - self._printed >= PROGRESS_SECONDS:
            self._printed = time.monotonic()
            print(f"  … {line}", file=sys.stderr, flush=True)


def _print_step(step: Step) -> None:
    if not step.failures:
        print(f"{step.name:<12} {'ok' if step.is_done else 'broken off':<8} {step.detail}", flush=True)
    for failure in step.failures:
        print(f"{step.name:<12} FAILED   at {failure.place}\n{'':21} {failure.message}", flush=True)


def _print_end(report: Report, seconds: float) -> None:
    if report.words:
        print("\ncannot be recomputed:")
        for what, count in sorted(report.words.items(), key=lambda item: (-item[1], item[0])):
            print(f"{count:>8} x {what}")
    if report.holds:
        print(f"\nclean: all that can be recomputed came out equal ({seconds:.1f} s)")
    else:
        print(f"\nDOES NOT HOLD: {len(report.failures)} place(s) named above ({seconds:.1f} s)")


def _wire(report: Report) -> dict[str, object]:
    return {
        "holds": report.holds,
        "steps": [
            {"name": step.name, "holds": step.is_done and not step.failures, "detail": step.detail}
            for step in report.steps
        ],
        "failures": [
            {"step": step.name, "place": failure.place.to_wire(), "message": failure.message}
            for step in report.steps
            for failure in step.failures
        ],
        "not_recomputed": [{"what": what, "count": count} for what, count in sorted(report.words.items())],
    }


def _epoch(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no epoch number")
    return int(text)
