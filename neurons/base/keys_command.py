"""`python main.py key new|show|rotate|revoke`: make key files and show their public half; a secret is never printed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polarise.keyfile import KeyHeader
    from polarise.signing import Identity

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

KINDS = ("owner", "node", "renter")


def add_parser(subparsers: Subparsers) -> None:
    """Add ``key`` with its verbs."""
    from neurons.base.command_rotate import add_verbs

    parser = subparsers.add_parser("key", help="make a key file, show its public half, rotate or revoke keys")
    verbs = parser.add_subparsers(dest="verb", metavar="{new,show,rotate,revoke}", required=True)
    new = verbs.add_parser("new", help="make a new key file; an existing one is never overwritten")
    new.add_argument("--kind", choices=KINDS, required=True, help="whose key it will be")
    new.add_argument("--owner-key", type=Path, metavar="FILE", help="the owner's key file, which certifies a node key")
    new.add_argument(
        "--owner-passphrase-file", type=Path, metavar="FILE", help="passphrase of the owner key; default: the same one"
    )
    _add_common(new)
    new.set_defaults(handler=run_new)
    show = verbs.add_parser("show", help="show kind, public key, owner and, with the passphrase, the subkeys")
    show.add_argument("--kind", choices=KINDS, default="renter", help="whose default path to look at (default: renter)")
    _add_common(show)
    show.set_defaults(handler=run_show)
    add_verbs(verbs)


def _add_common(parser: argparse.ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--file", type=Path, metavar="FILE", help="the key file (owner and renter have a default)")
    place.add_argument("--data-dir", type=Path, metavar="DIR", help="data directory of the node whose key it is")
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help="file with the passphrase, mode 0600")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print")


def run_new(args: argparse.Namespace) -> int:
    """Make a key file; a node key is certified by its owner's key in the same step."""
    from polarise.errors import ConfigError
    from polarise.keyfile import KeyKind, create_key_file, read_key_header
    from utils.crypto import read_passphrase

    kind = KeyKind(args.kind)
    path = _path(args)
    if (kind is KeyKind.NODE) != (args.owner_key is not None):
        raise ConfigError(
            "a node key needs its owner's key, and no other kind takes one",
            origin="--owner-key",
            allowed="--kind node --owner-key FILE; make one with `key new --kind owner`",
        )
    owner = _load_owner(args) if args.owner_key else None
    # From a file there is nothing to type twice; at a prompt a mistyped passphrase would lose the key.
    passphrase = read_passphrase(args.passphrase_file, os.environ, confirm=True)
    create_key_file(path, kind, passphrase, owner=owner)
    _print(_public(path, read_key_header(path), None), args.output)
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Show what is public about a key file."""
    from neurons.base.keys import load_identity
    from polarise.keyfile import read_key_header
    from utils.crypto import read_passphrase

    path = _path(args)
    header = read_key_header(path)
    identity = None
    if args.passphrase_file is not None:
        identity = load_identity(path, read_passphrase(args.passphrase_file, os.environ))
    _print(_public(path, header, identity), args.output)
    return 0


def _path(args: argparse.Namespace) -> Path:
    from neurons.base.keys import node_key_path, personal_key_path
    from polarise.errors import ConfigError
    from polarise.keyfile import KeyKind

    if args.file is not None:
        return Path(args.file)
    if args.data_dir is not None:
        return node_key_path(args.data_dir)
    if args.kind == "node":
        raise ConfigError(
            "where is the node's key?", origin="key", allowed="--data-dir DIR of the node, or --file FILE"
        )
    return personal_key_path(KeyKind(args.kind), os.environ)


def _load_owner(args: argparse.Namespace) -> Identity:
    from neurons.base.keys import load_identity
    from polarise.errors import ConfigError
    from polarise.keyfile import KeyKind
    from utils.crypto import read_passphrase

    if args.owner_passphrase_file is None and args.passphrase_file is None and sys.stdin.isatty():
        sys.stderr.write(f"first the passphrase of the owner key {args.owner_key}\n")
    passphrase = read_passphrase(args.owner_passphrase_file or args.passphrase_file, os.environ)
    try:
        return load_identity(args.owner_key, passphrase, kind=KeyKind.OWNER)
    except ConfigError as err:
        if args.owner_passphrase_file is not None:
            raise
        # The node's passphrase was tried, which is another one wherever the node is a service.
        own = "; where the owner key has a passphrase of its own: --owner-passphrase-file FILE"
        raise ConfigError(err.message, origin=err.origin, key_path=err.key_path, allowed=err.allowed + own) from err


def _public(path: Path, header: KeyHeader, identity: Identity | None) -> dict[str, object]:
    from neurons.base.tls import tls_public_key
    from polarise.keyfile import KeyKind
    from polarise.signing import Purpose
    from polarise.tls import curl_pin

    certificate = header.owner_certificate
    shown: dict[str, object] = {
        "file": str(path),
        "kind": str(header.kind),
        "public_key": header.public_key,
        "owner": certificate.issuer if certificate else None,
    }
    if header.generations:
        shown["generations"] = ", ".join(f"{purpose} {number}" for purpose, number in header.generations.items())
    if identity is not None:
        derived = [purpose for purpose in Purpose if purpose not in {Purpose.NODE, Purpose.TLS}]
        shown["subkeys"] = {str(purpose): identity.subkey(purpose).key.public_key for purpose in derived}
        if header.kind is KeyKind.NODE:
            tls_key = tls_public_key(identity)
            shown |= {"tls_public_key": tls_key, "curl_pin": curl_pin(tls_key)}
    return shown


def _print(shown: dict[str, object], output: str) -> None:
    if output == "json":
        sys.stdout.write(json.dumps(shown, indent=2) + "\n")
        return
    rows = [(name, value) for name, value in shown.items() if not isinstance(value, dict)]
    subkeys = shown.get("subkeys")
    if isinstance(subkeys, dict):
        rows += [(f"subkey {purpose}", key) for purpose, key in subkeys.items()]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        sys.stdout.write(f"{name:<{width}}  {'-' if value is None else value}\n")
