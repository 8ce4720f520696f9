"""A stopped node's subkeys replaced with a real key file, outbox and ledger, and the process killed at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from neurons.agent.new_epoch import Anchored, begin_log_epoch
from neurons.base.data_dir import DataDir
from neurons.base.key_rotation import Rotated, publish, rotate
from neurons.base.key_watch import KeyWatch
from neurons.base.keys import load_node_identity, node_key_path
from neurons.base.ledger_post import post
from neurons.base.log_epochs import read_log_epochs
from neurons.base.outbox import EntryState, Outbox
from neurons.base.tls import tls_public_key
from neurons.cli import main
from polarise.errors import ConfigError, ErrorCode, PeerRefused, RequestRejected
from polarise.generations import Generations, generation_path, publications
from polarise.keyfile import KeyKind, create_key_file, rewrite_key_file
from polarise.ledger_client import LedgerClient
from polarise.ledger_registry import withdrawal
from polarise.signing import Identity, KeyReplaced, Purpose
from polarise.tls import Pin
from polarise.transaction import SetValue, sign_transaction
from tests.support.small_ledger import SmallLedger, small_ledger
from tests.support.tls import certificate_of, der_of, now_unix_ms
from utils.clock import SystemClock

PASSPHRASE = b"correct horse"
PURPOSES = (Purpose.REQUEST, Purpose.STATEMENT, Purpose.LEDGER)
STEPS = ("before the key file", "key file", "queued", "sent")


class Killed(BaseException):
    """The process ends here; nothing of ours catches it."""


@dataclass(frozen=True)
class Node:
    """A registered node that is stopped."""

    folder: Path
    ledger: SmallLedger

    def identity(self) -> Identity:
        return load_node_identity(self.folder, PASSPHRASE)

    def client(self) -> LedgerClient:
        return self.ledger.client()

    def outbox(self, identity: Identity) -> Outbox:
        return Outbox(self.folder / "outbox.sqlite", identity, self.client(), SystemClock())

    def rotate(self, reach: Callable[[str], None] = lambda _step: None, *, wait_seconds: float = 20.0) -> Rotated:
        return rotate(
            self.folder, PASSPHRASE, PURPOSES, self.client(), self.outbox, wait_seconds=wait_seconds, reach=reach
        )

    def known(self) -> Generations:
        """What somebody who reads the ledger now takes for replaced."""
        generations = Generations()
        KeyWatch(self.client(), generations).refresh()
        return generations


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLedger]:
    with small_ledger(tmp_path_factory.mktemp("rotation")) as running:
        yield running


@pytest.fixture
def node(tmp_path: Path, ledger: SmallLedger) -> Node:
    owner = create_key_file(tmp_path / "owner.key", KeyKind.OWNER, PASSPHRASE)
    identity = create_key_file(node_key_path(tmp_path), KeyKind.NODE, PASSPHRASE, owner=owner)
    entry = {"body": {"owner_key": owner.public_key}}
    post(ledger.client(), identity, SetValue(path=f"/registry/{identity.public_key}", value=entry))
    return Node(tmp_path, ledger)


def is_taken(node: Node, identity: Identity) -> bool:
    """Whether the ledger takes what this identity writes."""
    client = node.client()
    op = SetValue(path=f"/registry/{identity.public_key}", value="here")
    nonce = client.next_nonce(identity.public_key)
    try:
        client.submit(sign_transaction(identity, op, net=client.genesis.net, nonce=nonce, time_unix_ms=0))
    except RequestRejected as err:
        return err.code is not ErrorCode.KEY_REFUSED
    return True


def test_after_a_rotation_the_old_subkeys_sign_nothing_more(node: Node) -> None:
    old = node.identity()
    node.known().check(old.public_key, Purpose.STATEMENT, 0)
    begin_log_epoch(node.folder, old, Anchored(0, {}), 1)
    rotated = node.rotate()
    ((statement, _),) = read_log_epochs(node.folder, old.public_key)
    assert statement.certificate.counter == 1
    assert (rotated.waiting, rotated.refused, rotated.was_begun) == ((), {}, False)
    new = node.identity()
    assert new.generations == dict.fromkeys(PURPOSES, 1)
    assert new.subkey(Purpose.LOG).key.public_key == old.subkey(Purpose.LOG).key.public_key
    for purpose in PURPOSES:
        assert new.subkey(purpose).key.public_key != old.subkey(purpose).key.public_key
        node.known().check(new.public_key, purpose, 1)
        with pytest.raises(KeyReplaced, match="generation 0"):
            node.known().check(new.public_key, purpose, 0)
    assert not is_taken(node, old)
    assert is_taken(node, new)


def test_an_old_copy_of_the_key_file_rotates_past_the_ledger(node: Node) -> None:
    """And who reads the ledger keeps what was learned over a restart; numbers never fall."""
    copy, kept = node_key_path(node.folder).read_bytes(), node.folder / "generations.json"
    node.rotate()
    node_key_path(node.folder).write_bytes(copy)
    assert node.rotate().generations == {"ledger": 2, "request": 2, "statement": 2}
    key = node.identity().public_key
    KeyWatch(node.client(), Generations(kept)).refresh()
    again = Generations(kept)
    assert again.least(key, Purpose.REQUEST) == 2
    again.learn({(key, Purpose.REQUEST): 1})
    assert Generations(kept).least(key, Purpose.REQUEST) == 2
    kept.write_bytes(b"{")
    with pytest.raises(ConfigError, match="remove it"):
        Generations(kept)


def test_an_old_copy_of_the_key_file_alone_does_not_pass_for_a_rotation_to_be_finished(node: Node) -> None:
    """With its outbox lost as well, as when only the key file was kept: what it says is void, and not called final."""
    identity = rewrite_key_file(node_key_path(node.folder), PASSPHRASE, generations={Purpose.STATEMENT: 1})
    newer = identity.subkey(Purpose.STATEMENT, counter=2).certificate
    path = generation_path(identity.public_key, Purpose.STATEMENT)
    post(node.client(), identity, SetValue(path=path, value=newer.to_wire()))
    rotated = rotate(node.folder, PASSPHRASE, [Purpose.STATEMENT], node.client(), node.outbox)
    assert rotated == Rotated({"statement": 3}, was_begun=False, waiting=(), refused={})
    node.known().check(identity.public_key, Purpose.STATEMENT, 3)


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_old_or_new_works_and_the_next_run_finishes(node: Node, step: str) -> None:
    old = node.identity()

    def reach(reached: str) -> None:
        if reached == step:
            raise Killed

    with pytest.raises(Killed):
        node.rotate(reach)
    # Whatever the key file says now is what the ledger takes: never neither.
    assert is_taken(node, node.identity())
    rotated = node.rotate()
    assert rotated.waiting == ()
    # Killed behind the last step nothing was left to finish, so the next run is a rotation of its own.
    assert node.identity().generations == dict.fromkeys(PURPOSES, 2 if step == "sent" else 1)
    assert rotated.was_begun is (step in {"key file", "queued"})
    assert not is_taken(node, old)


def test_a_ledger_that_is_away_gets_it_when_the_node_starts(node: Node) -> None:
    """Rotated without it, nothing is rotated twice, and the node's start queues and sends what is missing."""
    for was_begun in (False, True):
        rotated = node.rotate(wait_seconds=0)
        assert (rotated.was_begun, len(rotated.waiting)) == (was_begun, 3)
    identity = node.identity()
    with node.outbox(identity) as outbox:
        publish(outbox, identity)
        while any(state(outbox, name) is not EntryState.FINAL for name in publications(identity)):
            outbox.step()
    with pytest.raises(KeyReplaced):
        node.known().check(identity.public_key, Purpose.REQUEST, 0)
    assert node.rotate().generations == {"ledger": 2, "request": 2, "statement": 2}


