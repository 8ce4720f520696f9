"""A log that begins anew after a restore: followed where the node says so and its lines agree, a fork where they do not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from neurons.agent.new_epoch import Anchored, begin_log_epoch, read_anchors
from neurons.base.audit_spool import AuditSpool
from neurons.base.event_log import EventLog
from neurons.base.keys import load_node_identity
from neurons.base.log_epochs import mark_restored, read_log_epochs, refuse_restored, renew_log_epochs
from neurons.base.outbox import Outbox
from neurons.cli import main
from neurons.validator.replay import _telemetry
from polarise.canonical import JsonValue
from polarise.errors import ConfigError, ProofRejected, RejectReason, RequestRejected
from polarise.genesis import write_genesis
from polarise.keyfile import KeyKind, create_key_file
from polarise.ledger_client import LedgerClient
from polarise.log_epoch import KIND, STATEMENT_KIND, LogEpoch, open_log_epoch
from polarise.signing import Purpose, SigningKey
from polarise.statement import sign_statement
from polarise.stream import SYSTEM, origin_of
from polarise.transaction import SetValue
from tests.support.identities import People
from tests.support.worker import free_port
from tests.unit.neurons.agent.agent_process import IDENTITY, NODE_KEY, AgentProcess
from tests.unit.neurons.agent.served_agent import (
    OTHER,
    SECOND_VALIDATOR,
    VALIDATOR,
    Market,
    ReadingValidator,
    reading,
    served,
)
from tests.unit.neurons.ledger.ledger_process import SLOW, running
from utils.clock import SystemClock

STATUS: dict[str, JsonValue] = {"kind": "action.status", "payload": {"status": "RUNNING"}}
NOW_UNIX_MS = 1_700_000_000_000
NOTHING_ANCHORED = Anchored(0, {})


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    """An agent of the test's own: it is stopped and given an older log."""
    with AgentProcess(tmp_path / "node") as agent, served(agent, tmp_path) as market:
        yield market


@pytest.fixture
def validator(market: Market, tmp_path: Path) -> Iterator[ReadingValidator]:
    with reading(tmp_path, market.url) as validator:
        yield validator


class Backup:
    """The agent's folder as it was."""

    def __init__(self, market: Market, folder: Path) -> None:
        self._agent, self._copy = market.agent, folder / "saved"
        self._agent.stop()
        shutil.copytree(self._agent.node_dir / "agent", self._copy)
        self._agent.start()

    def put_back(self) -> None:
        """Stop the agent and give it the old folder."""
        self._agent.stop()
        shutil.rmtree(self._agent.node_dir / "agent")
        shutil.copytree(self._copy, self._agent.node_dir / "agent")


def rolled_back(market: Market, validator: ReadingValidator, folder: Path) -> tuple[Backup, int, int]:
    """Restore a log behind what a validator read of it; returns sizes then and when it was read; the agent is stopped."""
    market.agent.client.append([STATUS] * 3)
    assert validator.read().verdict.reason is None
    backup = Backup(market, folder)
    kept = market.agent.client.info(SYSTEM).size
    market.agent.client.append([STATUS] * 8)
    evidence = validator.read()
    assert evidence.verdict.reason is None
    assert evidence.size > kept
    backup.put_back()
    return backup, kept, evidence.size


