"""What validators cosigned of this node's streams: taken only when it is the caller's own, over what the log signed.

Rules:
- The caller's node key must have certified the key that cosigned; one validator counts once, whatever keys it has.
- The text is the log's: a cosignature over another log, another tree or a size never signed does not verify.
- A cosignature from the future is refused; it would keep the validator's true ones out.
"""

from __future__ import annotations

from neurons.agent.streams import Streams
from neurons.base.event_log import EventLog
from polarise.checkpoint import CosignatureVerifier, cosignature_time, parse_checkpoint
from polarise.cosignature import CosignatureRequest, SizedCosignature, witness_verifier
from polarise.errors import ErrorCode, RequestRejected
from polarise.notes import NoteInvalid, parse_note
from polarise.signing import SignatureInvalid
from tlog.cosignatures import Cosignature, Cosignatures
from utils.clock import Clock

AHEAD_SECONDS_MAX = 300


class Cosigned:
    """The cosigned checkpoints of all streams.

    Args:
        streams: The logs.
        kept: Where cosignatures are kept, by the stream's id.
        clock: Wall clock.
    """

    def __init__(self, streams: Streams, kept: Cosignatures, clock: Clock) -> None:
        self._streams = streams
        self._kept = kept
        self._clock = clock

    def take(self, stream_id: str, caller_key: str, request: CosignatureRequest) -> None:
        """Verify and keep what one validator cosigned, all or none.

        Raises:
            RequestRejected: NOT_FOUND (404), no such stream; BAD_SIGNATURE (422), not the caller's key, or not over this
                log; INVALID_FIELD (422), the log signed no such size, or the time is ahead of ours; STALE_CHECKPOINT
                (409), it goes back.
        """
        try:
            verifier = witness_verifier(request.certificate, caller_key)
        except SignatureInvalid as err:
            raise _refused(f"the witness key is not yours: {err}", "certificate") from err
        with self._streams.reading(stream_id) as log:
            taken = [_verified(log, verifier, cosignature) for cosignature in request.cosignatures]
        for cosignature in taken:
            self._check_time(cosignature.time_unix_s)
        self._kept.keep(stream_id, caller_key, taken)

    def with_lines(self, stream_id: str, note: bytes) -> bytes:
        """Return a checkpoint of a stream with the cosignature lines that are known for it."""
        lines = self._kept.lines(stream_id, _size(note))
        return note + "".join(lines).encode()

    def find(self, stream_id: str, log: EventLog, wanted: str, above: int = 0) -> bytes:
        """Return a cosigned checkpoint, with its lines.

        Args:
            stream_id: Which stream.
            log: Its log.
            wanted: How many witnesses, or `MOST`; see `tlog.cosignatures.Cosignatures.find`. With 0 it is the newest
                checkpoint, cosigned or not.
            above: Of the cosigned ones only those larger than this.

        Raises:
            RequestRejected: NOT_FOUND (404), there is none yet.
        """
        size = None if wanted == "0" else self._kept.find(stream_id, wanted, above)
        note = log.latest() if wanted == "0" else None if size is None else log.note_at(size)
        if note is None:
            raise RequestRejected(
                ErrorCode.NOT_FOUND,
                f"of more than {above} lines no checkpoint has {wanted} cosignatures here",
                hint="ask for fewer witnesses, or later: each validator cosigns once per epoch",
                field="witnesses",
                status=404,
            )
        return self.with_lines(stream_id, note)

    def by_validator(self, stream_id: str) -> dict[str, Cosignature]:
        """Return the newest cosignature of each validator, by its node key."""
        return self._kept.newest(stream_id)

    def _check_time(self, time_unix_s: int) -> None:
        ahead_seconds = time_unix_s - self._clock.wall_unix_ms() // 1000
        if ahead_seconds > AHEAD_SECONDS_MAX:
            raise RequestRejected(
                ErrorCode.INVALID_FIELD,
                f"the cosignature is {ahead_seconds} s ahead of this node's clock",
                hint="set your clock",
                field="cosignatures.line",
                status=422,
            )


def _verified(log: EventLog, verifier: CosignatureVerifier, sent: SizedCosignature) -> Cosignature:
    note = log.note_at(sent.size)
    if note is None:
        raise RequestRejected(
            ErrorCode.INVALID_FIELD,
            f"this log signed no checkpoint of size {sent.size}",
            hint="cosign a checkpoint as it was sent",
            field="cosignatures.size",
            status=422,
        )
    try:
        signature = sent.signature()
        if (signature.name, signature.key_id) != (verifier.name, verifier.key_id):
            raise NoteInvalid(f"the line is by {signature.name[:80]}, expected {verifier.name}")
        verifier.check(parse_note(note).text, signature.signature)
    except NoteInvalid as err:
        raise _refused(f"the cosignature does not hold: {err}", "cosignatures.line") from err
    return Cosignature(sent.size, signature.line(), cosignature_time(signature.signature))


def _size(note: bytes) -> int:
    return parse_checkpoint(parse_note(note).text).size


def _refused(message: str, field: str) -> RequestRejected:
    return RequestRejected(
        ErrorCode.BAD_SIGNATURE,
        message,
        hint="cosign with the witness key your node certified",
        field=field,
        status=422,
    )