def test_with_a_lost_outbox_what_stands_there_is_no_refusal(node: Node) -> None:
    node.rotate()
    for path in node.folder.glob("outbox.sqlite*"):
        path.unlink()
    rotated = node.rotate()
    assert (rotated.was_begun, rotated.waiting, rotated.refused) == (True, (), {})
    assert rotated.generations == {"ledger": 1, "request": 1, "statement": 1}


def state(outbox: Outbox, name: str) -> EntryState | None:
    entry = outbox.entry(name)
    return None if entry is None else entry.state


def test_what_was_signed_before_and_lay_in_the_outbox_is_signed_anew(node: Node) -> None:
    old = node.identity()
    op = SetValue(path=f"/roots/{old.public_key}/system", value="r")
    with node.outbox(old) as outbox:
        name = outbox.put(op)
        row = outbox.query("SELECT * FROM entry")[0]
        outbox._signed(row)  # as if the ledger had gone in the moment between signing and sending
    # The nonce of what lies there is used up by somebody else of the node's, with the new subkey.
    rotated = node.rotate()
    assert rotated.waiting == ()
    with node.outbox(node.identity()) as outbox:
        while state(outbox, name) is EntryState.QUEUED:
            outbox.step()
        assert state(outbox, name) in {EntryState.ACCEPTED, EntryState.FINAL}