def test_an_honest_restore_costs_one_gap_and_is_no_fork(
    market: Market, validator: ReadingValidator, tmp_path: Path
) -> None:
    _, kept, read = rolled_back(market, validator, tmp_path)
    begun = begin_log_epoch(market.agent.node_dir, IDENTITY, NOTHING_ANCHORED, NOW_UNIX_MS)
    last = begun.last_checkpoint()
    assert (begun.log_epoch, begun.previous) == (1, SYSTEM)
    assert last is not None
    market.agent.start()

    evidence = validator.read()
    assert evidence.verdict.reason is RejectReason.LOG_GAP
    assert f"without {read - last.checkpoint.size} lines" in evidence.verdict.message
    # What was read and cosigned of the old log is still what this validator says of it.
    assert (evidence.origin, evidence.size) == (origin_of(NODE_KEY, SYSTEM), read)
    assert last.checkpoint.size <= kept

    market.agent.client.append([STATUS] * 2)
    evidence = validator.read()
    assert (evidence.verdict.reason, evidence.origin) == (None, origin_of(NODE_KEY, "system-1"))
    assert next(_telemetry(NODE_KEY, evidence)).holds
    (first,) = validator.archive.lines(evidence.origin, 0, 1)
    line = json.loads(first)
    assert line["kind"] == KIND
    assert (line["payload"]["previous"], line["payload"]["size"]) == (SYSTEM, last.checkpoint.size)
    # It is cosigned under its new name, and the miner shows it.
    assert market.agent.client.info("system-1").cosigned
    assert validator.read().verdict.reason is None


def test_a_validator_that_missed_nothing_follows_without_a_gap(market: Market, validator: ReadingValidator) -> None:
    market.agent.client.append([STATUS] * 3)
    market.agent.stop()
    begin_log_epoch(market.agent.node_dir, IDENTITY, NOTHING_ANCHORED, NOW_UNIX_MS)
    market.agent.start()
    evidence = validator.read()
    assert evidence.verdict.reason is None
    evidence = validator.read()
    assert (evidence.verdict.reason, evidence.origin) == (None, origin_of(NODE_KEY, "system-1"))


def test_a_silent_restore_is_a_fork_and_stays_one(market: Market, validator: ReadingValidator, tmp_path: Path) -> None:
    backup, _, read = rolled_back(market, validator, tmp_path)
    market.agent.start()
    assert validator.read().verdict.reason is RejectReason.MISSING
    market.agent.client.append([STATUS] * read)
    evidence = validator.read()
    assert evidence.verdict.reason is RejectReason.LOG_FORK
    # To begin anew from the state before does not wash it away.
    backup.put_back()
    begin_log_epoch(market.agent.node_dir, IDENTITY, NOTHING_ANCHORED, NOW_UNIX_MS)
    market.agent.start()
    evidence = validator.read()
    assert evidence.verdict.reason is RejectReason.LOG_FORK
    assert evidence.fork is not None
    assert validator.archive.log_epoch(NODE_KEY) == 0


def test_another_history_under_a_new_epoch_is_a_fork(
    market: Market, validator: ReadingValidator, tmp_path: Path
) -> None:
    """One line that is another, and fewer lines than were read: only the named checkpoint tells."""
    _, kept, read = rolled_back(market, validator, tmp_path)
    market.agent.start()
    market.agent.client.append([STATUS])
    assert kept < market.agent.client.info(SYSTEM).size < read
    market.agent.stop()
    begin_log_epoch(market.agent.node_dir, IDENTITY, NOTHING_ANCHORED, NOW_UNIX_MS)
    market.agent.start()
    evidence = validator.read()
    assert evidence.verdict.reason is RejectReason.LOG_FORK
    assert all(finding.holds is not False for finding in _telemetry(NODE_KEY, evidence))


def test_a_lost_disk_takes_a_number_above_what_was_anchored(market: Market, validator: ReadingValidator) -> None:
    market.agent.client.append([STATUS] * 3)
    read = validator.read().size
    market.agent.stop()
    shutil.rmtree(market.agent.node_dir / "agent")
    with pytest.raises(ConfigError, match="could not say"):
        begin_log_epoch(market.agent.node_dir, IDENTITY, None, NOW_UNIX_MS)
    begun = begin_log_epoch(market.agent.node_dir, IDENTITY, Anchored(4, {"system-4": 9}), NOW_UNIX_MS)
    assert (begun.log_epoch, begun.previous, begun.last, begun.anchored_size) == (5, "system-4", None, 9)
    market.agent.start()
    evidence = validator.read()
    assert evidence.verdict.reason is RejectReason.LOG_GAP
    assert f"without {read} lines" in evidence.verdict.message
    assert validator.read().origin == origin_of(NODE_KEY, "system-5")


