"""Begins a new log epoch: the node's own stream goes on under a new name, with its signed word on what it had before.

Rules:
- The agent must not run: its folder is locked while this works.
- The number lies above every log epoch that this node, or its anchors on the ledger, know of. A node that lost its disk and
  cannot ask the ledger is told to name one.
- Nothing is removed: the old stream stays readable as far as it is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neurons.agent.streams import log_path
from neurons.base.data_dir import DataDir
from neurons.base.log_epochs import forget_restored, read_log_epochs, write_log_epochs
from polarise.checkpoint import open_checkpoint
from polarise.errors import ConfigError
from polarise.ledger_client import LedgerClient
from polarise.log_epoch import STATEMENT_KIND, LogEpoch
from polarise.notes import Ed25519Verifier, NoteInvalid
from polarise.signing import Identity, Purpose
from polarise.statement import sign_statement
from polarise.stream import LOG_EPOCH_MAX, is_system, log_epoch_of, origin_of, system_stream
from tlog.store import LogStore


@dataclass(frozen=True, slots=True)
class Anchored:
    """What the ledger knows of a node's own streams.

    Attributes:
        log_epoch: The newest one that was anchored.
        sizes: Lines by stream.
    """

    log_epoch: int
    sizes: dict[str, int]


def read_anchors(client: LedgerClient, node_key: str) -> Anchored:
    """Ask the ledger how far a node's own streams were anchored.

    Raises:
        Unavailable: The ledger is away.
    """
    sizes: dict[str, int] = {}
    # Leases have names of hex digits, which all come before.
    for name, entry in client.children(f"/roots/{node_key}", "block", after="s"):
        value = None if entry is None else entry.value
        if is_system(name) and isinstance(value, dict) and isinstance(value.get("size"), int):
            sizes[name] = int(str(value["size"]))
    return Anchored(max(map(log_epoch_of, sizes), default=0), sizes)


def begin_log_epoch(
    node_dir: Path, identity: Identity, anchored: Anchored | None, now_unix_ms: int, *, number: int | None = None
) -> LogEpoch:
    """Sign and write down that the node's own stream begins anew.

    Args:
        node_dir: The node's data directory.
        identity: The node.
        anchored: What the ledger knows; None when it could not be asked.
        now_unix_ms: Wall clock.
        number: Of the log epoch; the next one when it is left out.

    Raises:
        ConfigError: The agent runs, or the number is not above those that are known or cannot be known.
    """
    lock = DataDir(node_dir / "agent")
    lock.folders = (lock.root,)
    with lock:
        kept = read_log_epochs(node_dir, identity.public_key)
        known = max(kept[-1][1].log_epoch if kept else 0, anchored.log_epoch if anchored else 0)
        previous, last = _newest_stream(lock.root, identity.public_key, known)
        if number is None and anchored is None and last is None:
            raise ConfigError(
                "this node has no log left, and the ledger could not say which log epochs it has had",
                origin="--epoch",
                allowed="try again when the ledger answers, or --epoch with a number never used before",
            )
        number = number or known + 1
        if not known < number <= LOG_EPOCH_MAX:
            raise ConfigError(
                f"log epoch {number} is not above {known}", origin="--epoch", allowed=f"{known + 1} to {LOG_EPOCH_MAX}"
            )
        subkey = identity.subkey(Purpose.LOG)
        if last is not None and not _is_signed_by(
            last, subkey.key.public_key, origin_of(identity.public_key, previous)
        ):
            last = None  # by a key that was replaced since; nobody could check it against the certificate beside it
        begun = LogEpoch(
            node_key=identity.public_key,
            log_epoch=number,
            previous=previous,
            last=None if last is None else last.decode(),
            log_certificate=subkey.certificate,
            anchored_size=anchored.sizes.get(previous) if anchored else None,
            reason="restore",
            created_unix_ms=now_unix_ms,
        )
        statements = (*(statement for statement, _ in kept), sign_statement(identity, STATEMENT_KIND, begun))
        write_log_epochs(node_dir, statements)
        forget_restored(node_dir)
    return begun


def _is_signed_by(note: bytes, public_key: str, origin: str) -> bool:
    try:
        open_checkpoint(note, Ed25519Verifier(origin, public_key))
    except NoteInvalid:
        return False
    return True


def _newest_stream(folder: Path, node_key: str, known: int) -> tuple[str, bytes | None]:
    """Return the newest of the node's own streams that is there, and its newest checkpoint."""
    there = [path.stem for path in folder.glob("system*.sqlite") if is_system(path.stem)]
    if not there:
        return system_stream(known), None
    stream_id = max(there, key=log_epoch_of)
    with LogStore(log_path(folder, stream_id), origin_of(node_key, stream_id)) as store:
        return stream_id, store.latest_checkpoint()
