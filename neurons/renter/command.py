"""`python main.py renter ...`: the words of a renter's command line; each noun's work is in the module of its name.

This module is stdlib only, so that building the parser needs no virtual environment.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Add ``renter`` with its commands."""
    parser = subparsers.add_parser("renter", help="rent containers and log in to them")
    commands = parser.add_subparsers(dest="renter_command", metavar="COMMAND", required=True)
    _add_allocate(commands)
    _add_ssh(commands)
    _add(commands, "ps", "list your containers")
    logs = _add(commands, "logs", "print the output of a container")
    _add_id(logs)
    logs.add_argument("-f", "--follow", action="store_true", help="wait for more until Ctrl-C")
    renew = _add(commands, "renew", "let a lease end later, or earlier")
    _add_id(renew)
    renew.add_argument(
        "--ttl", type=int, metavar="SECONDS", help="end this many seconds from now; default: the miner's"
    )
    release = _add(commands, "release", "end a lease and remove its container")
    which = release.add_mutually_exclusive_group(required=True)
    which.add_argument("id", nargs="?", metavar="ID", help="container id, or the unique beginning of one")
    which.add_argument("--all", action="store_true", help="every lease kept on this machine, or all of --miner")
    token = _add(commands, "token", "print a bearer token for curl", module="tokens")
    token.add_argument(
        "--no-consent",
        action="store_true",
        help="do not let the miner show validators that what you rent with this token is rented",
    )
    _add(commands, "pin", "print a miner's TLS key as `curl --pinnedpubkey` takes it")
    _add_key(commands)


def _add_allocate(commands: Subparsers) -> None:
    parser = _add(commands, "allocate", "rent a container; what is left out takes the miner's defaults")
    parser.add_argument("--memory", metavar="SIZE", help='for example "2g"')
    parser.add_argument("--cpus", type=float, metavar="N", help="CPUs, in steps of 0.01")
    parser.add_argument("--device", action="append", metavar="ID", help='UUID or index of a GPU, repeatable; "none"')
    parser.add_argument("--device-count", type=int, metavar="N", help="any N GPUs instead of named ones")
    parser.add_argument("--device-model", metavar="NAME", help="with --device-count: of this model")
    parser.add_argument("--disk", metavar="SIZE", help="size of the writable disk")
    parser.add_argument("--image", metavar="NAME", help="an image the miner allows")
    parser.add_argument("--ttl", type=int, metavar="SECONDS", help="how long the lease lasts")
    parser.add_argument("--isolation", choices=("standard", "strict"), help="profile of the container")
    parser.add_argument(
        "--private-network",
        metavar="NAME",
        help="your leases at this miner with the same NAME reach each other, and nobody else does",
    )
    parser.add_argument(
        "--idempotency-key",
        metavar="TEXT",
        help="the same text and flags again give the same lease, for a day after its end; default: a fresh one",
    )
    _add_login(parser)


def _add_ssh(commands: Subparsers) -> None:
    parser = _add(commands, "ssh", "log in with the host key pinned from the receipt")
    _add_id(parser)
    parser.add_argument("--print", action="store_true", help="print the ssh command instead of running it")
    parser.add_argument("remote_command", nargs="*", metavar="-- COMMAND", help="run this instead of a login shell")


def _add_key(commands: Subparsers) -> None:
    parser = _add(commands, "key", "replace the key or password of a container", module="login_key")
    _add_id(parser)
    _add_login(parser)


def _add(commands: Subparsers, name: str, text: str, *, module: str = "") -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--miner", metavar="URL|KEY", help="URL of a miner, or the beginning of its node key")
    parser.add_argument("--miner-key", metavar="HEX", help="node key the miner must have; 64 hex digits")
    parser.add_argument("--registry", type=Path, metavar="DIR", help="folder of signed registry entries")
    parser.add_argument(
        "--allow-private",
        action="store_true",
        help="call private addresses also where only a registry entry names them",
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="your key file (POLARISE_RENTER_KEY)")
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help="file with its passphrase, mode 0600")
    parser.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="default ~/.local/state/polarise (POLARISE_STATE_DIR)"
    )
    parser.add_argument("--timeout", type=float, default=None, metavar="SECONDS", help="deadline of each request")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print")
    parser.set_defaults(handler=_handler(module or name))
    return parser


def _add_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="container id, or the unique beginning of one")


def _add_login(parser: argparse.ArgumentParser) -> None:
    login = parser.add_mutually_exclusive_group()
    login.add_argument("--ssh-key", type=Path, metavar="FILE", help="your public key, e.g. ~/.ssh/id_ed25519.pub")
    login.add_argument("--password", action="store_true", help="a one-time password instead of a key")


def _handler(module: str) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        chosen: Callable[[argparse.Namespace], int] = importlib.import_module(f"neurons.renter.{module}").run
        return chosen(args)

    return run
