"""`python main.py ledger`: run the daemon; `ledger init` makes the genesis, `ledger fsck` re-checks everything."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polarise.genesis import Member

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Add ``ledger`` with its verbs."""
    from neurons.base.options import add_config_options, add_daemon_options

    parser = subparsers.add_parser("ledger", help="run the ledger daemon; `ledger init` makes a new one")
    add_daemon_options(parser)
    parser.set_defaults(handler=run_ledger)
    verbs = parser.add_subparsers(dest="verb", metavar="[init|fsck]")

    init = verbs.add_parser("init", help="write the genesis of a new ledger into the data directory")
    add_daemon_options(init)
    init.add_argument("--net", metavar="NAME", required=True, help="name of the net, for people")
    init.add_argument(
        "--validator",
        action="append",
        metavar="KEY[=STAKE]",
        required=True,
        help="node key of a validator and its stake (default 1); may be repeated",
    )
    init.add_argument("--block-seconds", type=int, default=5, metavar="N", help="time between blocks (default: 5)")
    init.add_argument("--final-confirmations", type=int, default=1, metavar="N", help="blocks until final (default: 1)")
    init.set_defaults(handler=run_init)

    fsck = verbs.add_parser("fsck", help="replay the ledger from its first leaf and compare all that is stored")
    add_config_options(fsck)
    fsck.add_argument("--file", type=Path, metavar="FILE", help="the ledger's file (default: in the data directory)")
    fsck.set_defaults(handler=run_fsck)


def run_ledger(args: argparse.Namespace) -> int:
    """Run the daemon until SIGTERM or SIGINT."""
    from config.schema import RoleName
    from neurons.base.startup import load
    from neurons.ledger.node import LedgerNode

    started = load(args, RoleName.LEDGER)
    return LedgerNode(started.config, started.data_dir, started.identity).run()


def run_init(args: argparse.Namespace) -> int:
    """Write the genesis; a ledger has one."""
    from config.schema import RoleName
    from neurons.base.startup import load
    from neurons.ledger.genesis import new_genesis
    from neurons.ledger.node import GENESIS_FILE
    from polarise.genesis import write_genesis
    from utils.clock import SystemClock

    started = load(args, RoleName.LEDGER)
    genesis = new_genesis(
        started.identity,
        args.net,
        [_member(text) for text in args.validator],
        block_seconds=args.block_seconds,
        final_confirmations=args.final_confirmations,
        created_unix_ms=SystemClock().wall_unix_ms(),
    )
    path = started.config.ledger.genesis or started.data_dir / GENESIS_FILE
    write_genesis(path, genesis)
    print(f"wrote {path}\nnet {genesis.net}\nlog key {genesis.log.vkey}")
    for member in genesis.validators:
        print(f"validator {member.key} stake {member.stake}")
    return 0


def run_fsck(args: argparse.Namespace) -> int:
    """Re-check the file; works while the daemon runs and while it does not."""
    from config.schema import RoleName
    from ledger.fsck import fsck
    from neurons.base.startup import data_dir_of, load_settings
    from neurons.ledger.node import GENESIS_FILE, LEDGER_FILE
    from polarise.errors import LogDamaged
    from polarise.genesis import read_genesis

    config = load_settings(args, RoleName.LEDGER)
    data_dir = data_dir_of(args, RoleName.LEDGER, config)
    path = args.file or data_dir / LEDGER_FILE
    genesis = read_genesis(config.ledger.genesis or data_dir / GENESIS_FILE)
    try:
        report = fsck(path, genesis, on_progress=lambda leaves: print(f"  {leaves} leaves", flush=True))
    except LogDamaged as err:
        print(f"{path}: {err.place}: {err.message}")
        return 7
    print(
        f"{path} holds: {report.leaves_count} leaves, {report.blocks_count} blocks, {report.values_count} values; "
        f"height {report.blocks_count - 1}, state {report.state}"
    )
    return 0


def _member(text: str) -> Member:
    import re

    from polarise.errors import ConfigError
    from polarise.genesis import Member

    key, _, stake = text.partition("=")
    if not re.fullmatch("[0-9a-f]{64}", key) or not re.fullmatch("[1-9][0-9]{0,14}", stake or "1"):
        raise ConfigError(
            f"{text[:100]!r} is no validator", origin="--validator", allowed="64 hex digits, then perhaps =STAKE"
        )
    return Member(key=key, stake=int(stake or "1"))
