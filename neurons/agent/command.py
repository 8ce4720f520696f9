"""`python main.py agent`: run the process that keeps a node's event log."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Add ``agent``."""
    from neurons.base.startup import add_daemon_options

    parser = subparsers.add_parser(
        "agent", help="run a miner's agent by itself (telemetry.start_agent: false); it keeps and signs the event log"
    )
    add_daemon_options(parser)
    parser.set_defaults(handler=run_agent)


def run_agent(args: argparse.Namespace) -> int:
    """Run the daemon until SIGTERM or SIGINT; settings, key and data directory are the miner's."""
    from config.schema import RoleName
    from neurons.agent.node import AgentNode
    from neurons.base.startup import load
    from polarise.signing import Purpose

    started = load(args, RoleName.MINER)
    subkey = started.identity.subkey(Purpose.LOG)
    return AgentNode(started.config, started.data_dir, started.identity.public_key, subkey).run()
