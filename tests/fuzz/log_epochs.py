"""Targets: a miner's signed word that its log began anew, and a backup that somebody gave an operator."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from neurons.base.backup import restore_backup, write_backup
from polarise.canonical import canonical_bytes
from polarise.checkpoint import Checkpoint, sign_checkpoint
from polarise.decode import MAX_BODY_BYTES
from polarise.errors import ConfigError, ProofRejected, RequestRejected
from polarise.log_epoch import STATEMENT_KIND, LogEpoch, open_log_epoch
from polarise.merkle import leaf_hash
from polarise.signing import Purpose
from polarise.statement import SignedStatement
from polarise.stream import SYSTEM, origin_of
from tests.fuzz.signed import _signed
from tests.fuzz.target import KIB, MEMORY_BASE_BYTES, Call, Target, plain
from tests.support.proving_miner import MINER

BACKUP_BYTES_MAX = 64 * KIB


def log_epoch(*, last: bool = True) -> LogEpoch:
    """What a restored miner signs."""
    subkey = MINER.subkey(Purpose.LOG)
    origin = origin_of(MINER.public_key, SYSTEM)
    note = sign_checkpoint(Checkpoint(origin, 1, leaf_hash(b"line")), subkey.key).raw.decode()
    return LogEpoch(
        node_key=MINER.public_key,
        log_epoch=1,
        previous=SYSTEM,
        last=note if last else None,
        log_certificate=subkey.certificate,
        anchored_size=1,
        reason="restore",
        created_unix_ms=1_700_000_000_000,
    )


def _opened(statement: SignedStatement) -> object:
    begun = open_log_epoch(statement, MINER.public_key)
    begun.last_checkpoint()
    return None


@contextlib.contextmanager
def _restoring() -> Iterator[Call]:
    with tempfile.TemporaryDirectory() as folder:
        path, target = Path(folder) / "backup.tar", Path(folder) / "node"

        def call(raw: bytes) -> object:
            path.write_bytes(raw)
            try:
                restore_backup(path, target)
            finally:
                shutil.rmtree(target, ignore_errors=True)
                if left := {left.name for left in Path(folder).iterdir()} - {path.name}:
                    raise AssertionError(f"it left {left}")
            return None

        yield call


def _backups() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "node" / "keys").mkdir(parents=True)
        (Path(folder) / "node" / "keys" / "node.key").write_bytes(b"key")
        write_backup(Path(folder) / "node", Path(folder) / "backup.tar", 1_700_000_000_000)
        return [(Path(folder) / "backup.tar").read_bytes()]


TARGETS = (
    Target(
        "polarise.log_epoch.open_log_epoch",
        plain(_signed(MINER, STATEMENT_KIND, _opened)),
        lambda: [canonical_bytes(log_epoch(last=last).to_wire()) for last in (True, False)],
        (RequestRejected, ProofRejected),
        MAX_BODY_BYTES,
        covers=("neurons.base.log_epochs.read_log_epochs",),
        # It opens a statement and a note: five signatures.
        weight=4,
    ),
    Target(
        "neurons.base.backup.restore_backup",
        _restoring,
        _backups,
        (ConfigError,),
        BACKUP_BYTES_MAX,
        # A block of what is copied, and of what tarfile reads ahead.
        memory_base_bytes=4 * MEMORY_BASE_BYTES,
        weight=32,
    ),
)
