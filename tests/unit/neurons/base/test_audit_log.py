"""An audit log that was changed is found, at its line: by its own hashes, its signatures, or what the ledger holds."""

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neurons.base.anchor import Anchor
from neurons.base.audit_log import Anchored, AuditLog
from neurons.base.audit_sinks import FILE_NAME, LocalSink
from neurons.base.audit_spool import Event
from neurons.base.ledger_post import post
from neurons.base.log_certificates import FILE_NAME as CERTIFICATES
from neurons.base.log_certificates import keep_certificate
from neurons.base.outbox import Outbox
from neurons.cli import main
from polarise.checkpoint import Checkpoint, parse_checkpoint, sign_checkpoint
from polarise.errors import ConfigError, LogDamaged
from polarise.frontier import Frontier
from polarise.merkle import leaf_hash
from polarise.notes import parse_note
from polarise.signing import Identity, Purpose
from polarise.stream import AUDIT, origin_of
from polarise.transaction import SetValue
from tests.support.identities import identity
from tests.support.miners import wait_until
from tests.support.proving_miner import MINER, VALIDATOR
from tests.support.small_ledger import SmallLedger, small_ledger
from tlog.store import LogStore
from utils.clock import SystemClock

NODE = VALIDATOR
LINES = 7


def write(root: Path, first: int = 0, count: int = LINES, *, each: bool = True) -> None:
    """Write lines of a node, each under a checkpoint of its own, or all under one."""
    events: list[Event] = [
        {"kind": "audit.action", "payload": {"action": "POST /token", "actor": f"{n:064x}", "outcome": "OK"}}
        for n in range(first, first + count)
    ]
    with LocalSink(root, NODE, "validator", SystemClock()) as sink:
        for batch in [[event] for event in events] if each else [events]:
            sink.append(batch)


def anchored(root: Path) -> Anchored:
    """Return what the node would put on the ledger now."""
    with LocalSink(root, NODE, "validator", SystemClock()) as sink:
        note = sink.latest()
    assert note is not None
    checkpoint = parse_checkpoint(parse_note(note).text)
    return Anchored(checkpoint.size, checkpoint.root.hex())


def verify(root: Path, *anchors: Anchored) -> int:
    """Verify it all, and return how many lines there are."""
    log = AuditLog(root, NODE.public_key, anchors)
    with contextlib.closing(log):
        while log.step():
            pass
        assert log.finish() == 0
        return log.size


@contextlib.contextmanager
def tampering(root: Path) -> Iterator[sqlite3.Connection]:
    """Open the file as somebody does who is root: without the triggers."""
    connection = sqlite3.connect(root / FILE_NAME)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    yield connection
    connection.commit()
    connection.close()


def flip(line: bytes) -> bytes:
    """Change one byte: who it was."""
    place = line.index(b'"actor":"') + 20
    return line[:place] + (b"1" if line[place : place + 1] == b"0" else b"0") + line[place + 1 :]


def edit(connection: sqlite3.Connection, index: int = 3) -> bytes:
    (line,) = connection.execute("SELECT line FROM leaf WHERE id = ?", (index,)).fetchone()
    changed = flip(bytes(line))
    connection.execute("UPDATE leaf SET line = ? WHERE id = ?", (changed, index))
    return changed


def edit_with_hash(connection: sqlite3.Connection) -> None:
    changed = edit(connection)
    connection.execute("UPDATE node SET hash = ? WHERE level = 0 AND id = 3", (leaf_hash(changed),))


def swap(connection: sqlite3.Connection) -> None:
    for table, column in (("leaf", "line"), ("node", "hash")):
        where = " AND level = 0" if table == "node" else ""
        rows = [
            connection.execute(f"SELECT {column} FROM {table} WHERE id = ?{where}", (n,)).fetchone()[0] for n in (2, 3)
        ]
        for number, value in zip((3, 2), rows, strict=True):
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?{where}", (value, number))