def test_a_node_that_never_joined_is_told_so(node: Node) -> None:
    post(node.client(), node.identity(), withdrawal(node.identity().public_key))
    refused = node.rotate().refused
    assert len(refused) == 3
    assert all("registry" in reason for reason in refused.values())


@pytest.mark.parametrize("purpose", [Purpose.LOG, Purpose.WITNESS, Purpose.NODE])
def test_histories_under_one_key_are_not_rotated(node: Node, purpose: Purpose) -> None:
    before = node_key_path(node.folder).read_bytes()
    with pytest.raises(ConfigError, match=f"the {purpose} subkey is not rotated"):
        rotate(node.folder, PASSPHRASE, [purpose], node.client(), node.outbox)
    assert node_key_path(node.folder).read_bytes() == before


def settings(node: Node) -> list[str]:
    return [
        *("--set", f"ledger.endpoint={node.ledger.url}", "--set", f"ledger.genesis={node.ledger.genesis_file}"),
        *("--data-dir", str(node.folder)),
    ]


@pytest.fixture
def passphrase_file(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_bytes(PASSPHRASE)
    path.chmod(0o600)
    return path


def test_the_command_rotates_a_stopped_node_and_refuses_a_running_one(
    node: Node, passphrase_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["key", "rotate", "--passphrase-file", str(passphrase_file), *settings(node)]
    with DataDir(node.folder):
        assert main(arguments) == 2
        assert main([*arguments, "--token-secret"]) == 2
    assert node.identity().generations == {}
    assert "already runs" in capsys.readouterr().err
    assert main([*arguments, "--purpose", "request"]) == 0
    assert node.identity().generations == {Purpose.REQUEST: 1}
    assert main([*arguments, "--purpose", "log"]) == 2
    assert "another log" in capsys.readouterr().err


def test_a_rotated_tls_key_needs_a_new_entry_and_the_command_says_so(
    node: Node, passphrase_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tls_public_key(node.identity())
    arguments = ["key", "rotate", "--passphrase-file", str(passphrase_file), *settings(node)]
    assert main([*arguments, "--purpose", "tls"]) == 0
    assert "`python main.py join` before the node starts" in capsys.readouterr().out
    rotated = node.identity()
    assert rotated.generations == {Purpose.TLS: 1}
    assert tls_public_key(rotated) != before
    assert node.known().least(rotated.public_key, Purpose.TLS) == 1
    shown = der_of(certificate_of(rotated))
    assert Pin(rotated.public_key, tls_public_key(rotated)).check(shown, now_unix_ms()).counter == 1
    with pytest.raises(PeerRefused, match="the registry says"):
        Pin(rotated.public_key, before).check(shown, now_unix_ms())


def test_the_owner_revokes_a_node_by_command(
    node: Node, passphrase_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = node.identity().public_key
    create_key_file(node.folder / "other.key", KeyKind.OWNER, PASSPHRASE)

    def revoke(owner: str) -> int:
        flags = ["--owner-key", str(node.folder / owner), "--passphrase-file", str(passphrase_file)]
        return main(["key", "revoke", key, *flags, *settings(node)])

    assert revoke("other.key") == 6
    assert "RULE_REFUSED" in capsys.readouterr().err
    node.known().check(key, Purpose.REQUEST, 0)
    assert revoke("owner.key") == 0
    with pytest.raises(KeyReplaced, match="revoked by its owner"):
        node.known().check(key, Purpose.REQUEST, 2**53 - 1)
    assert not is_taken(node, node.identity())


def test_a_passphrase_is_replaced_and_the_key_stays(
    node: Node, tmp_path: Path, passphrase_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    new.write_bytes(b"battery staple\n")
    new.chmod(0o600)
    before = node.identity()
    flags = ["--passphrase-file", str(passphrase_file), "--data-dir", str(node.folder)]
    assert main(["key", "rotate", "--passphrase", "--new-passphrase-file", str(new), *flags]) == 0
    assert load_node_identity(node.folder, b"battery staple").public_key == before.public_key
    with pytest.raises(ConfigError, match="cannot be opened"):
        load_node_identity(node.folder, PASSPHRASE)
    assert node_key_path(node.folder).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in node_key_path(node.folder).parent.iterdir()] == ["node.key"]
    capsys.readouterr()
