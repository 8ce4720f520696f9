"""A log that begins anew: after a restore a node's own stream lacks lines it signed, so a further one begins beside it.

Rules:
- Only the node opens a log epoch, by a statement: it signs which stream went before, and the last checkpoint that is left of it.
- That checkpoint is the old stream's own: whoever kept its lines can say whether they lead there. Where they do not, it is a fork.
- Nothing that was signed, cosigned or anchored before is undone: the old stream's notes are as good as ever.
- Log epochs are numbered upwards. A node that lost its disk names no checkpoint, and a number no one has seen.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from polarise.checkpoint import SignedCheckpoint, open_checkpoint
from polarise.decode import WireModel
from polarise.errors import ProofRejected, RejectReason
from polarise.notes import MAX_NOTE_BYTES, NoteInvalid
from polarise.signing import KEY_PATTERN, Certificate, SignatureInvalid
from polarise.statement import SignedStatement
from polarise.stream import LOG_EPOCH_MAX, SYSTEM_PATTERN, log_epoch_of, log_verifier

STATEMENT_KIND = "log_epoch"
KIND = "stream.epoch"  # of the first line of the new stream


class LogEpoch(WireModel):
    """What a node signs when its own stream begins anew.

    Attributes:
        node_key: The node.
        log_epoch: Number of the new stream, from 1 on.
        previous: Id of the stream before.
        last: The newest checkpoint of that stream that the node still has, as signed then; None when nothing is left.
        log_certificate: The node's word for the key that signed it.
        anchored_size: Lines of that stream by its newest anchor on the ledger; None when there is none, or the ledger was away.
        reason: Why.
        created_unix_ms: When.
    """

    node_key: str = Field(pattern=KEY_PATTERN)
    log_epoch: int = Field(ge=1, le=LOG_EPOCH_MAX)
    previous: str = Field(pattern=f"^{SYSTEM_PATTERN}$")
    last: str | None = Field(max_length=MAX_NOTE_BYTES)
    log_certificate: Certificate
    anchored_size: int | None = Field(ge=0, lt=2**53)
    reason: Literal["restore"]
    created_unix_ms: int = Field(ge=0, lt=2**53)

    def last_checkpoint(self) -> SignedCheckpoint | None:
        """Return the checkpoint it names, verified.

        Raises:
            ProofRejected: BAD_SIGNATURE, it is not the old stream's.
        """
        if self.last is None:
            return None
        try:
            return open_checkpoint(self.last.encode(), log_verifier(self.log_certificate, self.node_key, self.previous))
        except NoteInvalid as err:
            raise ProofRejected(RejectReason.BAD_SIGNATURE, f"the last checkpoint does not hold: {err}") from err


class LogEpochsAnswer(WireModel):
    """GET /streams/system/epochs: what the node signed each time its own stream began anew, oldest first."""

    status: str = "success"
    epochs: tuple[SignedStatement, ...] = Field(max_length=LOG_EPOCH_MAX)


def open_log_epoch(statement: SignedStatement, node_key: str) -> LogEpoch:
    """Verify that a node began a log epoch.

    Raises:
        ProofRejected: BAD_SIGNATURE, it did not sign this, or the numbers go back.
    """
    try:
        body = statement.open(STATEMENT_KIND, LogEpoch, signer=node_key)
    except SignatureInvalid as err:
        raise ProofRejected(RejectReason.BAD_SIGNATURE, f"the log epoch is not the node's word: {err}") from err
    if body.node_key != node_key or log_epoch_of(body.previous) >= body.log_epoch:
        raise ProofRejected(
            RejectReason.BAD_SIGNATURE, "the log epoch does not follow on", got=body.previous, expected=body.log_epoch
        )
    return body
