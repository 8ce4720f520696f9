"""The reader's half of telemetry: pull a stream, believe only what verifies, keep it, and ask for the next line.

Rules:
- The cursor is the acknowledgement: it moves with the lines it covers, and the next request names it.
- Lines that do not lead to the signed root are the carrier's doing or the log's. The log is asked which: a consistency
  proof from the last checkpoint to the new one clears it (`LOG_MISMATCH`), none convicts it (`LogFork`, both notes
  kept).
- What is `Unavailable` costs nobody anything; the next pull goes on where this one stood.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from polarise.checkpoint import open_checkpoint
from polarise.decode import decode_model
from polarise.errors import DeadlineExceeded, LogFork, ProofRejected, RejectReason, RequestRejected
from polarise.merkle import InvalidProof, verify_consistency
from polarise.signing import Certificate
from polarise.sse import Frame, FrameReader
from polarise.stream import StreamVerifier, Verified, log_verifier, origin_of
from polarise.telemetry_client import TelemetryClient
from telemetry.archive import Archive

BEGIN_SECONDS = 30.0

OnVerified = Callable[[Verified], None]


class Puller:
    """Follows the streams of one node.

    Args:
        client: The node's event routes.
        archive: Where verified lines are kept.
        on_verified: Called after lines were kept, for example to cosign the checkpoint.

    Attributes:
        certificates: Stream id -> the node's certificate of the key that signed what was pulled last.
    """

    def __init__(
        self, client: TelemetryClient, archive: Archive, on_verified: OnVerified = lambda _verified: None
    ) -> None:
        self._client = client
        self._archive = archive
        self._on_verified = on_verified
        self.certificates: dict[str, Certificate] = {}

    def pull(
        self,
        stream_id: str,
        *,
        follow: bool = False,
        idle_seconds: float = 60.0,
        seconds_max: float | None = None,
        lines_max: int | None = None,
    ) -> int:
        """Read a stream to its end, or as long as it goes on; return how many lines were kept.

        Args:
            stream_id: Which stream.
            follow: Whether to wait for more at its end.
            idle_seconds: Longest silence, and until the stream begins where that is less than its usual time.
            seconds_max: For all of it; when it is over, what was kept is kept, and the next pull goes on there.
            lines_max: No more is read once so many were kept; None for no bound.

        Raises:
            ProofRejected: BAD_SIGNATURE, LOG_GAP, LOG_MISMATCH or MALFORMED; what was verified before is kept.
            LogFork: The log signed two histories; both notes are kept.
            RequestRejected: The node refuses.
            Unavailable: It cannot answer now, or the time was over before anything was kept.
        """
        size = self._archive.cursor(origin_of(self._client.node_key, stream_id))[0].size
        pieces = self._client.stream(
            stream_id,
            size,
            follow=follow,
            idle_seconds=idle_seconds,
            timeout_seconds=min(idle_seconds, BEGIN_SECONDS),
            seconds_max=seconds_max,
        )
        kept = 0
        with pieces:
            try:
                for count in self._counts(pieces, stream_id):
                    kept += count
                    if lines_max is not None and kept >= lines_max:
                        break
            except DeadlineExceeded:
                if kept == 0:
                    raise
        return kept

    def _counts(self, pieces: Iterable[bytes], stream_id: str) -> Iterator[int]:
        """Take frame by frame; yields how many lines each one let us keep."""
        frontier, note = self._archive.cursor(origin_of(self._client.node_key, stream_id))
        reader, verifier = FrameReader(), None
        for piece in pieces:
            for frame in reader.feed(piece):
                if verifier is None:
                    certificate = _certificate(frame)
                    log = log_verifier(certificate, self._client.node_key, stream_id)
                    self.certificates[stream_id] = certificate
                    verifier = StreamVerifier(log, frontier, note)
                else:
                    yield self._take(verifier, frame, stream_id)

    def _take(self, verifier: StreamVerifier, frame: Frame, stream_id: str) -> int:
        if frame.event == "line":
            verifier.add_line(_seq(frame), frame.data)
            return 0
        if frame.event != "checkpoint":
            return 0  # a later version may send more
        origin, before = verifier.log.name, verifier.note
        try:
            verified = verifier.add_checkpoint(frame.data)
        except LogFork as err:
            self._archive.keep_fork(origin, err.first, err.second)
            raise
        except ProofRejected as err:
            if err.reason is RejectReason.LOG_MISMATCH and before is not None:
                self._convict(verifier, stream_id, before, frame.data)
            raise
        if verified.lines:
            self._archive.keep(origin, verified, verifier.frontier)
            self._on_verified(verified)
        return len(verified.lines)

    def _convict(self, verifier: StreamVerifier, stream_id: str, first: bytes, second: bytes) -> None:
        """Ask the log whether its own two checkpoints fit together; return when they do."""
        old = open_checkpoint(first, verifier.log).checkpoint
        new = open_checkpoint(second, verifier.log).checkpoint
        try:
            answer = self._client.checkpoint(stream_id, old.size, new.size)
            proof = [bytes.fromhex(text) for text in answer.consistency]
            verify_consistency(old.size, old.root, new.size, new.root, proof)
        except (InvalidProof, RequestRejected, ValueError) as err:
            self._archive.keep_fork(verifier.log.name, first, second)
            raise LogFork(
                f"{verifier.log.name} does not go on from what it signed: {err}", first=first, second=second
            ) from err


def _certificate(frame: Frame) -> Certificate:
    if frame.event != "certificate":
        raise ProofRejected(RejectReason.MALFORMED, "a stream begins with its certificate", got=frame.event[:40])
    try:
        return decode_model(Certificate, frame.data)
    except RequestRejected as err:
        raise ProofRejected(RejectReason.MALFORMED, f"the certificate is none: {err}") from err


def _seq(frame: Frame) -> int:
    if not frame.id.isascii() or not frame.id.isdigit() or len(frame.id) > 15:
        raise ProofRejected(RejectReason.MALFORMED, "a line has no sequence number", got=frame.id[:40])
    return int(frame.id)
