"""The command line: one parser, one command per role, and one place where an error becomes an exit status.

0 ok · 2 usage or configuration · 3 refused · 4 the other side cannot be reached · 5 not found · 6 not permitted ·
7 something does not verify
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from pydantic import ValidationError

import polarise
from polarise.errors import (
    ConfigError,
    ErrorCode,
    LogDamaged,
    LogFork,
    ProofRejected,
    RequestRejected,
    StateNotProved,
    SubnetError,
    Unavailable,
)

EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_NETWORK = 4
EXIT_NOT_FOUND = 5
EXIT_NOT_PERMITTED = 6
EXIT_NOT_VERIFIED = 7

SETUP_COMMANDS = {
    "setup": "build .venv, engine and image",
    "doctor": "say what this machine lacks for a role, with the fix",
    "image": "build the containers' image anew with today's security updates, or show it",
}

EPILOG = """\
first steps:
  python main.py demo --once                              everything on this machine, once
  python main.py key new --kind owner                     your owner key
  python main.py key new --kind node --data-dir data/miner --owner-key ~/.config/polarise/owner.key
  python main.py join                                     measure, and write the signed registry entry
  python main.py miner                                    run the miner
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status; see the module's docstring.
    """
    try:
        args = _parse(_with_default_role(sys.argv[1:] if argv is None else argv))
        return int(args.handler(args))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `... | head` closed our output; that is not an error of ours, and nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SubnetError as err:
        print(f"polarise: {describe(err)}", file=sys.stderr)
        return exit_status(err)
    except ValidationError as err:
        # A value from the command line that a message's own model refused.
        first = err.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        print(f"polarise: {field}: {first['msg']}, got {str(first.get('input'))[:100]!r}", file=sys.stderr)
        return EXIT_USAGE
    except OSError as err:
        place = f"{err.filename}: " if err.filename else ""
        print(f"polarise: {place}{err.strerror or err}", file=sys.stderr)
        return EXIT_USAGE


def _parse(argv: list[str]) -> argparse.Namespace:
    """Parse, and give ``renter ssh`` everything behind ``--`` untouched, whatever stands before it."""
    own, remote = argv, []
    if argv[:2] == ["renter", "ssh"] and "--" in argv:
        end = argv.index("--")
        own, remote = argv[:end], argv[end + 1 :]
    args = build_parser().parse_args(own)
    if remote:
        args.remote_command = remote
    return args


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with every command."""
    from neurons.agent import command as agent_command
    from neurons.base import backup_command, keys_command
    from neurons.demo import command as demo_command
    from neurons.ledger import command as ledger_command
    from neurons.miner import command as miner_command
    from neurons.renter import command as renter_command
    from neurons.validator import command as validator_command
    from neurons.validator.audit import command as audit_command

    parser = argparse.ArgumentParser(
        prog="python main.py",
        description="Polarise: an open market for GPU time.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"polarise {polarise.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (
        demo_command,
        miner_command,
        agent_command,
        validator_command,
        ledger_command,
        renter_command,
        audit_command,
        keys_command,
        backup_command,
    ):
        module.add_parser(subparsers)
    _add_setup_commands(subparsers)
    return parser


def _add_setup_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Name what main.py runs by itself, before there is a parser, so that it stands in every list of commands."""
    for name, text in SETUP_COMMANDS.items():
        subparsers.add_parser(name, help=text, add_help=False).set_defaults(handler=_run_setup_command)


def _run_setup_command(args: argparse.Namespace) -> int:
    from neurons.setup.command import RUN

    return RUN[args.command]([])


def exit_status(err: SubnetError) -> int:
    """Return the exit status of an error."""
    if isinstance(err, RequestRejected):
        by_status = {404: EXIT_NOT_FOUND, 401: EXIT_NOT_PERMITTED, 403: EXIT_NOT_PERMITTED}
        return by_status.get(err.status, EXIT_REFUSED)
    if isinstance(err, Unavailable) and not isinstance(err, StateNotProved):
        return EXIT_NETWORK
    if isinstance(err, ConfigError):
        return EXIT_USAGE
    not_verified = ProofRejected | LogFork | LogDamaged | StateNotProved
    return EXIT_NOT_VERIFIED if isinstance(err, not_verified) else EXIT_REFUSED


def describe(err: SubnetError) -> str:
    """Return what went wrong and, where one is known, the fix."""
    if isinstance(err, RequestRejected):
        place = f" [{err.field}]" if err.field else ""
        return f"{err.code}{place}: {err.message}" + (f"\n  fix: {err.hint}" if err.hint else "")
    if isinstance(err, Unavailable) and err.code is ErrorCode.DRAINING:
        return f"{err}\n  fix: rent from another miner (--miner URL), or ask again in {err.retry_after_seconds} s"
    return str(err)


def _with_default_role(argv: list[str]) -> list[str]:
    """A bare ``python main.py`` runs the role that config/config.yaml (or POLARISE_CONFIG, or --config) names."""
    if argv and (not argv[0].startswith("-") or {"-h", "--help", "--version"} & set(argv)):
        return argv
    from config.loader import CHECKOUT, load_config

    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--config", type=Path)
    known, _ = options.parse_known_args(argv)
    file = known.config or Path(os.environ.get("POLARISE_CONFIG") or CHECKOUT / "config" / "config.yaml")
    try:
        role = load_config(file, environ=os.environ).role
    except ConfigError as err:
        print(f"polarise: {err}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from err
    return [str(role), *argv] if known.config or str(role) == "demo" else [str(role), "--config", str(file), *argv]
