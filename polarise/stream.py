"""Verify an event stream as it comes, with nothing but the node's public key.

Rules:
- The node key certifies the log key (purpose ``log``); the log key signs checkpoints under the stream's name.
- Lines count for nothing until a checkpoint covers them: they are held, up to a bound, and given out together.
- One flipped bit, one line left out, added or moved, and the root is another: `LOG_MISMATCH` or `LOG_GAP`.
- A checkpoint of a size that was verified before, with another root, is a fork: `LogFork` carries both notes, and
  anybody can check them. A mismatch behind new lines may be the carrier's doing; the reader then asks the log for a
  consistency proof (`telemetry.puller`).

Cost per line at a batch of n: one SHA-256 of the line, one node hash, and 1/n of a signature verification.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, field

from polarise.checkpoint import SignedCheckpoint, open_checkpoint
from polarise.errors import LogFork, ProofRejected, RejectReason
from polarise.frontier import Frontier
from polarise.merkle import leaf_hash
from polarise.notes import Ed25519Verifier, NoteInvalid
from polarise.signing import Certificate, Purpose, SignatureInvalid

HELD_LINES_MAX = 4096
HELD_BYTES_MAX = 16 * 1024 * 1024
SYSTEM = "system"
AUDIT = "audit"
# Behind the first one come those that began after a restore: `system-1`, `system-2`; see `polarise.log_epoch`.
SYSTEM_PATTERN = r"system(-[1-9][0-9]{0,2})?"
LOG_EPOCH_MAX = 999


def is_system(stream_id: str) -> bool:
    """Whether this is a node's own stream, of whichever log epoch."""
    return re.fullmatch(SYSTEM_PATTERN, stream_id) is not None


def system_stream(log_epoch: int) -> str:
    """Return the id of a node's own stream in a log epoch, 0 for the first."""
    return SYSTEM if log_epoch == 0 else f"{SYSTEM}-{log_epoch}"


def log_epoch_of(stream_id: str) -> int:
    """Return the log epoch of a node's own stream."""
    return int(stream_id.removeprefix(SYSTEM).removeprefix("-") or 0)


def origin_of(node_key: str, stream_id: str) -> str:
    """Return the log's name of a stream: ``system``, one of a later log epoch, ``audit``, or a lease's id."""
    is_own = is_system(stream_id) or stream_id == AUDIT
    return f"{node_key}/{stream_id}" if is_own else f"{node_key}/lease/{stream_id}"


def system_stream_of(origin: str, node_key: str) -> str:
    """Return which of a node's own streams has this log's name.

    Raises:
        ProofRejected: BAD_SIGNATURE, it is another node's, or a lease's.
    """
    stream_id = origin.removeprefix(f"{node_key}/")
    if not is_system(stream_id):
        raise ProofRejected(RejectReason.BAD_SIGNATURE, "this is no log of the node's own", got=origin[:200])
    return stream_id


def log_verifier(certificate: Certificate, node_key: str, stream_id: str) -> Ed25519Verifier:
    """Return the key that signs a stream's checkpoints.

    Raises:
        ProofRejected: BAD_SIGNATURE, the node did not certify it for its log.
    """
    try:
        certificate.check(issuer=node_key, purpose=Purpose.LOG)
    except SignatureInvalid as err:
        raise ProofRejected(RejectReason.BAD_SIGNATURE, f"the log's key is not the node's: {err}") from err
    return Ed25519Verifier(origin_of(node_key, stream_id), certificate.subject)


@dataclass(frozen=True, slots=True)
class Verified:
    """Lines that stand in the log.

    Attributes:
        first: Sequence number of the first.
        lines: Exactly as they were hashed.
        signed: The checkpoint that covers them.
    """

    first: int
    lines: tuple[bytes, ...]
    signed: SignedCheckpoint


@dataclass(slots=True)
class StreamVerifier:
    """What a reader knows of one stream.

    Attributes:
        log: The key that signs it; its name is the stream's.
        frontier: The tree over everything verified so far.
        note: Newest checkpoint that was verified, None before the first.
    """

    log: Ed25519Verifier
    frontier: Frontier = field(default_factory=Frontier)
    note: bytes | None = None
    _held: list[bytes] = field(default_factory=list)
    _held_bytes: int = 0

    @property
    def expected_seq(self) -> int:
        """Sequence number the next line must have."""
        return self.frontier.size + len(self._held)

    def add_line(self, seq: int, line: bytes) -> None:
        """Hold one line until a checkpoint covers it.

        Raises:
            ProofRejected: LOG_GAP, another line was due; MALFORMED, too much without a checkpoint.
        """
        if seq != self.expected_seq:
            raise ProofRejected(
                RejectReason.LOG_GAP, "a line is missing, repeated or moved", got=seq, expected=self.expected_seq
            )
        self._held_bytes += len(line)
        if len(self._held) >= HELD_LINES_MAX or self._held_bytes > HELD_BYTES_MAX:
            raise ProofRejected(
                RejectReason.MALFORMED,
                "too many lines without a checkpoint",
                got=len(self._held),
                expected=HELD_LINES_MAX,
            )
        self._held.append(line)

    def add_checkpoint(self, raw: bytes) -> Verified:
        """Verify a checkpoint and give out the lines it covers; nothing is given out when it does not hold.

        Raises:
            ProofRejected: BAD_SIGNATURE, MALFORMED, LOG_GAP (it covers lines that were not sent) or LOG_MISMATCH (the
                lines lead to another root).
            LogFork: It contradicts a checkpoint of this log that was verified before.
        """
        try:
            signed = open_checkpoint(raw, self.log)
        except NoteInvalid as err:
            raise ProofRejected(RejectReason.BAD_SIGNATURE, f"the checkpoint does not hold: {err}") from err
        size = signed.checkpoint.size
        if size < self.frontier.size:
            # Older than what we have: an honest log can show it too, so it is no fork, only of no use here.
            raise ProofRejected(
                RejectReason.LOG_GAP, "the log went back", got=size, expected=f"at least {self.frontier.size}"
            )
        if size > self.expected_seq:
            raise ProofRejected(
                RejectReason.LOG_GAP,
                "the checkpoint covers lines that were not sent",
                got=size,
                expected=self.expected_seq,
            )
        covered = self._held[: size - self.frontier.size]
        grown = self.frontier.copy()
        for line in covered:
            grown.add(leaf_hash(line))
        self._compare(signed, grown.root(), has_lines=bool(covered))
        verified = Verified(self.frontier.size, tuple(covered), signed)
        self.frontier, self.note = grown, raw
        self._held = self._held[len(covered) :]
        self._held_bytes = sum(len(line) for line in self._held)
        return verified

    def _compare(self, signed: SignedCheckpoint, root: bytes, *, has_lines: bool) -> None:
        if hmac.compare_digest(root, signed.checkpoint.root):
            return
        if not has_lines and self.note is not None:
            raise LogFork(
                f"{self.log.name} signed two trees of {signed.checkpoint.size} lines",
                first=self.note,
                second=signed.raw,
            )
        raise ProofRejected(
            RejectReason.LOG_MISMATCH,
            "the lines are not those the log signed",
            got=root.hex(),
            expected=signed.checkpoint.root.hex(),
        )
