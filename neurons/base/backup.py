"""A copy of a node's data directory in one file, made while the daemon runs, and put back where there is none.

Rules:
- Databases are copied by SQLite's own backup, so that each is whole as of one moment; every other file is written once or
  replaced whole. What only the running machine means (locks, sockets, disks of leases, compiled code) is left out.
- A folder `backups` in the data directory is left out, so that backups kept there do not hold each other.
- The file is readable by its owner alone: node keys in it are encrypted, host keys are not. Token secrets are not in it: who
  steals a backup signs no tokens, and a secret that was dropped since does not come back. A restored node makes a new one.
- Nothing is overwritten, neither by a backup nor by a restore; a restore that fails leaves nothing behind.
- Each file is compared with the hash in the manifest before the folder gets its name.
- A restored miner starts only after `log new-epoch`: its log lacks lines that it signed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from pydantic import Field

import polarise
from neurons.base.log_epochs import RESTORED_FILE, mark_restored
from polarise.canonical import canonical_bytes
from polarise.decode import WireModel, decode_model
from polarise.errors import ConfigError, RequestRejected

MANIFEST = "manifest.json"
SETTINGS = "settings.yaml"
DATA = "data"
MANIFEST_BYTES_MAX = 256 * 1024 * 1024
# What another start makes again, or what means nothing on another machine.
LEFT_OUT = frozenset({"run", "disks", "native", "backups", "ballast", "lock", "agent/lock", f"agent/{RESTORED_FILE}"})
SECRETS_LEFT_OUT = frozenset({"keys/token-secrets", "keys/token-secrets.new"})
LEFT_OUT_ENDINGS = ("-wal", "-shm", "-journal", ".partial")
VERSION = 1


class BackupManifest(WireModel):
    """What a backup holds.

    Attributes:
        version: Of this format.
        software: The version that wrote it.
        created_unix_ms: When it was begun.
        files: Name below the data directory -> SHA-256.
    """

    version: int = Field(ge=1)
    software: str = Field(max_length=64)
    created_unix_ms: int = Field(ge=0, lt=2**53)
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore found.

    Attributes:
        manifest: Of the backup.
        settings: Where its settings file lies now; None when it held none.
        is_miner: Whether the node kept an event log.
    """

    manifest: BackupManifest
    settings: Path | None
    is_miner: bool


def write_backup(node_dir: Path, target: Path, now_unix_ms: int, *, settings: Path | None = None) -> BackupManifest:
    """Copy a data directory into a file.

    Args:
        node_dir: The data directory; its daemon may run.
        target: The file to make.
        now_unix_ms: Wall clock.
        settings: The node's settings file, which is copied too.

    Raises:
        ConfigError: There is no such directory, or the file is there already.
    """
    if not (node_dir / "keys" / "node.key").exists():
        raise ConfigError("this is no node's data directory", origin=str(node_dir), allowed="one with keys/node.key")
    if target.exists():
        raise ConfigError("the file is there already", origin=str(target), allowed="a new name; nothing is overwritten")
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    files: dict[str, str] = {}
    try:
        with (
            os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream,
            tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch,
        ):
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for path in _files(node_dir):
                    name = path.relative_to(node_dir).as_posix()
                    with _steady(path, Path(scratch)) as source:
                        files[name] = _add(archive, f"{DATA}/{name}", source)
                if settings is not None:
                    with settings.open("rb") as source:
                        _add(archive, SETTINGS, source)
                manifest = BackupManifest(
                    version=VERSION, software=polarise.__version__, created_unix_ms=now_unix_ms, files=files
                )
                _add(archive, MANIFEST, io.BytesIO(canonical_bytes(manifest.to_wire())))
            stream.flush()
            os.fsync(stream.fileno())
        # A link fails where the name was taken meanwhile; a rename would not.
        os.link(partial, target)
    except FileExistsError as err:
        raise ConfigError("the file is there already", origin=str(target), allowed="a new name") from err
    finally:
        partial.unlink(missing_ok=True)
    return manifest


