"""Reads each miner's own log: every line under a signed checkpoint, none missing, none changed afterwards.

Rules:
- The system stream is pulled from where the last epoch stopped, within bounds of time and lines.
- A log that signed two histories is a fork: both notes are the proof, and no score survives it.
- A gap or a mismatch costs the telemetry part; a log that stands still says that nobody watches the machine.
- A miner that signed that its log began anew is followed there (`log_epochs`).
- What was read to the end without fault is cosigned; a fork that shows only there is a fork all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from neurons.validator.cosigning import Cosigner
from neurons.validator.log_epochs import follow_log_epoch
from polarise.answers import printable
from polarise.checkpoint import parse_checkpoint
from polarise.errors import ErrorCode, LogFork, ProofRejected, RejectReason, RequestRejected, Unavailable
from polarise.evidence import TelemetryEvidence, VerdictRecord
from polarise.generations import Generations
from polarise.notes import parse_note
from polarise.registry import RegistryEntry
from polarise.signing import Certificate
from polarise.stream import log_verifier, origin_of, system_stream, system_stream_of
from polarise.telemetry_client import TelemetryClient
from telemetry.archive import Archive
from telemetry.puller import Puller

logger = logging.getLogger(__name__)

IDLE_SECONDS = 10.0
# A log that is longer goes on in the next epoch; one that drips must not hold up the epoch of all others.
PULL_SECONDS = 20.0
LINES_MAX = 50_000

ClientFactory = Callable[[RegistryEntry], TelemetryClient]


class TelemetryReader:
    """Reads the system streams of miners.

    Args:
        archive: Where verified lines and cursors are kept.
        clients: Registry entry -> client.
        is_pace_judged: Whether a log without a new line since the last look counts as standing still.
        cosigner: Cosigns what was read; None to leave that out.
        generations: Which subkeys of miners were replaced.
    """

    def __init__(
        self,
        archive: Archive,
        clients: ClientFactory,
        *,
        is_pace_judged: bool,
        cosigner: Cosigner | None = None,
        generations: Generations | None = None,
    ) -> None:
        self._archive = archive
        self._clients = clients
        self._is_pace_judged = is_pace_judged
        self._cosigner = cosigner
        self._generations = generations or Generations()

    def read(self, entry: RegistryEntry) -> TelemetryEvidence:
        """Pull what is new and say what the log is worth."""
        stream_id = system_stream(self._archive.log_epoch(entry.node_key))
        puller: Puller | None = None
        new_lines, verdict, fork = 0, VerdictRecord(), None
        try:
            client = self._clients(entry)
            puller = Puller(client, self._archive)
            stream_id, new_lines = self._pull(client, puller, stream_id)
            self._cosign(client, puller, stream_id)
            if new_lines == 0:
                verdict = self._without_lines(origin_of(entry.node_key, stream_id))
        except LogFork as err:
            fork = (err.first.decode("utf-8", "replace"), err.second.decode("utf-8", "replace"))
            # Where it began anew, the fork may be of a stream before.
            stream_id = system_stream_of(parse_checkpoint(parse_note(err.first).text).origin, entry.node_key)
            verdict = VerdictRecord(reason=RejectReason.LOG_FORK, message=printable(err, 400))
        except ProofRejected as err:
            verdict = VerdictRecord(
                reason=err.reason,
                message=printable(err.message, 400),
                got=None if err.got is None else str(err.got)[:200],
                expected=None if err.expected is None else str(err.expected)[:200],
            )
        except (RequestRejected, Unavailable, ValueError) as err:
            verdict = VerdictRecord(
                reason=RejectReason.MISSING, message=f"the log cannot be read: {printable(err)}"[:400]
            )
        certificate = puller.certificates.get(stream_id) if puller else None
        return self._evidence(origin_of(entry.node_key, stream_id), new_lines, certificate, verdict, fork)

    def _pull(self, client: TelemetryClient, puller: Puller, stream_id: str) -> tuple[str, int]:
        """Read what is new of a miner's own stream, or of the one that began anew behind it; return which, and how much."""
        try:
            new_lines = self._pull_one(puller, stream_id)
            if new_lines or not self._follow(client, puller):
                return stream_id, new_lines
        except RequestRejected as err:
            # It is shorter than what we hold, or not there at all.
            lacks_lines = err.code in {ErrorCode.INVALID_FIELD, ErrorCode.NOT_FOUND}
            if not lacks_lines or not self._follow(client, puller):
                raise
        stream_id = system_stream(self._archive.log_epoch(client.node_key))
        return stream_id, self._pull_one(puller, stream_id)

    def _follow(self, client: TelemetryClient, puller: Puller) -> bool:
        return follow_log_epoch(client, self._archive, puller.certificates, self._generations)

    @staticmethod
    def _pull_one(puller: Puller, stream_id: str) -> int:
        return puller.pull(stream_id, idle_seconds=IDLE_SECONDS, seconds_max=PULL_SECONDS, lines_max=LINES_MAX)

    def _cosign(self, client: TelemetryClient, puller: Puller, stream_id: str) -> None:
        certificate = puller.certificates.get(stream_id)
        if self._cosigner is not None and certificate is not None:
            self._cosigner.cosign_log(client, log_verifier(certificate, client.node_key, stream_id), self._archive)

    def _without_lines(self, origin: str) -> VerdictRecord:
        if self._archive.cursor(origin)[0].size == 0:
            return VerdictRecord(reason=RejectReason.NOT_MEASURED, message="the log is empty yet")
        if self._is_pace_judged:
            return VerdictRecord(reason=RejectReason.LOG_GAP, message="the log stands still")
        return VerdictRecord()

    def _evidence(
        self,
        origin: str,
        new_lines: int,
        certificate: Certificate | None,
        verdict: VerdictRecord,
        fork: tuple[str, str] | None,
    ) -> TelemetryEvidence:
        frontier, note = self._archive.cursor(origin)
        evidence = TelemetryEvidence(
            origin=origin,
            size=frontier.size,
            new_lines=new_lines,
            certificate=certificate,
            checkpoint=note.decode("utf-8", "replace") if note else None,
            fork=fork,
            verdict=verdict,
        )
        fields = {"origin": origin, "size": evidence.size, "new_lines": new_lines}
        if verdict.reason is None:
            logger.info("telemetry verified", extra=fields)
        else:
            logger.warning(
                "telemetry rejected", extra={**fields, "reason": str(verdict.reason), "detail": verdict.message}
            )
        return evidence
