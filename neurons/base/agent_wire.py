"""What miner and agent say to each other over the control socket: one JSON object per line, a request and its answer.

Rules:
- Both sides are this software on one machine; the socket's mode and the peer's user id decide who may speak.
- Requests and answers are strict models all the same, with a bound on each line.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from polarise.cosignature import WITNESSES_PATTERN, CosignatureRequest
from polarise.decode import WireModel
from polarise.signing import KEY_PATTERN, Certificate
from polarise.statement import SignedStatement
from polarise.stream import SYSTEM
from polarise.telemetry_client import STREAM_ID_PATTERN

SOCKET_NAME = "agent.sock"
REQUEST_BYTES_MAX = 4 * 1024 * 1024
ANSWER_BYTES_MAX = 8 * 1024 * 1024
EVENTS_MAX = 1024


def encode_message(message: WireModel) -> bytes:
    """Return one line; nothing here is hashed or signed, so it is written the fast way."""
    return message.model_dump_json(exclude_defaults=True).encode() + b"\n"


class Request(WireModel):
    """One call.

    Attributes:
        op: Which.
        stream: ``system`` or a lease's id.
        events: append: messages with kind and payload, and what else `polarise.ingress.Draft` has.
        renter_key: open: whose the stream will be.
        devices: open: UUIDs of the lease's GPUs.
        container_id: watch: the lease's container, whose first process has the host's process id ``pid``.
        first: read: sequence number of the first line; proof: of the line to prove; checkpoint: with it, prove consistency from that size.
        size: checkpoint: the tree the proof leads to; the newest signed one when it is left out.
        wait_ms: read: how long to wait for something new.
        witnesses: checkpoint, proof: with it, the note comes with its cosignature lines; which one, see
            `polarise.cosignature.WITNESSES_PATTERN`.
        caller_key: cosign: whose cosignatures these are.
        cosigned: cosign: the cosignatures.
    """

    op: Literal[
        "append", "open", "watch", "close", "list", "info", "read", "checkpoint", "proof", "epochs", "cosign", "metrics"
    ]
    stream: str = Field(default="system", pattern=STREAM_ID_PATTERN)
    events: tuple[dict[str, object], ...] = Field(default=(), max_length=EVENTS_MAX)
    renter_key: str | None = None
    devices: tuple[str, ...] = Field(default=(), max_length=64)
    container_id: str | None = None
    pid: int | None = Field(default=None, gt=0)
    first: int | None = Field(default=None, ge=0, lt=2**53)
    size: int | None = Field(default=None, ge=0, lt=2**53)
    wait_ms: int = Field(default=0, ge=0, le=10_000)
    witnesses: str | None = Field(default=None, pattern=WITNESSES_PATTERN)
    caller_key: str | None = Field(default=None, pattern=KEY_PATTERN)
    cosigned: CosignatureRequest | None = None


class Appended(WireModel):
    """What became of one event: its sequence number, or why it was refused."""

    seq: int | None = None
    refused: str | None = None


class Refusal(WireModel):
    """A call that failed; ``code`` is an ErrorCode."""

    code: str
    message: str
    hint: str = ""
    status: int = 400
    field: str | None = None


class CosignedBy(WireModel):
    """How far one validator cosigned a stream: tree size, and when by its own word."""

    validator_key: str
    size: int
    time_unix_s: int


class Answer(WireModel):
    """What a call returns; each fills in its own part.

    Attributes:
        refusal: Set when the call failed.
        appended: append: one per event.
        folder: open: what is mounted into the container.
        leases: list: ids of the open lease streams.
        renter_key: info: whose a lease's stream is; None for the system's.
        is_open: info, read: whether the stream goes on.
        size: info: durable lines.
        signed_size: info, checkpoint: lines under the newest checkpoint.
        certificate: info, read, checkpoint: the node's word for the log's key.
        first: read: sequence number of the first line.
        lines: read: the lines.
        frontier: read: complete subtrees before the first line, hex.
        note: read, checkpoint: the signed checkpoint.
        note_at_first: read: the checkpoint that was signed at exactly ``first``.
        consistency: checkpoint: hashes, hex.
        text: metrics: Prometheus text; proof: a C2SP proof file.
        cosigned: info: the newest cosignature of each validator.
        system: epochs: id of the node's own stream that goes on.
        epochs: epochs: what the node signed each time its own stream began anew.
    """

    refusal: Refusal | None = None
    appended: tuple[Appended, ...] = Field(default=(), max_length=EVENTS_MAX)
    folder: str | None = None
    leases: tuple[str, ...] = ()
    renter_key: str | None = None
    is_open: bool = False
    size: int = 0
    signed_size: int = 0
    certificate: Certificate | None = None
    first: int = 0
    lines: tuple[str, ...] = ()
    frontier: tuple[str, ...] = ()
    note: str | None = None
    note_at_first: str | None = None
    consistency: tuple[str, ...] = ()
    text: str = ""
    cosigned: tuple[CosignedBy, ...] = ()
    system: str = SYSTEM
    epochs: tuple[SignedStatement, ...] = ()
