"""The registry on the ledger: /registry/<node key> holds the node's own signed entry.

The rule of the ledger lets only the node write there; that the entry is signed by that node and certified by its owner
is checked here again, because nobody has to believe the ledger for it. That no entry was left out or is an old one is
shown by the state root of the block it was read under.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from polarise.block import SignedBlock
from polarise.decode import decode_json, decode_model
from polarise.errors import RequestRejected
from polarise.ledger_client import LedgerClient
from polarise.registry import MAX_ENTRY_BYTES, RegistryEntry, open_entry
from polarise.signing import SignatureInvalid
from polarise.statement import SignedStatement
from polarise.transaction import SetValue

FOLDER = "/registry"


def registration(statement: SignedStatement) -> SetValue:
    """Return the operation that puts a node's entry on the ledger."""
    return SetValue(path=f"{FOLDER}/{statement.signer}", value=statement.to_wire())


def withdrawal(node_key: str) -> SetValue:
    """Return the operation that takes a node off the market."""
    return SetValue(path=f"{FOLDER}/{node_key}", value=None)


def read_ledger_registry(
    client: LedgerClient, on_error: Callable[[str, Exception], None], block: SignedBlock | None = None
) -> dict[str, tuple[SignedStatement, RegistryEntry]]:
    """Read every entry of a verified block, of the newest final one by default; what does not hold is reported and left out.

    Returns:
        Node key -> (signed statement, verified entry), in order of the node keys.

    Raises:
        StateNotProved: These are not all entries, or not the ones that stand there.
        AnswerInvalid: The ledger gives no proof, or more than `LedgerClient.read_below` reads.
    """
    found: dict[str, tuple[SignedStatement, RegistryEntry]] = {}
    for path, text in client.read_below(FOLDER, block or client.final_block()).texts.items():
        name = path.removeprefix(f"{FOLDER}/")
        try:
            found[name] = open_value(name, decode_json(text, max_bytes=MAX_ENTRY_BYTES))
        except (RequestRejected, SignatureInvalid) as err:
            on_error(name, err)
    return found


def open_value(name: str, value: object) -> tuple[SignedStatement, RegistryEntry]:
    """Verify what stands under a node's name.

    Raises:
        RequestRejected: Not a statement.
        SignatureInvalid: A signature that does not hold, or another node's entry.
    """
    statement = decode_model(SignedStatement, json.dumps(value).encode(), max_bytes=MAX_ENTRY_BYTES)
    opened = open_entry(statement)
    if opened.node_key != name:
        raise SignatureInvalid(f"the entry of {opened.node_key[:12]} stands under {name[:12]}")
    return statement, opened