def restore_backup(source: Path, node_dir: Path) -> Restored:
    """Put a backup back as a data directory.

    Args:
        source: The file that `write_backup` made.
        node_dir: Where to; missing or an empty folder.

    Raises:
        ConfigError: The file is missing, no backup or damaged, the folder holds something, or the machine has no room or
            right for it.
    """
    # A data directory is often a link to a larger disk: what is swapped in is the folder behind it.
    node_dir = node_dir.resolve()
    if node_dir.exists() and (not node_dir.is_dir() or any(node_dir.iterdir())):
        raise ConfigError("the data directory is not empty", origin=str(node_dir), allowed="move it away first")
    if not source.is_file():
        raise ConfigError("there is no such file", origin=str(source), allowed="a file that `backup` made")
    node_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = node_dir.with_name(f".{node_dir.name}.restoring")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(mode=0o700)
        manifest = _unpack(source, partial)
        settings = partial / SETTINGS
        if is_miner := (partial / DATA / "agent").is_dir():
            mark_restored(partial / DATA)
        if settings.exists():
            settings.rename(partial / DATA / f"restored-{SETTINGS}")
        if node_dir.exists():
            # An installed folder has its owner, which the data shall have too.
            owner = node_dir.stat()
            for path in (partial / DATA, *(partial / DATA).rglob("*")):
                os.chown(path, owner.st_uid, owner.st_gid)
            node_dir.rmdir()
        (partial / DATA).rename(node_dir)
    except OSError as err:
        raise ConfigError(
            f"the backup cannot be put back: {err}",
            origin=str(node_dir),
            allowed="a folder with room that this user may replace; no mount point",
        ) from err
    # Python's reader lets ValueError (sizes that are no numbers) and RecursionError (names behind names) through.
    except (tarfile.TarError, EOFError, ValueError, RecursionError, RequestRejected) as err:
        raise ConfigError(
            f"this is no whole backup: {err}", origin=str(source), allowed="a file that `backup` made"
        ) from err
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    kept = node_dir / f"restored-{SETTINGS}"
    return Restored(manifest, kept if kept.exists() else None, is_miner)


def _files(node_dir: Path) -> Iterator[Path]:
    """Yield what is copied; nothing behind a link, and nothing of another file system."""
    device = node_dir.stat().st_dev
    for folder, folders, names in os.walk(node_dir):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if (here / name).relative_to(node_dir).as_posix() not in LEFT_OUT and (here / name).lstat().st_dev == device
        )
        for name in sorted(names):
            path = here / name
            if path.relative_to(node_dir).as_posix() in LEFT_OUT | SECRETS_LEFT_OUT or name.endswith(LEFT_OUT_ENDINGS):
                continue
            if path.is_file() and not path.is_symlink():
                yield path


@contextlib.contextmanager
def _steady(path: Path, scratch: Path) -> Iterator[IO[bytes]]:
    """Open a file that does not change while it is read: of a database, a copy."""
    if path.suffix != ".sqlite":
        with path.open("rb") as source:
            yield source
        return
    copy = scratch / "copy.sqlite"
    with (
        contextlib.closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=30)) as database,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        database.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")
    try:
        with copy.open("rb") as source:
            yield source
    finally:
        copy.unlink()


def _add(archive: tarfile.TarFile, name: str, source: IO[bytes]) -> str:
    """Add one file and return its hash."""
    reader = _Hashing(source)
    entry = tarfile.TarInfo(name)
    entry.size = source.seek(0, os.SEEK_END)
    entry.mode = 0o600
    source.seek(0)
    archive.addfile(entry, reader)
    return reader.hash.hexdigest()


class _Hashing:
    """Reads a file and hashes what was read."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.hash.update(data)
        return data


def _unpack(source: Path, folder: Path) -> BackupManifest:
    found: dict[str, str] = {}
    manifest: BackupManifest | None = None
    with tarfile.open(source, mode="r:") as archive:
        for entry in archive:
            # A sparse file may name more zeros than any disk holds.
            content = archive.extractfile(entry) if entry.isreg() and not entry.issparse() else None
            if content is None or manifest is not None:
                raise _damaged(f"{entry.name[:200]} does not belong there")
            if entry.name == MANIFEST:
                manifest = decode_model(BackupManifest, content.read(MANIFEST_BYTES_MAX), max_bytes=MANIFEST_BYTES_MAX)
            elif entry.name == SETTINGS:
                _write(folder / SETTINGS, content)
            else:
                name = _name_of(entry)
                found[name] = _write(folder / DATA / name, content)
    if manifest is None or manifest.version > VERSION:
        raise _damaged("it has no manifest that this version reads")
    if found != manifest.files:
        different = sorted({name for name in {*found, *manifest.files} if found.get(name) != manifest.files.get(name)})
        raise _damaged(f"{different[0]} is not as it was written")
    return manifest


def _name_of(entry: tarfile.TarInfo) -> str:
    """Return a file's name below the data directory; nothing leads out of it."""
    parts = PurePosixPath(entry.name).parts
    if len(parts) < 2 or parts[0] != DATA or ".." in parts or "/".join(parts) != entry.name:
        raise _damaged(f"{entry.name[:200]} leads elsewhere")
    return "/".join(parts[1:])


def _write(path: Path, content: IO[bytes]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())
    return digest.hexdigest()


def _damaged(what: str) -> tarfile.TarError:
    return tarfile.TarError(what)
