"""`python main.py miner` and `python main.py join`: run the daemon, look at it, register it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polarise.ledger_client import LedgerClient

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Add ``miner`` with its verbs, and ``join``."""
    from neurons.base.options import add_config_options, add_daemon_options

    parser = subparsers.add_parser(
        "miner", help="run the miner daemon; `miner status` looks at one, `miner self-test` proves"
    )
    add_daemon_options(parser)
    parser.set_defaults(handler=run_miner)
    verbs = parser.add_subparsers(dest="verb", metavar="[status|usage|drain|self-test]")
    status = verbs.add_parser("status", help="leases, newest challenges and verdicts, how far the log is cosigned")
    add_config_options(status)
    status.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print")
    status.set_defaults(handler=run_status)
    usage = verbs.add_parser("usage", help="what leases have used, summed per renter")
    add_config_options(usage)
    usage.add_argument(
        "--days", type=int, choices=range(1, 91), default=90, metavar="N", help="leases that ended since, 1 to 90 (90)"
    )
    usage.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print")
    usage.set_defaults(handler=run_usage)
    drain = verbs.add_parser("drain", help="grant no new leases; those that run go on")
    add_config_options(drain)
    drain.add_argument("--off", action="store_true", help="grant leases again")
    drain.set_defaults(handler=run_drain)
    test = verbs.add_parser(
        "self-test", help="prove every device to yourself: what holds, how fast beside the claim, what limits it"
    )
    add_config_options(test)
    test.add_argument("--json", action="store_true", help="print what was found as JSON; progress stays on stderr")
    test.add_argument(
        "--seconds", type=int, choices=range(1, 61), default=3, metavar="N", help="length of a real proof, 1 to 60 (3)"
    )
    test.set_defaults(handler=run_self_test)

    join = subparsers.add_parser("join", help="measure this miner and put its signed registry entry on the ledger")
    add_daemon_options(join)
    join.add_argument("--registry", type=Path, metavar="DIR", help="also write the entry into this folder")
    join.add_argument("--offline", action="store_true", help="only write the entry, hand nothing to the ledger")
    join.add_argument("--endpoint", metavar="URL", help="base URL of the API (default: from network.host and port)")
    join.set_defaults(handler=run_join)


def run_miner(args: argparse.Namespace) -> int:
    """Run the daemon until SIGTERM or SIGINT."""
    from config.schema import RoleName
    from neurons.base.log_epochs import refuse_restored
    from neurons.base.startup import load
    from neurons.miner.node import MinerNode

    started = load(args, RoleName.MINER)
    refuse_restored(started.data_dir)
    return MinerNode(started.config, started.data_dir, started.identity).run()


def run_status(args: argparse.Namespace) -> int:
    """Print what the data directory says, and the agent while it runs; the rest works without any daemon."""
    from config.schema import RoleName
    from neurons.base.startup import data_dir_of
    from neurons.miner.status import read_status, render

    status = read_status(data_dir_of(args, RoleName.MINER))
    print(json.dumps(status, indent=2) if args.output == "json" else render(status))
    return 0


def run_usage(args: argparse.Namespace) -> int:
    """Print what leases have used; works beside a running daemon and without one."""
    from dataclasses import asdict

    from config.schema import RoleName
    from neurons.base.startup import data_dir_of
    from neurons.miner.usage_report import read_usage, render, total
    from utils.clock import SystemClock

    since_unix_ms = SystemClock().wall_unix_ms() - args.days * 86_400_000
    usages = read_usage(data_dir_of(args, RoleName.MINER), since_unix_ms=since_unix_ms)
    wire = {"renters": [asdict(usage) for usage in usages], "total": asdict(total(usages))}
    print(json.dumps(wire, indent=2) if args.output == "json" else render(usages))
    return 0


