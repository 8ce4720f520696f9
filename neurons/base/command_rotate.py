"""`python main.py key rotate` and `key revoke`: subkeys, token secrets and passphrases replaced; a lost node taken off."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.schema import Config
    from neurons.base.data_dir import DataDir
    from neurons.base.key_rotation import Rotated

    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

# Purposes that are rotated when none is named; see `polarise.generations.REVOCABLE`. Not tls: it takes a new entry as well.
PURPOSES = ("request", "statement", "ledger")
EXIT_WAITING = 4


def add_verbs(verbs: Verbs) -> None:
    """Add ``rotate`` and ``revoke``."""
    from neurons.base.options import add_config_options

    rotate = verbs.add_parser(
        "rotate", help="replace a stopped node's subkeys, its token secret, or a key's passphrase"
    )
    what = rotate.add_mutually_exclusive_group()
    what.add_argument(
        "--purpose", action="append", metavar="PURPOSE", help=f"only this subkey; may be repeated (default: {PURPOSES})"
    )
    what.add_argument("--token-secret", action="store_true", help="the secret that signs bearer tokens")
    what.add_argument("--passphrase", action="store_true", help="what the key file is encrypted with")
    rotate.add_argument(
        "--role", choices=("miner", "validator"), default="miner", help="whose settings (default: miner)"
    )
    rotate.add_argument(
        "--file", type=Path, metavar="FILE", help="with --passphrase: the key file of an owner or renter"
    )
    rotate.add_argument("--passphrase-file", type=Path, metavar="FILE", help="file with the passphrase, mode 0600")
    rotate.add_argument("--new-passphrase-file", type=Path, metavar="FILE", help="with --passphrase: the new one")
    rotate.add_argument(
        "--drop-old", action="store_true", help="with --token-secret: tokens given so far are worth nothing at once"
    )
    add_config_options(rotate)
    rotate.set_defaults(handler=run_rotate)
    revoke = verbs.add_parser(
        "revoke", help="as its owner, take a node off the ledger for good: its key is lost or stolen"
    )
    revoke.add_argument("node", metavar="NODE_KEY", help="public key of the node, 64 hex digits")
    revoke.add_argument(
        "--owner-key", type=Path, metavar="FILE", help="the owner's key file (default: ~/.config/polarise)"
    )
    revoke.add_argument("--passphrase-file", type=Path, metavar="FILE", help="file with its passphrase, mode 0600")
    add_config_options(revoke)
    revoke.set_defaults(handler=run_revoke)


def run_rotate(args: argparse.Namespace) -> int:
    """Replace what the flags name."""
    if args.passphrase:
        return _rotate_passphrase(args)
    from config.schema import RoleName
    from neurons.base import startup
    from neurons.base.audit_spool import note_command
    from neurons.base.data_dir import DataDir
    from neurons.base.keys import node_key_path
    from polarise.keyfile import read_key_header

    role = RoleName(args.role)
    config = startup.load_settings(args, role)
    root = startup.data_dir_of(args, role, config)
    read_key_header(node_key_path(root))  # before a lock is made in a folder that is no node's
    with DataDir(root) as files:
        if args.token_secret:
            status = _rotate_token_secret(args, config, files)
            note_command(root, "key.rotate", {"object": "token-secret"})
            return status
        status = _rotate_subkeys(args, config, root)
        note_command(root, "key.rotate", {"object": ",".join(args.purpose or PURPOSES)[:128]})
        return status


def _rotate_passphrase(args: argparse.Namespace) -> int:
    from config.schema import RoleName
    from neurons.base import startup
    from neurons.base.audit_spool import note_command
    from neurons.base.keys import node_key_path
    from polarise.errors import ConfigError
    from polarise.keyfile import rewrite_key_file
    from utils.crypto import read_passphrase, read_secret_file

    path = args.file or node_key_path(startup.data_dir_of(args, RoleName(args.role)))
    old = read_passphrase(args.passphrase_file, os.environ)
    if args.new_passphrase_file is None and not sys.stdin.isatty():
        raise ConfigError("no new passphrase", origin="key rotate", allowed="--new-passphrase-file FILE (mode 0600)")
    new = (
        read_secret_file(args.new_passphrase_file)
        if args.new_passphrase_file is not None
        else read_passphrase(None, {}, confirm=True)
    )
    rewrite_key_file(path, old, new_passphrase=new)
    note_command(path.parent.parent, "key.rotate", {"object": "passphrase"})
    print(f"{path} is encrypted with the new passphrase; have the service read that one from now on.")
    print("Copies of the old file still open with the old one: remove them.")
    return 0


def _rotate_token_secret(args: argparse.Namespace, config: Config, files: DataDir) -> int:
    from neurons.base.tokens import rotate_token_secret
    from polarise.errors import ConfigError

    if config.security.secret_key is not None:
        raise ConfigError(
            "this node's token secret stands in its settings",
            key_path="security.secret_key",
            allowed="another secret there; or remove it, and the node makes one of its own",
        )
    expiry = config.security.token_expiry
    rotate_token_secret(files.token_secrets, int(time.time()), expiry, keep_old=not args.drop_old)
    print("a new secret signs bearer tokens from the next start on")
    print(
        "tokens given so far are void"
        if args.drop_old
        else f"tokens given so far are good until they expire ({expiry} s)"
    )
    return 0


def _rotate_subkeys(args: argparse.Namespace, config: Config, root: Path) -> int:
    from neurons.base.key_rotation import check_purposes, rotate
    from neurons.base.ledger_access import ledger_client
    from neurons.base.outbox import OUTBOX_FILE, Outbox
    from polarise.errors import ConfigError
    from polarise.signing import Purpose
    from utils.clock import SystemClock
    from utils.crypto import read_passphrase

    try:
        purposes = [Purpose(name) for name in args.purpose or PURPOSES]
    except ValueError as err:
        raise ConfigError(str(err), origin="--purpose", allowed=", ".join((*PURPOSES, "tls"))) from err
    check_purposes(purposes)
    client = ledger_client(config, root)
    rotated = rotate(
        root,
        read_passphrase(args.passphrase_file, os.environ),
        purposes,
        client,
        lambda identity: Outbox(root / OUTBOX_FILE, identity, client, SystemClock()),
    )
    status = _report(rotated)
    if Purpose.TLS in purposes and args.role == "miner":
        print("The registry entry names the old TLS key: `python main.py join` before the node starts.")
    return status


def _report(rotated: Rotated) -> int:
    if rotated.was_begun:
        print("an earlier rotation was not finished; nothing new was replaced")
    print("in use now: " + ", ".join(f"{purpose} {number}" for purpose, number in rotated.generations.items()))
    for path, reason in rotated.refused.items():
        print(f"the ledger refused {path}: {reason}", file=sys.stderr)
    if rotated.refused:
        print("a node that never joined is not known there: `python main.py join` publishes it", file=sys.stderr)
        return EXIT_WAITING
    if rotated.waiting:
        print(
            f"{len(rotated.waiting)} certificates wait for the ledger: until they are final the old subkeys are valid too. "
            "They go out when the node starts, or with `key rotate` again.",
            file=sys.stderr,
        )
        return EXIT_WAITING
    print("final on the ledger: nothing that the old subkeys sign from now on is accepted. Start the node again.")
    return 0


def run_revoke(args: argparse.Namespace) -> int:
    """Write the owner's word that a node's key is lost."""
    import re

    from config.schema import RoleName
    from neurons.base import startup
    from neurons.base.keys import load_identity, personal_key_path
    from neurons.base.ledger_access import ledger_client
    from neurons.base.ledger_post import post
    from polarise.block_follower import ShortMemory
    from polarise.errors import ConfigError
    from polarise.generations import revocation_path
    from polarise.keyfile import KeyKind
    from polarise.signing import KEY_PATTERN
    from polarise.transaction import SetValue
    from utils.crypto import read_passphrase

    if not re.fullmatch(KEY_PATTERN, args.node):
        raise ConfigError(f"{args.node[:80]!r} is no node key", origin="NODE_KEY", allowed="64 lower-case hex digits")
    config = startup.load_settings(args, RoleName.MINER)
    path = args.owner_key or personal_key_path(KeyKind.OWNER, os.environ)
    owner = load_identity(path, read_passphrase(args.passphrase_file, os.environ), kind=KeyKind.OWNER)
    op = SetValue(path=revocation_path(args.node), value={"owner": owner.public_key})
    height = post(ledger_client(config, ShortMemory()), owner, op)
    print(json.dumps({"node": args.node, "revoked": True, "height": height}))
    return 0
