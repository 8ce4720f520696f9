"""`python main.py agent`: run the process that keeps a node's event log; `log new-epoch`: begin that log anew."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Add ``agent``."""
    from neurons.base.options import add_daemon_options

    parser = subparsers.add_parser(
        "agent", help="run a miner's agent by itself (telemetry.start_agent: false); it keeps and signs the event log"
    )
    add_daemon_options(parser)
    parser.set_defaults(handler=run_agent)

    log = subparsers.add_parser("log", help="a miner's own event log: begin it anew after a restore")
    verbs = log.add_subparsers(dest="verb", metavar="{new-epoch}", required=True)
    new_epoch = verbs.add_parser(
        "new-epoch", help="sign that the log goes on under a new name because lines were lost; the agent must not run"
    )
    add_daemon_options(new_epoch)
    new_epoch.add_argument("--epoch", type=int, metavar="N", help="number of the log epoch (default: the next one)")
    new_epoch.set_defaults(handler=run_new_epoch)


def run_agent(args: argparse.Namespace) -> int:
    """Run the daemon until SIGTERM or SIGINT; settings, key and data directory are the miner's."""
    from config.schema import RoleName
    from neurons.agent.node import AgentNode
    from neurons.base.startup import load
    from polarise.signing import Purpose

    started = load(args, RoleName.MINER)
    subkey = started.identity.subkey(Purpose.LOG)
    return AgentNode(started.config, started.data_dir, started.identity.public_key, subkey).run()


def run_new_epoch(args: argparse.Namespace) -> int:
    """Begin the node's own stream anew."""
    from config.schema import RoleName
    from neurons.agent.new_epoch import begin_log_epoch, read_anchors
    from neurons.base.audit_spool import note_command
    from neurons.base.ledger_access import ledger_client
    from neurons.base.startup import load
    from polarise.block_follower import ShortMemory
    from polarise.errors import Unavailable
    from polarise.stream import system_stream
    from utils.clock import SystemClock

    started, anchored = load(args, RoleName.MINER), None
    if started.config.ledger.genesis is not None:
        try:
            anchored = read_anchors(ledger_client(started.config, ShortMemory()), started.identity.public_key)
        except Unavailable as err:
            print(f"the ledger could not be asked: {err.message}")
    now_unix_ms = SystemClock().wall_unix_ms()
    begun = begin_log_epoch(started.data_dir, started.identity, anchored, now_unix_ms, number=args.epoch)
    note_command(started.data_dir, "log.new-epoch", {"object": system_stream(begun.log_epoch)})
    last = begun.last_checkpoint()
    print(f"log epoch {begun.log_epoch}: events go into {system_stream(begun.log_epoch)} from the next start on")
    print(f"before it: {begun.previous}, of which {0 if last is None else last.checkpoint.size} lines are left here")
    if begun.anchored_size is not None:
        print(f"the ledger knows {begun.anchored_size} lines of it; validators count what is missing as a gap, once")
    return 0
