"""Which log epochs a node's own stream has had, and whether its data was restored without one.

Rules:
- The file is the node's own signed word, oldest first; the agent reads it at its start and never writes it. Where the subkey
  that signed it was replaced it is signed anew, for nobody takes that subkey's word any more.
- Restored data is used by no daemon before the operator has begun a new log epoch: what is signed behind an older state of
  the log is a fork, and nobody forgives that.
"""

from __future__ import annotations

import os
from pathlib import Path

from polarise.canonical import canonical_bytes
from polarise.decode import decode_model
from polarise.errors import ConfigError, ProofRejected, RequestRejected
from polarise.log_epoch import STATEMENT_KIND, LogEpoch, LogEpochsAnswer, open_log_epoch
from polarise.signing import Identity, Purpose
from polarise.statement import SignedStatement, sign_statement

EPOCHS_FILE = "log-epochs.json"
RESTORED_FILE = "restored"
FILE_BYTES_MAX = 4 * 1024 * 1024
FIX = "python main.py log new-epoch"


def read_log_epochs(node_dir: Path, node_key: str) -> tuple[tuple[SignedStatement, LogEpoch], ...]:
    """Return the log epochs of a node, oldest first; none for a log that never began anew.

    Raises:
        ConfigError: The file is damaged.
    """
    path = node_dir / "agent" / EPOCHS_FILE
    if not path.exists():
        return ()
    try:
        answer = decode_model(LogEpochsAnswer, path.read_bytes(), max_bytes=FILE_BYTES_MAX)
        return tuple((statement, open_log_epoch(statement, node_key)) for statement in answer.epochs)
    except (RequestRejected, ProofRejected) as err:
        raise ConfigError(
            f"not what this node signed: {err}", origin=str(path), allowed="the file of a backup"
        ) from err


def write_log_epochs(node_dir: Path, statements: tuple[SignedStatement, ...]) -> None:
    """Replace the file, durably."""
    path = node_dir / "agent" / EPOCHS_FILE
    partial = path.with_name(f"{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with partial.open("wb") as stream:
        stream.write(canonical_bytes(LogEpochsAnswer(epochs=statements).to_wire()))
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def renew_log_epochs(node_dir: Path, identity: Identity) -> None:
    """Sign anew what a subkey signed that was replaced since; what it says stays.

    Raises:
        ConfigError: The file is damaged.
    """
    kept, counter = read_log_epochs(node_dir, identity.public_key), identity.generations.get(Purpose.STATEMENT, 0)
    if any(statement.certificate.counter < counter for statement, _ in kept):
        write_log_epochs(node_dir, tuple(sign_statement(identity, STATEMENT_KIND, begun) for _, begun in kept))


def mark_restored(node_dir: Path) -> None:
    """Keep daemons from this data until a new log epoch has begun."""
    (node_dir / "agent").mkdir(parents=True, exist_ok=True, mode=0o700)
    (node_dir / "agent" / RESTORED_FILE).touch(mode=0o600)


def forget_restored(node_dir: Path) -> None:
    """Let daemons use this data."""
    (node_dir / "agent" / RESTORED_FILE).unlink(missing_ok=True)


def refuse_restored(node_dir: Path) -> None:
    """Refuse to run on restored data.

    Raises:
        ConfigError: No log epoch has begun since it was restored.
    """
    if (node_dir / "agent" / RESTORED_FILE).exists():
        raise ConfigError(
            "this data was restored from a backup: its log lacks lines that were signed, and to go on would be a fork",
            origin=str(node_dir),
            allowed=f"once, `{FIX} --data-dir {node_dir}`",
        )
