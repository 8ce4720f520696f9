"""`python main.py audit log`: print a node's audit log, verified from its first line; exit status 7 names the line that does not hold.

This module is stdlib only at import, so that building the parser needs no virtual environment.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from neurons.base.audit_log import Anchored, AuditLine, AuditLog
    from polarise.canonical import JsonValue

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

FOLLOW_SECONDS = 0.5
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_log_parser(subparsers: Subparsers) -> None:
    """Add ``log`` to ``audit``."""
    parser = subparsers.add_parser("log", help="who did what to a node: its audit log, verified offline")
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="folder of a miner or a validator")
    parser.add_argument("--follow", action="store_true", help="go on with what comes; Ctrl-C ends it")
    parser.add_argument(
        "--since",
        type=_instant,
        default=0,
        metavar="WHEN",
        help="only from then on: 90s, 15m, 2h, 7d, or 2026-05-01T12:00:00Z",
    )
    parser.add_argument("--key", default="", metavar="KEY", help="only what this key did: public key, or its beginning")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print")
    parser.add_argument(
        "--node-key", metavar="KEY", help="public key of the node (default: the one its key file names)"
    )
    parser.add_argument("--ledger", metavar="URL", help="compare with what the node put on this ledger")
    parser.add_argument("--genesis", type=Path, metavar="FILE", help="that ledger's genesis, from somebody you trust")
    parser.set_defaults(handler=run_log)


def run_log(args: argparse.Namespace) -> int:
    """Verify, print, and return 0; what does not hold is raised."""
    from neurons.base.audit_log import AuditLog

    node_key = args.node_key or _node_key(args.data_dir)
    anchors = _anchors(args, node_key)
    log = AuditLog(args.data_dir, node_key, anchors)
    try:
        _print_all(log, args)
        unsigned = log.finish()
        words = f"{log.size} lines verified" + (f", {unsigned} not signed yet" if unsigned else "")
        if anchors:
            newest = max(anchor.size for anchor in anchors)
            words += f", {newest} of them held against all {len(anchors)} anchors on the ledger"
        sys.stdout.flush()
        sys.stderr.write(words + "\n")
        while args.follow:
            time.sleep(FOLLOW_SECONDS)
            _print_all(log, args)
    except KeyboardInterrupt:
        if not args.follow:
            raise
    finally:
        log.close()
    return 0


def _print_all(log: AuditLog, args: argparse.Namespace) -> None:
    show: Callable[[AuditLine], str] = _text if args.output == "table" else lambda line: line.raw.decode()
    while lines := log.step():
        for line in lines:
            payload = _payload(line)
            is_recent = cast(int, line.fields["tstamp"]) >= args.since
            if is_recent and (not args.key or str(payload.get("actor", "")).startswith(args.key)):
                sys.stdout.write(show(line) + "\n")
                if args.follow:
                    sys.stdout.flush()


def _text(line: AuditLine) -> str:
    payload = _payload(line)
    when = datetime.fromtimestamp(cast(int, line.fields["tstamp"]) / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    who = " ".join(_short(word) for word in (payload.get("role"), str(payload.get("actor", ""))[:12]) if word)
    further = {"action", "actor", "role", "outcome", "object", "first_unix_ms", "last_unix_ms"}
    rest = [f"{name}={_short(value)}" for name, value in sorted(payload.items()) if name not in further]
    words = [_short(payload.get("action")), _short(payload.get("object", "")), *rest]
    kind, outcome = _short(line.fields["kind"]).removeprefix("audit."), _short(payload.get("outcome"))
    return f"{line.seq:>6}  {when}  {kind:<8} {outcome:<18} {who or '-':<23} {' '.join(filter(None, words))}"


def _short(value: JsonValue) -> str:
    # What is printed was decoded from a file that somebody else may have written: no control characters.
    text = json.dumps(value) if not isinstance(value, str) else json.dumps(value)[1:-1]
    return text if len(text) <= 64 else f"{text[:12]}…"


def _payload(line: AuditLine) -> dict[str, JsonValue]:
    payload = line.fields.get("payload")
    return dict(payload) if isinstance(payload, dict) else {}


def _anchors(args: argparse.Namespace, node_key: str) -> list[Anchored]:
    from neurons.base.anchor import anchor_path
    from polarise.errors import AnswerInvalid, ConfigError
    from polarise.frontier import Frontier
    from polarise.genesis import read_genesis
    from polarise.ledger_client import LedgerClient
    from polarise.merkle import leaf_hash
    from polarise.stream import AUDIT
    from polarise.transaction import decode_transaction

    if (args.ledger is None) is not (args.genesis is None):
        raise ConfigError(
            "a ledger's answer is worth nothing without its genesis",
            origin="audit log",
            allowed="both --ledger URL and --genesis FILE",
        )
    if args.ledger is None:
        return []
    client, path = LedgerClient(args.ledger, read_genesis(args.genesis)), anchor_path(node_key, AUDIT)
    block, tree, found = client.final_block().block, Frontier(), []
    for raw in client.leaves(0, block.size):
        tree.add(leaf_hash(raw))
        # A write is a leaf of its own: an anchor that was replaced by a later one is still there.
        if path.encode() in raw and (op := decode_transaction(raw).body.op).path == path and isinstance(op.value, dict):
            found.append(_anchored(op.value))
    if tree.root() != block.root:
        raise AnswerInvalid("these are not the leaves that the ledger signed")
    if not found:
        raise ConfigError(
            f"the node {node_key[:12]} put no audit log on this ledger",
            origin=args.ledger,
            allowed="a ledger that the node uses (ledger.genesis in its settings); the first anchor comes after a minute",
        )
    return found


def _anchored(value: Mapping[str, JsonValue]) -> Anchored:
    from neurons.base.audit_log import Anchored
    from polarise.errors import LogDamaged

    size, root = value.get("size"), value.get("root")
    if type(size) is not int or not isinstance(root, str):
        raise LogDamaged("an anchor on the ledger", f"names no size and root: {_short(dict(value))}")
    return Anchored(size, root)


def _node_key(data_dir: Path) -> str:
    from neurons.base.keys import node_key_path
    from polarise.keyfile import read_key_header

    return read_key_header(node_key_path(data_dir)).public_key


def _instant(text: str) -> int:
    if match := re.fullmatch(r"(\d{1,9})([smhd])", text):
        return round((time.time() - int(match[1]) * _UNITS[match[2]]) * 1000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is neither a time nor 90s, 15m, 2h or 7d") from err
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
