"""Cosigns what this validator verified: the newest checkpoint of each miner's log it read, and of the ledger.

Rules:
- A log is cosigned when its lines were pulled to the end and all of them held; the witness takes it only when it goes on
  from what it cosigned last.
- On the way the checkpoint that most others cosigned is cosigned too, so that several validators, each pulling at its own
  time, meet at the same ones.
- A proof that does not join two checkpoints is held against the lines we keep ourselves: they say whether the log signed
  two histories, or only answered badly. The first is a `LogFork`, the second costs it the cosignature.
- Cosignatures go back to the miner; one that does not take them loses them, and nothing else.
"""

from __future__ import annotations

import logging

from polarise.answers import printable
from polarise.block import open_block
from polarise.block_follower import check_order
from polarise.checkpoint import Checkpoint, SignedCheckpoint, open_checkpoint, parse_checkpoint
from polarise.cosignature import MOST, CosignatureRequest, SizedCosignature
from polarise.errors import ErrorCode, LogFork, RequestRejected, Unavailable
from polarise.frontier import Frontier
from polarise.ledger_client import LedgerClient
from polarise.merkle import leaf_hash, verify_consistency
from polarise.notes import Ed25519Verifier, NoteInvalid, parse_note
from polarise.signing import Certificate
from polarise.telemetry_client import TelemetryClient
from telemetry.archive import Archive
from tlog.witness import AddCheckpoint, OrderCheck, Seen, StaleCheckpoint, Witness, log_name
from utils.clock import Clock

logger = logging.getLogger(__name__)

DEADLINE_SECONDS = 3.0
PAGE_LINES = 4096


