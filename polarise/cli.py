"""The console script ``polarise``: check signed statements and log proofs offline, with nothing but the file and a key.

The key is always named by whoever checks: a file that is held against the key it brings itself proves nothing of anybody.

Exit status: 0 it holds, 2 usage or unreadable file, 7 it does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from polarise import __version__
from polarise.answers import printable
from polarise.canonical import JsonValue
from polarise.cli_proof import is_proof, verify_proof
from polarise.decode import WireModel, decode_json, decode_model
from polarise.errors import RequestRejected, SubnetError
from polarise.receipt import STATEMENT_KIND, Receipt
from polarise.registry import open_entry
from polarise.signing import SignatureInvalid
from polarise.ssh_keys import fingerprint, parse_public_key
from polarise.statement import SignedStatement
from polarise.usage import STATEMENT_KIND as USAGE_KIND
from polarise.usage import Usage

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_NOT_VERIFIED = 7
MAX_FILE_BYTES = 1024 * 1024
PROOF = "proof"
KINDS = ("receipt", "usage", "registry", PROOF)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    args.kind, args.file = _kind_and_file(parser, args.words)
    if args.key is None:
        parser.error(
            "nothing was checked: name who must have signed with --key, the miner's node key (from its registry entry, or "
            "`renter ps -o json`) or the log's key (from the genesis, or a miner's GET /streams/ID/events)"
        )
    try:
        raw = _read(args.file)
        if args.kind == PROOF or (args.kind is None and is_proof(raw)):
            return _verify_proof(args, raw)
        statement = _statement(raw)
    except (OSError, RequestRejected) as err:
        sys.stderr.write(f"{args.file}: cannot be read as a signed statement: {err}\n")
        return EXIT_USAGE
    return _verify_statement(args, statement)


def _verify_statement(args: argparse.Namespace, statement: SignedStatement) -> int:
    try:
        if args.key != statement.signer:
            raise SignatureInvalid(f"signed by {statement.signer}, expected {args.key}")
        opening = {"receipt": _open_receipt, "usage": _open_usage}.get(args.kind or statement.kind, open_entry)
        body: WireModel = opening(statement)
    except (SubnetError, ValueError) as err:
        return _report(args, err)
    _print(args, statement, body)
    return EXIT_OK


def _verify_proof(args: argparse.Namespace, raw: bytes) -> int:
    try:
        shown = verify_proof(raw, args.key, args.witness, args.witnesses_min)
    except (SubnetError, ValueError) as err:
        return _report(args, err)
    if args.output == "json":
        print(json.dumps({"verified": True, **shown}, indent=2))
        return EXIT_OK
    print(f"the proof holds: leaf {shown['index']} of {shown['size']} in {printable(shown['origin'])}")
    _print_table(shown)
    return EXIT_OK


def _report(args: argparse.Namespace, err: Exception) -> int:
    sys.stderr.write(f"{args.file}: does not hold: {printable(err)}\n")
    return EXIT_NOT_VERIFIED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="polarise", description="Check what the Polarise market signed.")
    parser.add_argument("--version", action="version", version=f"polarise {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    verify = commands.add_parser(
        "verify",
        help="check a signed statement or a log proof, offline",
        usage="polarise verify [receipt|usage|registry|proof] FILE --key KEY [--witness VKEY]... [-o table|json]",
    )
    verify.add_argument(
        "words", nargs="+", metavar="[KIND] FILE", help="the file, behind what it should be; left out, the file says"
    )
    verify.add_argument(
        "--key", metavar="KEY", help="who must have signed: a node key, or a log's key (64 hex digits or vkey)"
    )
    verify.add_argument(
        "--witness", action="append", default=[], metavar="VKEY", help="a witness that must have cosigned a proof"
    )
    verify.add_argument(
        "--witnesses-min", type=int, metavar="N", help="how many of the witnesses suffice (default: all)"
    )
    verify.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print")
    return parser


def _kind_and_file(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[str | None, Path]:
    if len(words) == 1:
        return None, Path(words[0])
    if len(words) > 2 or words[0] not in KINDS:
        parser.error(f"expected one of {', '.join(KINDS)} and a file, got {' '.join(words)}")
    return words[0], Path(words[1])


def _read(path: Path) -> bytes:
    with path.open("rb") as handle:
        return handle.read(MAX_FILE_BYTES + 1)


def _statement(raw: bytes) -> SignedStatement:
    """Decode a statement, also out of the saved answer of POST /allocate or DELETE /terminate."""
    value = decode_json(raw, max_bytes=MAX_FILE_BYTES)
    for name in ("receipt", "usage"):
        if isinstance(value, dict) and isinstance(value.get(name), dict):
            raw = json.dumps(value[name]).encode()
    return decode_model(SignedStatement, raw, max_bytes=MAX_FILE_BYTES)


def _open_receipt(statement: SignedStatement) -> Receipt:
    receipt = statement.open(STATEMENT_KIND, Receipt, signer=statement.signer)
    if receipt.node_key != statement.signer:
        raise SignatureInvalid(f"the receipt of {receipt.node_key[:12]} is signed by {statement.signer[:12]}")
    if fingerprint(parse_public_key(receipt.host_key)) != receipt.host_key_fingerprint:
        raise SignatureInvalid("the fingerprint is another key's")
    return receipt


def _open_usage(statement: SignedStatement) -> Usage:
    usage = statement.open(USAGE_KIND, Usage, signer=statement.signer)
    if usage.node_key != statement.signer:
        raise SignatureInvalid(f"the usage of {usage.node_key[:12]} is signed by {statement.signer[:12]}")
    return usage


def _print(args: argparse.Namespace, statement: SignedStatement, body: WireModel) -> None:
    if args.output == "json":
        print(json.dumps({"verified": True, "signer": statement.signer, "body": body.to_wire()}, indent=2))
        return
    print(f"the {args.kind or statement.kind} holds; signed by {statement.signer}, given by --key")
    _print_table(body.to_wire())


def _print_table(shown: Mapping[str, JsonValue]) -> None:
    for name, value in shown.items():
        text = json.dumps(value) if isinstance(value, dict | list) else value
        print(f"  {name}: {printable(text)}")


if __name__ == "__main__":
    sys.exit(main())
