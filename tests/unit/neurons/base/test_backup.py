"""A node's folder in one file and back: whole databases while they are written, nothing overwritten, nothing believed."""

from __future__ import annotations

import io
import sqlite3
import stat
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from neurons.base.backup import DATA, MANIFEST, restore_backup, write_backup
from neurons.base.database import Database
from neurons.base.log_epochs import refuse_restored
from neurons.base.outbox import EntryState, Outbox
from neurons.cli import main
from polarise.errors import ConfigError
from polarise.ledger_client import LedgerClient
from polarise.transaction import SetValue
from tests.support.worker import free_port
from tests.unit.ledger.small_market import VALIDATOR
from tests.unit.neurons.ledger.ledger_process import SLOW, running
from utils.clock import SystemClock
from utils.crypto import write_secret_file

NOW_UNIX_MS = 1_700_000_000_000
SECRET = "a secret that signs bearer tokens"
SCHEMA = "CREATE TABLE pair (first INTEGER NOT NULL, second INTEGER NOT NULL)"


@pytest.fixture
def node_dir(tmp_path: Path) -> Path:
    """A data directory with one of each kind of file."""
    folder = tmp_path / "node"
    for name in ("keys", "backups", "run/events", "disks/abc", "evidence", "agent"):
        (folder / name).mkdir(parents=True)
    (folder / "keys" / "node.key").write_bytes(b"encrypted")
    write_secret_file(folder / "keys" / "token-secrets", SECRET)
    (folder / "evidence" / "00.json").write_bytes(b"{}")
    (folder / "lock").write_bytes(b"1")
    (folder / "backups" / "0.tar").write_bytes(b"an older backup")
    (folder / "run" / "agent.sock").write_bytes(b"")
    (folder / "disks" / "abc" / "disk.ext4").write_bytes(b"a tenant's")
    (folder / "elsewhere").symlink_to("/etc/passwd")
    Database(folder / "journal.sqlite", SCHEMA, version=3).close()
    return folder


def names(file: Path) -> list[str]:
    with tarfile.open(file) as archive:
        return archive.getnames()


def test_what_the_node_needs_comes_back_and_nothing_of_the_machine(node_dir: Path, tmp_path: Path) -> None:
    settings = tmp_path / "miner.yaml"
    settings.write_text("role: miner\n", encoding="utf-8")
    file = tmp_path / "backup.tar"
    manifest = write_backup(node_dir, file, NOW_UNIX_MS, settings=settings)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(manifest.files) == ["evidence/00.json", "journal.sqlite", "keys/node.key"]
    assert SECRET.encode() not in file.read_bytes()
    restored = restore_backup(file, tmp_path / "new")
    assert (tmp_path / "new" / "keys" / "node.key").read_bytes() == b"encrypted"
    assert stat.S_IMODE((tmp_path / "new" / "keys" / "node.key").stat().st_mode) == 0o600
    assert restored.settings is not None
    assert restored.settings.read_text(encoding="utf-8") == "role: miner\n"
    with Database(tmp_path / "new" / "journal.sqlite", SCHEMA, version=3) as journal:
        assert journal.query("SELECT * FROM pair") == []
    assert {path.name for path in tmp_path.iterdir()} == {"node", "new", "miner.yaml", "backup.tar"}


def test_a_database_that_is_written_meanwhile_is_whole(node_dir: Path, tmp_path: Path) -> None:
    """Two columns that every transaction keeps equal are equal in every copy."""
    stop, begun = threading.Event(), threading.Event()

    def write() -> None:
        with Database(node_dir / "journal.sqlite", SCHEMA, version=3) as journal:
            count = 0
            while not stop.is_set():
                count += 1
                with journal.transaction() as connection:
                    connection.execute("DELETE FROM pair")
                    connection.execute("INSERT INTO pair VALUES (?, ?)", (count, count))
                begun.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert begun.wait(20)
        for number in range(5):
            write_backup(node_dir, tmp_path / f"{number}.tar", NOW_UNIX_MS)
    finally:
        stop.set()
        writer.join()
    for number in range(5):
        restore_backup(tmp_path / f"{number}.tar", tmp_path / f"new-{number}")
        with sqlite3.connect(tmp_path / f"new-{number}" / "journal.sqlite") as copy:
            ((first, second),) = copy.execute("SELECT * FROM pair").fetchall()
            assert first == second
            assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        copy.close()