class Cosigner:
    """The validator as a witness.

    Args:
        witness: Remembers what was cosigned, and signs.
        certificate: Our node key's word for the witness's key.
        clock: Wall clock.
    """

    def __init__(self, witness: Witness, certificate: Certificate, clock: Clock) -> None:
        self._witness = witness
        self._certificate = certificate
        self._clock = clock

    def cosign_log(self, client: TelemetryClient, log: Ed25519Verifier, archive: Archive) -> None:
        """Cosign the newest checkpoint that was read of a miner's system log, and hand the cosignature back.

        Args:
            client: The miner's event routes.
            log: The key that signs the log.
            archive: What was read.

        Raises:
            LogFork: It does not go on from a checkpoint we cosigned; both notes are kept.
        """
        _, note = archive.cursor(log.name)
        if note is None:
            return
        self._witness.follow(log)
        made: list[SizedCosignature] = []
        try:
            newest = open_checkpoint(note, log)
            for signed in [*self._met(client, log, newest), newest]:
                made += self._step(client, archive, signed)
            if made:
                cosigned = CosignatureRequest(certificate=self._certificate, cosignatures=tuple(made))
                client.cosign(_stream_of(log.name), cosigned, timeout_seconds=DEADLINE_SECONDS)
        except (RequestRejected, Unavailable, NoteInvalid, ValueError) as err:
            logger.warning("log not cosigned", extra={"origin": log.name, "cause": printable(err, 300)})
            return
        logger.debug("log cosigned", extra={"origin": log.name, "size": newest.checkpoint.size, "count": len(made)})

    def cosign_ledger(self, client: LedgerClient) -> None:
        """Cosign the newest block, once it is verified to go on from the last one seen.

        Raises:
            LogFork: It does not.
        """
        origin = client.genesis.origin
        try:
            block = client.checkpoint()
            seen = self._witness.seen(log_name(origin))
            if seen is not None and open_block(seen.note, client.genesis.log).block.height > block.block.height:
                client.accept(seen.note)  # somebody showed us a later one; it must go on from this one
                return
            old_size, size = 0 if seen is None else seen.size, block.block.size
            proof = client.consistency(old_size, size) if 0 < old_size < size else []
            self._add(AddCheckpoint(old_size, tuple(proof), block.raw))
        except (RequestRejected, Unavailable, NoteInvalid) as err:
            logger.warning("ledger not cosigned", extra={"origin": origin, "cause": printable(err, 300)})
            return
        logger.debug("ledger cosigned", extra={"origin": origin, "height": block.block.height, "size": size})

    def _met(self, client: TelemetryClient, log: Ed25519Verifier, newest: SignedCheckpoint) -> list[SignedCheckpoint]:
        """Return the checkpoint that most others cosigned, if it lies between our last and the newest."""
        seen = self._witness.seen(log_name(log.name))
        known_size = 0 if seen is None else seen.size
        try:
            answer = client.checkpoint(
                _stream_of(log.name), known_size, witnesses=MOST, timeout_seconds=DEADLINE_SECONDS
            )
        except RequestRejected as err:
            if err.code in {ErrorCode.NOT_FOUND, ErrorCode.INVALID_FIELD}:
                return []  # nobody cosigned anything later yet
            raise
        if answer.checkpoint is None:
            return []
        signed = open_checkpoint(answer.checkpoint.encode(), log)
        return [signed] if known_size < signed.checkpoint.size < newest.checkpoint.size else []

    def _step(self, client: TelemetryClient, archive: Archive, signed: SignedCheckpoint) -> list[SizedCosignature]:
        """Cosign one checkpoint; none comes of it when we cosigned a later one already."""
        checkpoint = signed.checkpoint
        seen = self._witness.seen(log_name(checkpoint.origin))
        if seen is not None and seen.size > checkpoint.size:
            self._check_later(client, checkpoint, signed.raw, seen)
            return []
        proof: tuple[bytes, ...] = ()
        if seen is not None and 0 < seen.size < checkpoint.size:
            proof = self._proof(client, archive, _checkpoint_of(seen.note), checkpoint)
        line = self._add(AddCheckpoint(0 if seen is None else seen.size, proof, signed.raw))
        return [SizedCosignature(size=checkpoint.size, line=line)]

    def _proof(self, client: TelemetryClient, archive: Archive, old: Checkpoint, new: Checkpoint) -> tuple[bytes, ...]:
        """Ask for a consistency proof; where our own lines show that there can be none, return an empty one."""
        try:
            answer = client.checkpoint(_stream_of(new.origin), old.size, new.size, timeout_seconds=DEADLINE_SECONDS)
            proof = tuple(bytes.fromhex(text) for text in answer.consistency)
            verify_consistency(old.size, old.root, new.size, new.root, proof)
        except (RequestRejected, ValueError):
            if root_of_lines(archive, new.origin, old.size) == old.root:
                raise
            return ()
        return proof

    def _check_later(self, client: TelemetryClient, read: Checkpoint, note: bytes, seen: Seen) -> None:
        """Somebody had us cosign a later checkpoint than the one we read; the log must show that it goes on."""
        later = _checkpoint_of(seen.note)
        try:
            answer = client.checkpoint(_stream_of(read.origin), read.size, later.size, timeout_seconds=DEADLINE_SECONDS)
            proof = [bytes.fromhex(text) for text in answer.consistency]
            verify_consistency(read.size, read.root, later.size, later.root, proof)
        except (RequestRejected, ValueError) as err:
            if isinstance(err, RequestRejected) and err.code is not ErrorCode.INVALID_FIELD:
                raise  # it may have reasons of its own; a log that lacks lines it signed has none
            self._witness.keep_fork(read.origin, note, seen.note)
            raise LogFork(
                f"{read.origin} shows {read.size} lines that do not lead to the {later.size} it signed: {err}",
                first=note,
                second=seen.note,
            ) from err

    def _add(self, request: AddCheckpoint) -> str:
        return self._witness.add_checkpoint(request.encode(), self._clock.wall_unix_ms() // 1000).decode()


def block_order(log: Ed25519Verifier) -> OrderCheck:
    """Return the check that keeps a witness of the ledger from cosigning two blocks of one height, or going back."""

    def check(known: bytes, note: bytes) -> None:
        try:
            seen, block = open_block(known, log), open_block(note, log)
        except NoteInvalid as err:
            raise RequestRejected(
                ErrorCode.INVALID_FIELD, f"not a block: {err}", hint="send a block of the ledger"
            ) from err
        if seen.signed.note.text == block.signed.note.text:
            return
        check_order(seen, block)
        if block.block.height < seen.block.height:
            raise StaleCheckpoint(seen.block.size)

    return check


def _checkpoint_of(note: bytes) -> Checkpoint:
    return parse_checkpoint(parse_note(note).text)


def _stream_of(origin: str) -> str:
    """Return the id of a stream by its log's name; the log was opened under it."""
    return origin.partition("/")[2]


def root_of_lines(archive: Archive, origin: str, size: int) -> bytes:
    """Return the root over the first lines we keep of a log; they were verified when they came."""
    tree = Frontier()
    while tree.size < size:
        lines = archive.lines(origin, tree.size, min(tree.size + PAGE_LINES, size))
        if not lines:
            break
        for line in lines:
            tree.add(leaf_hash(line))
    return tree.root()
