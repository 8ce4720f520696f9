"""The console script ``polarise``: check signed statements offline, with nothing but the file and a key.

Exit status: 0 it holds, 2 usage or unreadable file, 7 it does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from polarise import __version__
from polarise.answers import printable
from polarise.decode import WireModel, decode_json, decode_model
from polarise.errors import RequestRejected, SubnetError
from polarise.receipt import STATEMENT_KIND, Receipt
from polarise.registry import open_entry
from polarise.signing import SignatureInvalid
from polarise.ssh_keys import fingerprint, parse_public_key
from polarise.statement import SignedStatement

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_NOT_VERIFIED = 7
MAX_FILE_BYTES = 1024 * 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args = _parser().parse_args(argv)
    try:
        statement = _read(args.file)
    except (OSError, RequestRejected) as err:
        sys.stderr.write(f"{args.file}: cannot be read as a signed statement: {err}\n")
        return EXIT_USAGE
    try:
        if args.key is not None and args.key != statement.signer:
            raise SignatureInvalid(f"signed by {statement.signer}, expected {args.key}")
        body: WireModel = _open_receipt(statement) if args.kind == "receipt" else open_entry(statement)
    except (SubnetError, ValueError) as err:
        sys.stderr.write(f"{args.file}: does not hold: {printable(err)}\n")
        return EXIT_NOT_VERIFIED
    _print(args, statement, body)
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="polarise", description="Check what the Polarise market signed.")
    parser.add_argument("--version", action="version", version=f"polarise {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    verify = commands.add_parser("verify", help="check a signed statement, offline")
    verify.add_argument("kind", choices=("receipt", "registry"), help="what the file should be")
    verify.add_argument(
        "file", type=Path, metavar="FILE", help="the statement, or an answer that holds it as `receipt`"
    )
    verify.add_argument("--key", metavar="HEX", help="the node key that must have signed, 64 hex digits")
    verify.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print")
    return parser


def _read(path: Path) -> SignedStatement:
    """Read a statement, also out of the saved answer of POST /allocate."""
    with path.open("rb") as handle:
        raw = handle.read(MAX_FILE_BYTES + 1)
    value = decode_json(raw, max_bytes=MAX_FILE_BYTES)
    if isinstance(value, dict) and isinstance(value.get("receipt"), dict):
        raw = json.dumps(value["receipt"]).encode()
    return decode_model(SignedStatement, raw, max_bytes=MAX_FILE_BYTES)


def _open_receipt(statement: SignedStatement) -> Receipt:
    receipt = statement.open(STATEMENT_KIND, Receipt, signer=statement.signer)
    if receipt.node_key != statement.signer:
        raise SignatureInvalid(f"the receipt of {receipt.node_key[:12]} is signed by {statement.signer[:12]}")
    if fingerprint(parse_public_key(receipt.host_key)) != receipt.host_key_fingerprint:
        raise SignatureInvalid("the fingerprint is another key's")
    return receipt


def _print(args: argparse.Namespace, statement: SignedStatement, body: WireModel) -> None:
    trust = "given by --key" if args.key else "not compared: only the file says that this is the node's key"
    if args.output == "json":
        shown = {"verified": True, "signer": statement.signer, "signer_is_given": args.key is not None}
        print(json.dumps({**shown, "body": body.to_wire()}, indent=2))
        return
    print(f"the {args.kind} holds; signed by {statement.signer} ({trust})")
    for name, value in body.to_wire().items():
        text = json.dumps(value) if isinstance(value, dict | list) else value
        print(f"  {name}: {printable(text)}")


if __name__ == "__main__":
    sys.exit(main())
