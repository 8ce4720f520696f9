"""What each of the validator's routes says of itself for the OpenAPI document; a test holds it against `access_table`."""

from __future__ import annotations

from neurons.base.openapi import api_document
from neurons.base.operation import (
    COMMON_OPERATIONS,
    HTML,
    TEXT,
    Answer,
    Operation,
    OperationTable,
    in_path,
    number,
    text,
)
from neurons.validator.access_table import VALIDATOR_ACCESS
from neurons.validator.http_server import EPOCH_MAX, OPENINGS_HEADER
from polarise import validator_messages as messages
from polarise.canonical import JsonValue
from polarise.errors import ErrorCode
from polarise.evidence import EvidenceBundle
from polarise.signing import KEY_PATTERN

_LIMIT = number("limit", "Entries of a page.", 1, messages.PAGE_MAX)
_AFTER = text("after", "The `next` of the page before.", rf"^$|{KEY_PATTERN}")
_GONE = {404: (ErrorCode.NOT_FOUND,)}
_NOTE_TYPE = f"{TEXT}; charset=utf-8"

_FOUND: OperationTable = {
    ("GET", "/"): Operation(
        "Show miners, scores and epochs to people", Answer("A page without any script", media_type=HTML)
    ),
    ("GET", "/scores"): Operation(
        "List scores, by miner",
        Answer("The newest score of each miner, or those of one epoch", messages.ScoresAnswer),
        parameters=(number("epoch", "Of this epoch only.", 0, EPOCH_MAX), _AFTER, _LIMIT),
    ),
    ("GET", "/miners"): Operation(
        "List the miners that are or were registered",
        Answer("By miner key", messages.MinersAnswer),
        parameters=(_AFTER, _LIMIT),
    ),
    ("GET", "/epochs"): Operation(
        "List epochs, newest first",
        Answer("The opening key stands in finished ones", messages.EpochsAnswer),
        parameters=(number("before", "The `next` of the page before.", 0, EPOCH_MAX), _LIMIT),
    ),
    ("GET", "/evidence/<name>"): Operation(
        "Return what a score rests on",
        Answer(
            "The exact bytes of the bundle, which its name is the hash of",
            EvidenceBundle,
            headers={
                OPENINGS_HEADER: "`present`, `pruned` or `none`",
                "ETag": "Changes only with the openings",
                "Cache-Control": "A bundle is immutable",
            },
        ),
        parameters=(in_path("name", "Hash of the bundle, as a score names it.", KEY_PATTERN),),
        other_answers=(Answer("`If-None-Match` names what is there", media_type=None, status=304),),
        refusals={**_GONE, 409: (ErrorCode.CONFLICT,)},
    ),
    ("GET", "/status"): Operation(
        "Say who this validator is and how far it has come", Answer("Its word", messages.ValidatorStatus)
    ),
}
_WITNESS: OperationTable = {
    ("POST", "/witness/add-checkpoint"): Operation(
        "Ask for a cosignature",
        Answer("The cosignature line", media_type=_NOTE_TYPE),
        "The log's own signature is the only authentication; statuses are those of c2sp.org/tlog-witness.",
        text_body="`old`, the consistency proof and the signed note, as c2sp.org/tlog-witness writes them.",
        other_answers=(Answer("The size to start from, and nothing else", media_type="text/x.tlog.size", status=409),),
        refusals={
            400: (ErrorCode.INVALID_FIELD,),
            403: (ErrorCode.BAD_SIGNATURE,),
            404: (ErrorCode.NOT_FOUND,),
            422: (ErrorCode.FORKED_CHECKPOINT,),
        },
    ),
    ("GET", "/witness"): Operation(
        "List what was cosigned, and with which key",
        Answer("By the name of the log", messages.WitnessAnswer),
        parameters=(_AFTER,),
    ),
    ("GET", "/witness/<name>"): Operation(
        "Return the newest cosigned checkpoint of one log",
        Answer("A signed note", media_type=_NOTE_TYPE),
        parameters=(in_path("name", "SHA-256 of the log's origin.", KEY_PATTERN),),
        refusals=_GONE,
    ),
}
VALIDATOR_OPERATIONS: OperationTable = {**COMMON_OPERATIONS, **_FOUND, **_WITNESS}


def validator_document() -> dict[str, JsonValue]:
    """Return the OpenAPI document of a validator."""
    return api_document(
        "Polarise validator",
        "Shows what it found about the miners, the evidence for it, and what it cosigned.",
        VALIDATOR_ACCESS,
        VALIDATOR_OPERATIONS,
    )
