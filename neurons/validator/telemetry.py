"""Reads each miner's own log: every line under a signed checkpoint, none missing, none changed afterwards.

Rules:
- The system stream is pulled from where the last epoch stopped, within bounds of time and lines.
- A log that signed two histories is a fork: both notes are the proof, and no score survives it.
- A gap or a mismatch costs the telemetry part; a log that stands still says that nobody watches the machine.
- What was read to the end without fault is cosigned; a fork that shows only there is a fork all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from neurons.validator.cosigning import Cosigner
from polarise.answers import printable
from polarise.errors import LogFork, ProofRejected, RejectReason, RequestRejected, Unavailable
from polarise.evidence import TelemetryEvidence, VerdictRecord
from polarise.registry import RegistryEntry
from polarise.stream import SYSTEM, log_verifier, origin_of
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
    """

    def __init__(
        self, archive: Archive, clients: ClientFactory, *, is_pace_judged: bool, cosigner: Cosigner | None = None
    ) -> None:
        self._archive = archive
        self._clients = clients
        self._is_pace_judged = is_pace_judged
        self._cosigner = cosigner

    def read(self, entry: RegistryEntry) -> TelemetryEvidence:
        """Pull what is new and say what the log is worth."""
        origin = origin_of(entry.node_key, SYSTEM)
        puller: Puller | None = None
        new_lines, verdict, fork = 0, VerdictRecord(), None
        try:
            client = self._clients(entry)
            puller = Puller(client, self._archive)
            new_lines = puller.pull(SYSTEM, idle_seconds=IDLE_SECONDS, seconds_max=PULL_SECONDS, lines_max=LINES_MAX)
            self._cosign(client, puller)
            if new_lines == 0:
                verdict = self._without_lines(origin)
        except LogFork as err:
            fork = (err.first.decode("utf-8", "replace"), err.second.decode("utf-8", "replace"))
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
        return self._evidence(origin, new_lines, puller, verdict, fork)

    def _cosign(self, client: TelemetryClient, puller: Puller) -> None:
        certificate = puller.certificates.get(SYSTEM)
        if self._cosigner is not None and certificate is not None:
            self._cosigner.cosign_log(client, log_verifier(certificate, client.node_key, SYSTEM), self._archive)

    def _without_lines(self, origin: str) -> VerdictRecord:
        if self._archive.cursor(origin)[0].size == 0:
            return VerdictRecord(reason=RejectReason.NOT_MEASURED, message="the log is empty yet")
        if self._is_pace_judged:
            return VerdictRecord(reason=RejectReason.LOG_GAP, message="the log stands still")
        return VerdictRecord()

    def _evidence(
        self, origin: str, new_lines: int, puller: Puller | None, verdict: VerdictRecord, fork: tuple[str, str] | None
    ) -> TelemetryEvidence:
        frontier, note = self._archive.cursor(origin)
        evidence = TelemetryEvidence(
            origin=origin,
            size=frontier.size,
            new_lines=new_lines,
            certificate=puller.certificates.get(SYSTEM) if puller else None,
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
