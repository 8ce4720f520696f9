"""What the routes of `telemetry_routes` say of themselves for the OpenAPI document."""

from __future__ import annotations

from neurons.base.operation import EVENTS, TEXT, Answer, Operation, OperationTable, Parameter, in_path, number, text
from polarise.cosignature import WITNESSES_PATTERN, CosignatureRequest
from polarise.errors import ErrorCode
from polarise.log_epoch import LogEpochsAnswer
from polarise.messages import SuccessAnswer
from polarise.signing import Certificate
from polarise.telemetry_client import STREAM_ID_PATTERN, CheckpointAnswer, EventsAnswer

LINE_MAX = 10**15 - 1

_STREAM = in_path("stream_id", "`system`, `audit`, or the id of a lease.", STREAM_ID_PATTERN)
_WITNESSES = text(
    "witnesses", "The newest checkpoint that so many validators cosigned; `most`: that most did.", WITNESSES_PATTERN
)
_REFUSALS = {404: (ErrorCode.NOT_FOUND,)}


def _line(name: str, description: str) -> Parameter:
    return number(name, description, 0, LINE_MAX)


TELEMETRY_OPERATIONS: OperationTable = {
    ("GET", "/telemetry/stream"): Operation(
        "Follow a stream of events",
        Answer(
            "Lines, and the signed checkpoints that cover them",
            media_type=EVENTS,
            events={"certificate": Certificate, "line": None, "checkpoint": None},
        ),
        "The lines of a lease are for its renter and the owner, those of `system` for validators, auditors and the owner.",
        parameters=(
            text("stream", "Which stream; `system` when it is left out.", STREAM_ID_PATTERN),
            _line("from", "First line; it acknowledges everything before it. 0 when it is left out."),
            text("follow", "`0` ends at the newest line; anything else goes on."),
        ),
        refusals={**_REFUSALS, 429: (ErrorCode.TOO_MANY_REQUESTS,)},
    ),
    ("GET", "/streams/<stream_id>/events"): Operation(
        "Read one page of lines",
        Answer("The page, with a checkpoint that covers it", EventsAnswer),
        parameters=(_STREAM, _line("from", "First line; 0 when it is left out.")),
        refusals=_REFUSALS,
    ),
    ("GET", "/streams/<stream_id>/proof"): Operation(
        "Prove one line",
        Answer("A file that `polarise verify` reads (c2sp.org/tlog-proof)", media_type=TEXT),
        parameters=(_STREAM, _line("seq", "Which line; 0 when it is left out."), _WITNESSES),
        refusals=_REFUSALS,
    ),
    ("GET", "/streams/<stream_id>/checkpoint"): Operation(
        "Return a signed checkpoint of a stream",
        Answer("The checkpoint, with its cosignatures", CheckpointAnswer),
        parameters=(
            _STREAM,
            _line("old", "Ask for the proof of consistency from this size on."),
            _line("size", "Up to this size; up to the checkpoint's own when it is left out."),
            _WITNESSES,
        ),
        refusals=_REFUSALS,
    ),
    ("GET", "/streams/system/epochs"): Operation(
        "Say when the node's own stream began anew",
        Answer(
            "One statement of the node for each time, oldest first; each names the last checkpoint left of the stream before",
            LogEpochsAnswer,
        ),
    ),
    ("POST", "/streams/<stream_id>/cosignature"): Operation(
        "Hand back what a validator cosigned",
        Answer("It is kept and shown", SuccessAnswer),
        body=CosignatureRequest,
        parameters=(_STREAM,),
        refusals={
            **_REFUSALS,
            409: (ErrorCode.STALE_CHECKPOINT,),
            422: (ErrorCode.BAD_SIGNATURE, ErrorCode.INVALID_FIELD),
        },
    ),
}
