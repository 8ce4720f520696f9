"""Follows a miner's own log into a further epoch, where the miner signed that it began anew after a restore.

Rules:
- The miner's word is asked for where its stream shows nothing new or no longer reaches as far as what was read of it.
- The checkpoint it names must be one that our own lines lead to. Where they do not, the log signed two histories: a fork.
- A fork that was proven before stays one, whatever begins anew.
- Lines that we hold and the miner lost are a gap in its log: it costs the telemetry part of that epoch, each time.
- A statement by a replaced subkey is none: a miner signs its log epochs anew when it rotates.
- What was read, cosigned and put on the ledger before stays as it is.
"""

from __future__ import annotations

import json
import logging

from neurons.validator.cosigning import root_of_lines
from polarise.errors import LogFork, ProofRejected, RejectReason, RequestRejected
from polarise.generations import Generations
from polarise.log_epoch import LogEpoch, open_log_epoch
from polarise.signing import Certificate, Purpose
from polarise.statement import SignedStatement
from polarise.stream import origin_of, system_stream
from polarise.telemetry_client import TelemetryClient
from telemetry.archive import Archive

logger = logging.getLogger(__name__)

DEADLINE_SECONDS = 3.0


def follow_log_epoch(
    client: TelemetryClient, archive: Archive, certificates: dict[str, Certificate], generations: Generations
) -> bool:
    """Go over to a miner's newest log epoch, if it signed one; returns whether there is one.

    Args:
        client: The miner's event routes.
        archive: What was read of its streams.
        certificates: Stream id -> the node's word for its key; gets those that the notes of a fork are checked with.
        generations: Which subkeys were replaced: what they sign begins nothing.

    Raises:
        ProofRejected: LOG_GAP, it began anew without lines that we hold; from the next pull on the new one is read.
            BAD_SIGNATURE, what it says is not its word.
        LogFork: It names another history than we hold, or a fork was proven before.
        RequestRejected: It refuses to answer.
        Unavailable: It cannot answer now.
    """
    known = archive.log_epoch(client.node_key)
    newest = _newest(client, generations)
    if newest is None or newest[1].log_epoch <= known:
        return False
    statement, begun = newest
    for stream_id in (system_stream(known), begun.previous):
        certificates.setdefault(stream_id, begun.log_certificate)
    lost_lines = _lost_lines(archive, begun, known)
    archive.begin_log_epoch(client.node_key, begun.log_epoch, lost_lines, json.dumps(statement.to_wire()))
    fields = {"miner": client.node_key, "log_epoch": begun.log_epoch, "lost_lines": lost_lines, "cause": begun.reason}
    logger.warning("a miner's log began anew", extra=fields)
    if lost_lines:
        raise ProofRejected(
            RejectReason.LOG_GAP,
            f"the log began anew as {system_stream(begun.log_epoch)} after a {begun.reason}, without {lost_lines} lines",
            got=archive.cursor(origin_of(client.node_key, system_stream(known)))[0].size - lost_lines,
            expected=archive.cursor(origin_of(client.node_key, system_stream(known)))[0].size,
        )
    return True


def _newest(client: TelemetryClient, generations: Generations) -> tuple[SignedStatement, LogEpoch] | None:
    try:
        statements = client.log_epochs(timeout_seconds=DEADLINE_SECONDS)
    except RequestRejected as err:
        if err.status == 404:
            return None  # a version before there were log epochs
        raise
    least = generations.least(client.node_key, Purpose.STATEMENT)
    opened = [
        (statement, open_log_epoch(statement, client.node_key))
        for statement in statements
        if statement.certificate.counter >= least
    ]
    return max(opened, key=lambda pair: pair[1].log_epoch, default=None)


def _lost_lines(archive: Archive, begun: LogEpoch, known: int) -> int:
    """Hold the checkpoint it names against our own lines; return how many of those we follow it no longer has."""
    followed = origin_of(begun.node_key, system_stream(known))
    origin = origin_of(begun.node_key, begun.previous)
    for name in {followed, origin}:
        for first, second in archive.forks(name):
            raise LogFork(f"{name} was forked before it began anew", first=first, second=second)
    held, _ = archive.cursor(followed)
    signed = begun.last_checkpoint()
    if signed is None:
        return held.size
    named, ours = signed.checkpoint, archive.cursor(origin)
    if named.size > ours[0].size:
        raise ProofRejected(
            RejectReason.LOG_GAP,
            f"{begun.previous} ended with lines that it does not show",
            got=ours[0].size,
            expected=named.size,
        )
    if ours[1] is not None and root_of_lines(archive, origin, named.size) != named.root:
        archive.keep_fork(origin, ours[1], signed.raw)
        raise LogFork(
            f"{origin} began anew behind {named.size} lines that are not those it signed",
            first=ours[1],
            second=signed.raw,
        )
    return held.size - named.size if followed == origin else held.size