def test_each_log_epoch_costs_again_and_old_streams_stay_readable(
    market: Market, validator: ReadingValidator, tmp_path: Path
) -> None:
    for number in (1, 2):
        rolled_back(market, validator, tmp_path / str(number))
        begin_log_epoch(market.agent.node_dir, IDENTITY, NOTHING_ANCHORED, NOW_UNIX_MS)
        market.agent.start()
        assert validator.read().verdict.reason is RejectReason.LOG_GAP
        assert validator.archive.log_epoch(NODE_KEY) == number
        assert validator.read().verdict.reason is None
    assert len(market.reader(OTHER).log_epochs()) == 2
    assert market.reader(VALIDATOR).events(SYSTEM, 0).lines
    with pytest.raises(RequestRejected):
        market.reader(VALIDATOR).events("system-3", 0)


def test_the_agent_must_not_run(market: Market) -> None:
    with pytest.raises(ConfigError, match="already runs"):
        begin_log_epoch(market.agent.node_dir, IDENTITY, NOTHING_ANCHORED, NOW_UNIX_MS)
    assert read_log_epochs(market.agent.node_dir, NODE_KEY) == ()


def test_numbers_only_rise(tmp_path: Path) -> None:
    for number in (3, 4):
        begin_log_epoch(tmp_path, IDENTITY, NOTHING_ANCHORED, NOW_UNIX_MS, number=number)
    for number in (0, 4, 1000):
        with pytest.raises(ConfigError, match="is not above"):
            begin_log_epoch(tmp_path, IDENTITY, NOTHING_ANCHORED, NOW_UNIX_MS, number=number or -1)
    assert [body.log_epoch for _, body in read_log_epochs(tmp_path, NODE_KEY)] == [3, 4]


def test_restored_data_runs_only_behind_a_log_epoch(tmp_path: Path) -> None:
    refuse_restored(tmp_path)
    mark_restored(tmp_path)
    with pytest.raises(ConfigError, match="log lacks lines"):
        refuse_restored(tmp_path)
    begin_log_epoch(tmp_path, IDENTITY, NOTHING_ANCHORED, NOW_UNIX_MS)
    refuse_restored(tmp_path)


def begun(**changes: object) -> LogEpoch:
    subkey = IDENTITY.subkey(Purpose.LOG)
    values: dict[str, object] = {
        "node_key": NODE_KEY,
        "log_epoch": 1,
        "previous": SYSTEM,
        "last": None,
        "log_certificate": subkey.certificate,
        "anchored_size": None,
        "reason": "restore",
        "created_unix_ms": NOW_UNIX_MS,
    }
    return LogEpoch.model_validate({**values, **changes})


def test_only_the_node_begins_a_log_epoch() -> None:
    statement = sign_statement(IDENTITY, STATEMENT_KIND, begun())
    assert open_log_epoch(statement, NODE_KEY).log_epoch == 1
    for refused, node_key in (
        (sign_statement(SECOND_VALIDATOR, STATEMENT_KIND, begun()), NODE_KEY),
        (statement, SECOND_VALIDATOR.public_key),
        (sign_statement(IDENTITY, STATEMENT_KIND, begun(node_key=SECOND_VALIDATOR.public_key)), NODE_KEY),
        (sign_statement(IDENTITY, STATEMENT_KIND, begun(previous="system-1")), NODE_KEY),
        (sign_statement(IDENTITY, "receipt", begun()), NODE_KEY),
        (statement.model_copy(update={"body": {**statement.body, "log_epoch": 2}}), NODE_KEY),
    ):
        with pytest.raises(ProofRejected) as caught:
            open_log_epoch(refused, node_key)
        assert caught.value.reason is RejectReason.BAD_SIGNATURE