def run_drain(args: argparse.Namespace) -> int:
    """Switch draining on or off, which a running daemon heeds at once, and say what still runs."""
    from config.schema import RoleName
    from neurons.base.audit_spool import note_command
    from neurons.base.startup import data_dir_of
    from neurons.miner.drain import Drain
    from neurons.miner.status import read_leases

    root = data_dir_of(args, RoleName.MINER)
    leases = read_leases(root)
    Drain(root).switch(on=not args.off)
    note_command(root, "drain.off" if args.off else "drain.on")
    print("new leases are granted again" if args.off else "draining: no new leases are granted")
    if not args.off:
        print(
            "a validator that inspects meanwhile gets no container, which costs service score: drain no longer than you must"
        )
    if leases and not args.off:
        print(f"{len(leases)} leases go on, the last until {max(str(lease['expires_at']) for lease in leases)}")
    return 0


def run_self_test(args: argparse.Namespace) -> int:
    """Run all proofs of all devices against this node; 0 only when all of them hold and reach 0.6 of the claim."""
    from config.schema import RoleName
    from neurons.base.startup import data_dir_of, load_settings
    from neurons.miner.self_test import self_test
    from neurons.miner.self_test_report import is_passed, render, to_wire

    config = load_settings(args, RoleName.MINER)
    reports = self_test(
        config,
        data_dir_of(args, RoleName.MINER, config),
        seconds=args.seconds,
        on_progress=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(json.dumps(to_wire(reports), indent=2) if args.json else render(reports))
    return 0 if is_passed(reports) else 1


def run_join(args: argparse.Namespace) -> int:
    """Measure the hardware with the real proofs and write the signed entry."""
    from config.schema import RoleName
    from neurons.base.http_server import reached_at
    from neurons.base.ledger_access import ledger_client
    from neurons.base.startup import load
    from neurons.miner.join import post_entry, registry_statement
    from polarise.registry import write_entry

    started = load(args, RoleName.MINER)
    network = started.config.network
    endpoint = _checked(args.endpoint) if args.endpoint else reached_at(network, network.port)
    # Before anything is measured: without a genesis, or with the ledger away, there is nowhere to put it.
    ledger = None if args.offline else ledger_client(started.config, started.data_dir)
    if ledger is not None:
        _see_ledger(ledger, started.config.ledger.endpoint)
    print("measuring every device with all proofs, this takes some seconds …")
    statement = registry_statement(
        started.config,
        started.identity,
        started.data_dir,
        endpoint,
        on_measured=lambda device: print(f"  {device.name}: claims {device.rates_text}"),
    )
    print(f"node key {started.identity.public_key}\nendpoint {endpoint}")
    if ledger is not None:
        height = post_entry(ledger, started.identity, statement)
        print(f"registered on the ledger, final in block {height}")
    # Only now: an entry that the ledger refused is not this node's.
    paths = [started.data_dir / "registry.json"]
    if args.registry is not None:
        paths.append(args.registry / f"{started.identity.public_key[:16]}.json")
    for path in paths:
        write_entry(path, statement)
        print(f"wrote {path}")
    return 0


def _see_ledger(ledger: LedgerClient, endpoint: str) -> None:
    """Ask the ledger for its newest block.

    Raises:
        Unavailable: It does not answer, or is another one; with the ways out.
    """
    from polarise.errors import Unavailable

    try:
        ledger.checkpoint()
    except Unavailable as err:
        raise Unavailable(
            f"the ledger cannot be reached: {err}\n  fix: start it (`python main.py ledger`), or name another with "
            f"--set ledger.endpoint=URL (now {endpoint}); `join --offline` only writes the entry",
            retry_after_seconds=err.retry_after_seconds,
        ) from err


def _checked(endpoint: str) -> str:
    """Refuse an endpoint that no registry entry may hold, before anything is measured."""
    import re

    from polarise.errors import ConfigError

    trimmed = endpoint.rstrip("/")
    if not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", trimmed):
        raise ConfigError(f"{endpoint[:100]!r} is no base URL", origin="--endpoint", allowed="https://host:port")
    return trimmed