def test_nothing_is_overwritten(node_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    write_backup(node_dir, file, NOW_UNIX_MS)
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="there already"):
        write_backup(node_dir, file, NOW_UNIX_MS)
    assert file.read_bytes() == before
    with pytest.raises(ConfigError, match="not empty"):
        restore_backup(file, node_dir)
    assert (node_dir / "lock").exists()
    with pytest.raises(ConfigError, match=r"keys/node\.key"):
        write_backup(tmp_path, tmp_path / "other.tar", NOW_UNIX_MS)


def rewritten(
    source: Path, target: Path, change: Callable[[tarfile.TarInfo, bytes], list[tuple[tarfile.TarInfo, bytes]]]
) -> Path:
    """Write a backup again with some entries changed."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for entry in old:
            content = old.extractfile(entry)
            assert content is not None
            for info, data in change(entry, content.read()):
                info.size = len(data)
                new.addfile(info, io.BytesIO(data))
    return target


def named(entry: tarfile.TarInfo, name: str) -> tarfile.TarInfo:
    entry.name = name
    return entry


def link(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return entry


def extended(entry: tarfile.TarInfo, **headers: str) -> tarfile.TarInfo:
    entry.pax_headers = headers
    return entry


KEY = f"{DATA}/keys/node.key"
DAMAGES: dict[str, Callable[[tarfile.TarInfo, bytes], list[tuple[tarfile.TarInfo, bytes]]]] = {
    "a byte flipped": lambda e, d: [(e, b"E" + d[1:] if e.name == KEY else d)],
    "a file left out": lambda e, d: [] if e.name == KEY else [(e, d)],
    "a file added": lambda e, d: [(e, d), (tarfile.TarInfo(f"{DATA}/more"), b"x")] if e.name == KEY else [(e, d)],
    "no manifest": lambda e, d: [] if e.name == MANIFEST else [(e, d)],
    "out of the folder": lambda e, d: [(named(e, f"{DATA}/../../outside") if e.name == KEY else e, d)],
    "an absolute name": lambda e, d: [(named(e, "/outside") if e.name == KEY else e, d)],
    "a link": lambda e, d: [(link(e), b"") if e.name == KEY else (e, d)],
    "a name with a null byte": lambda e, d: [(extended(e, path=f"{DATA}/a\0b") if e.name == KEY else e, d)],
    "a size that is no number": lambda e, d: [(extended(e, **{"GNU.sparse.map": "0,x"}) if e.name == KEY else e, d)],
    "a terabyte of zeros": lambda e, d: [
        (extended(e, **{"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**40)}) if e.name == KEY else e, d)
    ],
    "another manifest": lambda e, d: [(e, d.replace(b'"version":1', b'"version":2') if e.name == MANIFEST else d)],
    "behind the manifest": lambda e, d: (
        [(e, d), (tarfile.TarInfo(f"{DATA}/more"), b"x")] if e.name == MANIFEST else [(e, d)]
    ),
}


def test_a_missing_backup_is_called_missing_and_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        restore_backup(tmp_path / "backup.tar", tmp_path / "below" / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_backup_restores_nothing(node_dir: Path, tmp_path: Path, damage: str) -> None:
    write_backup(node_dir, tmp_path / "backup.tar", NOW_UNIX_MS)
    file = rewritten(tmp_path / "backup.tar", tmp_path / "damaged.tar", DAMAGES[damage])
    with pytest.raises(ConfigError, match="no whole backup"):
        restore_backup(file, tmp_path / "below" / "new")
    assert list((tmp_path / "below").iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_a_backup_comes_back_behind_a_link_and_a_good_one_is_never_called_damaged(
    node_dir: Path, tmp_path: Path
) -> None:
    file, place = tmp_path / "backup.tar", tmp_path / "place"
    write_backup(node_dir, file, NOW_UNIX_MS)
    (tmp_path / "large disk" / "node").mkdir(parents=True)
    place.symlink_to(tmp_path / "large disk" / "node")
    assert restore_backup(file, place).manifest.files
    assert place.is_symlink()
    assert (tmp_path / "large disk" / "node" / "keys" / "node.key").read_bytes() == b"encrypted"
    with pytest.raises(ConfigError, match="cannot be put back"):
        restore_backup(file, Path("/proc/new"))


def test_names_behind_names_restore_nothing(tmp_path: Path) -> None:
    """Each says that the next entry has a long name, deeper than Python calls itself."""
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 2
    (tmp_path / "deep.tar").write_bytes((entry.tobuf(tarfile.GNU_FORMAT) + b"a".ljust(512, b"\0")) * 3000)
    with pytest.raises(ConfigError, match="no whole backup"):
        restore_backup(tmp_path / "deep.tar", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["deep.tar"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_half_a_backup_restores_nothing(node_dir: Path, tmp_path: Path, share: float) -> None:
    write_backup(node_dir, tmp_path / "backup.tar", NOW_UNIX_MS)
    raw = (tmp_path / "backup.tar").read_bytes()
    data_end = raw.rindex(b'"version"')
    (tmp_path / "half.tar").write_bytes(raw[: int(data_end * share)])
    with pytest.raises(ConfigError, match="no whole backup"):
        restore_backup(tmp_path / "half.tar", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_restored_miner_waits_for_a_new_log_epoch(
    node_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Database(node_dir / "agent" / "streams.sqlite", SCHEMA, version=1).close()
    new = tmp_path / "new"
    assert main(["backup", "--data-dir", str(node_dir), str(tmp_path / "backup.tar")]) == 0
    assert main(["restore", "--data-dir", str(new), str(tmp_path / "backup.tar")]) == 0
    assert f"log new-epoch --data-dir {new}" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="log new-epoch"):
        refuse_restored(new)
    # The next backup of it is one of a node, not of a node that waits.
    write_backup(new, tmp_path / "again.tar", NOW_UNIX_MS)
    assert f"{DATA}/agent/restored" not in names(tmp_path / "again.tar")


def test_a_restored_outbox_posts_nothing_twice(node_dir: Path, tmp_path: Path) -> None:
    """What was signed before the backup goes out as the same transaction; what was not is refused where it stands already."""
    port = free_port()
    folder = f"/epochs/{VALIDATOR.public_key}"

    def outbox_at(path: Path) -> Outbox:
        return Outbox(path, VALIDATOR, LedgerClient(f"http://127.0.0.1:{port}", SLOW, timeout_seconds=5), SystemClock())

    with running(tmp_path / "ledger", port) as (node, _):
        with outbox_at(node_dir / "outbox.sqlite") as outbox:
            sent = outbox.put(SetValue(path=f"{folder}/0000000001/commit", value="c1"))
            assert outbox.step()
            unsent = outbox.put(SetValue(path=f"{folder}/0000000002/commit", value="c2"))
            write_backup(node_dir, tmp_path / "backup.tar", NOW_UNIX_MS)
            while outbox.step():
                pass
        node.ledger.make_block()
        before = node.ledger.log.size
        restore_backup(tmp_path / "backup.tar", tmp_path / "new")
        with outbox_at(tmp_path / "new" / "outbox.sqlite") as outbox:
            while outbox.step():
                pass
            states = [entry.state for key in (sent, unsent) if (entry := outbox.entry(key)) is not None]
        assert states == [EntryState.FINAL, EntryState.REFUSED]
        assert node.ledger.log.size == before