def test_a_replaced_subkey_begins_nothing_and_a_rotated_node_signs_its_log_epochs_anew(
    market: Market, validator: ReadingValidator, tmp_path: Path
) -> None:
    """Who stole the statement subkey before the rotation could else send validators to a log that is not there, for good."""
    rolled_back(market, validator, tmp_path)
    begin_log_epoch(market.agent.node_dir, IDENTITY, NOTHING_ANCHORED, NOW_UNIX_MS)
    market.agent.start()
    validator.generations.learn({(NODE_KEY, Purpose.STATEMENT): 1})
    assert validator.read().verdict.reason is RejectReason.MISSING
    assert validator.archive.log_epoch(NODE_KEY) == 0
    # The same word by the subkey that counts; a second time there is nothing to do.
    market.agent.stop()
    rotated = replace(IDENTITY, generations={Purpose.STATEMENT: 1})
    ((_, begun),) = read_log_epochs(market.agent.node_dir, NODE_KEY)
    for _ in range(2):
        renew_log_epochs(market.agent.node_dir, rotated)
        ((statement, kept),) = read_log_epochs(market.agent.node_dir, NODE_KEY)
        assert (statement.certificate.counter, kept) == (1, begun)
    market.agent.start()
    assert validator.read().verdict.reason is RejectReason.LOG_GAP
    assert validator.archive.log_epoch(NODE_KEY) == 1


def test_the_command_asks_the_ledger_and_begins_above_what_is_anchored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], people: People
) -> None:
    """A node that lost its disk: nothing is left but the key, and its anchors on a real ledger."""
    node_dir, secret = tmp_path / "node", tmp_path / "passphrase"
    secret.write_text("passphrase\n", encoding="utf-8")
    secret.chmod(0o600)
    create_key_file(node_dir / "keys" / "node.key", KeyKind.NODE, b"passphrase", owner=people.owner)
    identity = load_node_identity(node_dir, b"passphrase")
    key, port = identity.public_key, free_port()
    write_genesis(tmp_path / "genesis.json", SLOW)
    command = ["log", "new-epoch", "--data-dir", str(node_dir), "--passphrase-file", str(secret)]
    settings = [
        "--set",
        f"ledger.endpoint=http://127.0.0.1:{port}",
        "--set",
        f"ledger.genesis={tmp_path / 'genesis.json'}",
    ]
    AuditSpool(node_dir).close()
    assert main([*command, *settings]) == 2
    assert "could not be asked" in capsys.readouterr().out
    with running(tmp_path / "ledger", port) as (node, _):
        client = LedgerClient(f"http://127.0.0.1:{port}", SLOW, timeout_seconds=5)
        with Outbox(tmp_path / "outbox.sqlite", identity, client, SystemClock()) as outbox:
            outbox.put(SetValue(path=f"/registry/{key}", value="entry"))
            for name, size in (("system", 70), ("system-2", 9), ("ab" * 16, 3)):
                outbox.put(
                    SetValue(path=f"/roots/{key}/{name}", value={"size": size, "root": "0" * 64, "note": "0" * 64})
                )
            while outbox.step():
                pass
        node.ledger.make_block()
        assert read_anchors(client, key) == Anchored(2, {"system": 70, "system-2": 9})
        assert main([*command, *settings]) == 0
    said = capsys.readouterr().out
    assert "events go into system-3" in said
    assert "the ledger knows 9 lines" in said
    ((_, begun),) = read_log_epochs(node_dir, key)
    assert (begun.log_epoch, begun.previous, begun.anchored_size) == (3, "system-2", 9)
    with AuditSpool(node_dir) as spool:
        ((_, event),) = spool.oldest()
    assert event["payload"] == {"action": "log.new-epoch", "object": "system-3", "outcome": "OK"}


def test_a_log_that_a_replaced_key_signed_is_not_named(tmp_path: Path) -> None:
    """Its checkpoint could not be checked with the certificate beside it, and the agent would not start."""
    (tmp_path / "agent").mkdir()
    with EventLog(tmp_path / "agent" / "system.sqlite", origin_of(NODE_KEY, SYSTEM), SigningKey(b"\x31" * 32)) as log:
        log.sign()
    begun = begin_log_epoch(tmp_path, IDENTITY, NOTHING_ANCHORED, NOW_UNIX_MS)
    assert begun.last is None
    with AgentProcess(tmp_path) as agent:
        assert agent.client.epochs().system == "system-1"