def cut_lines(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM leaf WHERE id >= 5")


def take_out(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM leaf WHERE id = 3")


def take_out_checkpoint(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM checkpoint WHERE id = 3")


def cut_off(connection: sqlite3.Connection) -> None:
    """Cut lines, nodes and checkpoints off, so that nothing in the file shows it."""
    connection.execute("DELETE FROM leaf WHERE id >= 5")
    connection.execute("DELETE FROM checkpoint WHERE size > 5")
    connection.execute("DELETE FROM node WHERE (id + 1) * (1 << level) > 5")


def test_whole_log_holds(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, LINES, 3000, each=False)
    assert verify(tmp_path, anchored(tmp_path)) == LINES + 3000


def test_log_of_an_agent_lies_in_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "agent")
    assert verify(tmp_path) == LINES


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (edit, "line 3"),
        (edit_with_hash, "line 3"),
        (swap, "line 2"),
        (cut_lines, "line 5"),
        (take_out, "line 3"),
        (take_out_checkpoint, "checkpoint 3"),
    ],
)
def test_change_is_found_at_its_line(
    tmp_path: Path, change: Callable[[sqlite3.Connection], object], place: str
) -> None:
    write(tmp_path)
    with tampering(tmp_path) as connection:
        change(connection)
    with pytest.raises(LogDamaged) as caught:
        verify(tmp_path)
    assert caught.value.place == place


def test_line_under_a_checkpoint_with_others_is_found_among_them(tmp_path: Path) -> None:
    write(tmp_path, each=False)
    with tampering(tmp_path) as connection:
        edit_with_hash(connection)
    with pytest.raises(LogDamaged, match="lines 0 to 6"):
        verify(tmp_path)


def test_end_that_was_cut_off_cleanly_is_found_by_the_ledger_alone(tmp_path: Path) -> None:
    write(tmp_path)
    anchor = anchored(tmp_path)
    with tampering(tmp_path) as connection:
        cut_off(connection)
    assert verify(tmp_path) == 5, "nothing in the file shows it"
    with pytest.raises(LogDamaged, match="the ledger holds the root of 7 lines, 5 signed ones are here") as caught:
        verify(tmp_path, anchor)
    assert caught.value.place == "line 5"


def test_log_written_anew_with_the_nodes_own_key_is_found_by_the_ledger(tmp_path: Path) -> None:
    write(tmp_path / "true")
    write(tmp_path / "forged", 1, LINES + 2)
    assert verify(tmp_path / "forged") == LINES + 2
    with pytest.raises(LogDamaged, match="they were written anew") as caught:
        verify(tmp_path / "forged", anchored(tmp_path / "true"))
    assert caught.value.place == "lines 0 to 6"


def test_log_signed_by_another_key_does_not_hold(tmp_path: Path) -> None:
    origin = origin_of(NODE.public_key, AUDIT)
    stranger = identity("stranger")
    with LogStore(tmp_path / FILE_NAME, origin) as store:
        store.append(json.dumps({"kind": "audit.node", "seq": 0, "stream": origin}, separators=(",", ":")).encode())
        store.checkpoint(stranger.subkey(Purpose.LOG).key)
    keep_certificate(tmp_path, stranger.subkey(Purpose.LOG).certificate)
    with pytest.raises(LogDamaged, match="not signed by a key that the node certified"):
        verify(tmp_path)


def test_certificates_of_replaced_keys_stay_and_of_one_key_only_one_is_kept(tmp_path: Path) -> None:
    for counter in (0, 1, 1, 0):
        keep_certificate(tmp_path, NODE.subkey(Purpose.LOG, counter).certificate)
    assert len(json.loads((tmp_path / CERTIFICATES).read_text())) == 2
    (tmp_path / CERTIFICATES).write_text("{}")
    write(tmp_path)
    assert verify(tmp_path) == LINES


def test_folder_without_a_log_is_the_operators_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no audit log"):
        AuditLog(tmp_path, NODE.public_key)


def command(root: Path, *further: str) -> int:
    return main(["audit", "log", "--data-dir", str(root), "--node-key", NODE.public_key, *further])


def test_command_prints_what_is_asked_for_and_says_that_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    assert command(tmp_path) == 0
    table = capsys.readouterr()
    assert len(table.out.splitlines()) == LINES
    assert "7 lines verified" in table.err
    assert command(tmp_path, "--key", f"{3:064x}", "-o", "json", "--since", "1h") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["payload"]["actor"] == f"{3:064x}"
    assert command(tmp_path, "--since", "2099-01-01T00:00:00Z") == 0
    assert capsys.readouterr().out == ""


