"""The registry on the ledger: /registry/<node key> holds the node's own signed entry.

The rule of the ledger lets only the node write there; that the entry is signed by that node and certified by its owner
is checked here again, because nobody has to believe the ledger for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from polarise.decode import decode_model
from polarise.errors import AnswerInvalid, RequestRejected
from polarise.ledger_client import LedgerClient
from polarise.registry import MAX_ENTRY_BYTES, RegistryEntry, open_entry
from polarise.signing import SignatureInvalid
from polarise.statement import SignedStatement
from polarise.transaction import SetValue

FOLDER = "/registry"
ENTRIES_MAX = 100_000


def registration(statement: SignedStatement) -> SetValue:
    """Return the operation that puts a node's entry on the ledger."""
    return SetValue(path=f"{FOLDER}/{statement.signer}", value=statement.to_wire())


def withdrawal(node_key: str) -> SetValue:
    """Return the operation that takes a node off the market."""
    return SetValue(path=f"{FOLDER}/{node_key}", value=None)


def read_ledger_registry(
    client: LedgerClient, on_error: Callable[[str, Exception], None]
) -> dict[str, tuple[SignedStatement, RegistryEntry]]:
    """Read every entry; one that does not hold is reported with its node key and left out.

    Returns:
        Node key -> (signed statement, verified entry), in order of the node keys.

    Raises:
        AnswerInvalid: The ledger lists more than 100,000 names.
    """
    found: dict[str, tuple[SignedStatement, RegistryEntry]] = {}
    for count, (name, entry) in enumerate(client.children(FOLDER)):
        if count >= ENTRIES_MAX:
            raise AnswerInvalid(f"the ledger lists more than {ENTRIES_MAX} nodes")
        if entry is None:
            continue
        try:
            found[name] = open_value(name, entry.value)
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
