"""`python main.py demo`: everything on this machine, with real parts."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Add ``demo``."""
    parser = subparsers.add_parser("demo", help="start a miner and a validator here, and rent a container from it")
    parser.add_argument("--once", action="store_true", help="run through and exit 0 when everything held")
    parser.add_argument(
        "--cheat",
        nargs="?",
        const="all",
        metavar="NAMES",
        help="also let miners that cheat play beside the honest one: all (without a value), names with commas, or none "
        "for an honest guest as control",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what happened to this file")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep keys, journals, evidence and logs in this folder"
    )
    parser.set_defaults(handler=run_demo)


def run_demo(args: argparse.Namespace) -> int:
    """Run the demo."""
    from neurons.demo.story import run

    keep_logs_out()

    return run(once=args.once, json_file=args.json, keep=args.keep, cheat=args.cheat)


def keep_logs_out() -> None:
    """Let no log line of this process, which measures the hardware, stand between the story's lines.

    Without any handler Python prints warnings bare, without time, fields or fix. The daemons log to files of their own.
    """
    logging.getLogger().addHandler(logging.NullHandler())
