"""What each of the ledger's routes says of itself for the OpenAPI document; a test holds it against `access_table`."""

from __future__ import annotations

from ledger.views import LIST_MAX, Concern
from neurons.base.openapi import api_document
from neurons.base.operation import (
    COMMON_OPERATIONS,
    EVENTS,
    TEXT,
    Answer,
    Operation,
    OperationTable,
    Parameter,
    in_path,
    number,
    text,
)
from neurons.ledger.access_table import LEDGER_ACCESS
from neurons.ledger.query import PLACE_MAX
from polarise import ledger_messages as messages
from polarise.canonical import JsonValue
from polarise.errors import ErrorCode
from polarise.genesis import Genesis
from polarise.state_messages import StateAnswer, SubtreeAnswer
from polarise.transaction import HASH_PATTERN, PATH_PATTERN, Transaction

_NOTE_TYPE = f"{TEXT}; charset=utf-8"
_PATH = text("path", "Path on the ledger.", PATH_PATTERN, is_required=True)
_CONCERN = Parameter(
    "concern",
    "How settled a value must be; the wish of its writer counts when it is left out.",
    {"type": "string", "enum": [str(concern) for concern in Concern]},
)
_GONE = {404: (ErrorCode.NOT_FOUND,)}


def _size(name: str, description: str, *, is_required: bool = False) -> Parameter:
    return Parameter(
        name, description, {"type": "integer", "minimum": 0, "maximum": PLACE_MAX}, is_required=is_required
    )


_WRITING: OperationTable = {
    ("POST", "/submit"): Operation(
        "Hand in a signed transaction",
        Answer("It is on the ledger's disk; the same bytes again get the same answer", messages.SubmitAnswer),
        "The body is the transaction's exact bytes, canonical JSON (RFC 8785); they are its authentication.",
        body=Transaction,
        refusals={
            403: (ErrorCode.BAD_SIGNATURE, ErrorCode.KEY_REFUSED, ErrorCode.RULE_REFUSED),
            409: (
                ErrorCode.CLOCK_SKEW,
                ErrorCode.CONFLICT,
                ErrorCode.NO_CAPACITY,
                ErrorCode.NONCE_GAP,
                ErrorCode.NONCE_REUSED,
                ErrorCode.WRONG_NET,
            ),
            422: (ErrorCode.NOT_SUPPORTED,),
        },
    ),
    ("GET", "/tx/<name>"): Operation(
        "Say how far a transaction has come",
        Answer("With its exact text", messages.TransactionAnswer),
        parameters=(in_path("name", "Leaf hash of the transaction.", HASH_PATTERN),),
        refusals={400: (ErrorCode.INVALID_FIELD,), **_GONE},
    ),
}
_VALUES: OperationTable = {
    ("GET", "/get"): Operation(
        "Return the value on a path, without proof",
        Answer("The ledger's word", messages.GetAnswer),
        parameters=(_PATH, _CONCERN),
        refusals=_GONE,
    ),
    ("GET", "/list"): Operation(
        "List the names below a path, without proof",
        Answer("A page, in order of the names", messages.ListAnswer),
        parameters=(
            _PATH,
            _CONCERN,
            text("after", "The `next` of the page before."),
            number("limit", "Entries of a page.", 1, LIST_MAX),
        ),
    ),
    ("GET", "/state"): Operation(
        "Prove what stands on a path, or that nothing does",
        Answer("The value, with its way to the state root of a block", StateAnswer),
        parameters=(_PATH, _size("height", "In the state of this block; of the newest when it is left out.")),
        refusals=_GONE,
    ),
    ("GET", "/state/values"): Operation(
        "Prove all that stands on a path and below it",
        Answer("A page of values, with the way of the path", SubtreeAnswer),
        parameters=(
            _PATH,
            _size("height", "In the state of this block; all pages are of one."),
            text("after", "The `next` of the page before."),
        ),
        refusals=_GONE,
    ),
}
_LOG: OperationTable = {
    ("GET", "/prove"): Operation(
        "Prove that a transaction was taken",
        Answer("A file that `polarise verify` reads (c2sp.org/tlog-proof)", media_type=_NOTE_TYPE),
        "One of the two parameters is needed.",
        parameters=(
            text("hash", "Which transaction.", HASH_PATTERN),
            text("path", "The one that wrote what stands there.", PATH_PATTERN),
        ),
        refusals=_GONE,
    ),
    ("GET", "/checkpoint"): Operation(
        "Return the newest block", Answer("A signed note (c2sp.org/tlog-checkpoint)", media_type=_NOTE_TYPE)
    ),
    ("GET", "/consistency"): Operation(
        "Prove that the first leaves are still the ones they were",
        Answer("Hashes of RFC 9162", messages.ConsistencyAnswer),
        parameters=(
            _size("old", "Leaves of the smaller tree.", is_required=True),
            _size("new", "Leaves of the larger tree; all of the newest block when it is left out."),
        ),
    ),
    ("GET", "/frontier"): Operation(
        "Return the right edge of the tree of some first leaves",
        Answer("Roots of its complete subtrees", messages.FrontierAnswer),
        parameters=(_size("size", "How many leaves; all of the newest block when it is left out."),),
    ),
    ("GET", "/blocks"): Operation(
        "Read blocks",
        Answer("Signed notes, by height", messages.BlocksAnswer),
        parameters=(_size("from", "First height."), number("limit", "Entries of a page.", 1, LIST_MAX)),
    ),
    ("GET", "/leaves"): Operation(
        "Read leaves",
        Answer("Exact texts of transactions", messages.LeavesAnswer),
        parameters=(_size("from", "First leaf."), number("limit", "Entries of a page.", 1, messages.LEAVES_MAX)),
    ),
    ("GET", "/subscribe"): Operation(
        "Follow the blocks",
        Answer(
            "Each block behind the leaves that it covers first",
            media_type=EVENTS,
            events={"leaf": messages.FeedLeaf, "block": messages.FeedBlock},
        ),
        parameters=(_size("from", "First height, at most the next one; the next block when it is left out."),),
    ),
    ("GET", "/tile/<path:tile>"): Operation(
        "Return a tile of the log",
        Answer(
            "The hashes or entries of c2sp.org/tlog-tiles",
            media_type="application/octet-stream",
            is_binary=True,
            headers={"Cache-Control": "A tile is immutable"},
        ),
        parameters=(in_path("tile", "Path of the tile, with its slashes.", r"^[0-9a-z./]{1,64}$"),),
        refusals=_GONE,
    ),
}
LEDGER_OPERATIONS: OperationTable = {
    **COMMON_OPERATIONS,
    **_WRITING,
    **_VALUES,
    **_LOG,
    ("GET", "/genesis"): Operation(
        "Return the genesis", Answer("What everything signed on this ledger names", Genesis)
    ),
    ("GET", "/status"): Operation(
        "Say who the ledger is and how far it has come", Answer("Its word", messages.LedgerStatus)
    ),
}


def ledger_document() -> dict[str, JsonValue]:
    """Return the OpenAPI document of a ledger."""
    return api_document(
        "Polarise ledger",
        "Takes signed transactions, makes blocks, and proves what stands on the ledger.",
        LEDGER_ACCESS,
        LEDGER_OPERATIONS,
    )