def test_what_a_line_says_reaches_no_terminal_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever has the log key writes what it likes; the owner who reads it sees words, in one line for each line."""
    clear, forged = "\x1b[2J", "OK\n     9  all is well"
    payload: Event = {"action": clear, "actor": forged, "role": clear, "outcome": forged, "object": clear}
    with LocalSink(tmp_path, NODE, "validator", SystemClock()) as sink:
        sink.append([{"kind": "audit.action", "payload": payload}])
    assert command(tmp_path) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isprintable()


def test_command_ends_with_seven_and_names_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    with tampering(tmp_path) as connection:
        edit(connection)
    assert command(tmp_path) == 7
    assert "line 3" in capsys.readouterr().err


def test_command_wants_ledger_and_genesis_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    assert command(tmp_path, "--ledger", "http://127.0.0.1:9") == 2
    assert "--genesis" in capsys.readouterr().err


def test_audit_of_epochs_still_wants_a_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["audit"])
    assert "one of the arguments --ledger --ledger-file --offline is required" in capsys.readouterr().err


def anchor_now(root: Path, folder: Path, ledger: SmallLedger) -> None:
    """Put the newest checkpoint on the ledger, as a node does, and wait until it is final."""
    with (
        Outbox(folder / "outbox.sqlite", NODE, ledger.client(), SystemClock()) as outbox,
        LocalSink(root, NODE, "validator", SystemClock()) as sink,
    ):
        anchor = Anchor(NODE.public_key, lambda _audit: sink.latest(), outbox, (AUDIT,))
        anchor.request(AUDIT)
        anchor.anchor_due()
        key = f"/roots/{NODE.public_key}/audit#{anchored(root).size}"
        for _ in range(100):
            outbox.step()
            if (found := outbox.wait(key, 0.1)) is not None and found.height is not None:
                return
    raise AssertionError("the anchor is not final")


def test_ledger_shows_the_cut_over_http(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real anchor on a real ledger; then the end is cut off without a trace in the file."""
    root = tmp_path / "node"
    write(root)
    with small_ledger(tmp_path) as ledger:
        options = ("--ledger", ledger.url, "--genesis", str(ledger.genesis_file))
        assert command(root, *options) == 2
        assert "put no audit log on this ledger" in capsys.readouterr().err
        anchor_now(root, tmp_path, ledger)
        assert command(root, *options) == 0
        assert "7 of them held against all 1 anchors" in capsys.readouterr().err
        with tampering(root) as connection:
            cut_off(connection)
        assert command(root) == 0
        assert command(root, *options) == 7
        assert "line 5" in capsys.readouterr().err
        # The daemon goes on and anchors what is left: the earlier anchor is still a leaf.
        write(root, 90, 4)
        anchor_now(root, tmp_path, ledger)
        assert command(root) == 0
        assert command(root, *options) == 7
        assert "they were written anew" in capsys.readouterr().err
        # Whoever has the ledger's subkey can write nonsense there, too.
        post(ledger.client(), NODE, SetValue(path=f"/roots/{NODE.public_key}/{AUDIT}", value={"size": "x"}))
        assert command(root, *options) == 7
        assert "names no size and root" in capsys.readouterr().err


def test_log_that_stands_still_is_anchored_once_the_node_is_registered(tmp_path: Path) -> None:
    note = _note_of(MINER)
    with (
        small_ledger(tmp_path) as ledger,
        Outbox(tmp_path / "o.sqlite", MINER, ledger.client(), SystemClock()) as outbox,
    ):
        anchor = Anchor(MINER.public_key, lambda _audit: note, outbox, (AUDIT,))

        def anchored_at() -> object:
            anchor.request(AUDIT)
            anchor.anchor_due()
            while outbox.step():
                pass
            return ledger.client().read(f"/roots/{MINER.public_key}/{AUDIT}").value

        assert anchored_at() is None, "the ledger takes nothing of a node that stands nowhere"
        outbox.put(SetValue(path=f"/registry/{MINER.public_key}", value={}))
        wait_until(lambda: anchored_at() is not None, 20, "it was never tried again", poll_seconds=0.3)


def _note_of(node: Identity) -> bytes:
    checkpoint = Checkpoint(origin_of(node.public_key, AUDIT), 1, leaf_hash(b"a line"))
    return sign_checkpoint(checkpoint, node.subkey(Purpose.LOG).key).raw


def test_frontier_of_nothing_is_the_empty_log(tmp_path: Path) -> None:
    write(tmp_path, count=0)
    assert verify(tmp_path) == Frontier().size
