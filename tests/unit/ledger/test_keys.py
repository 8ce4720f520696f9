"""Subkeys replaced and nodes revoked on a ledger: from that leaf on nothing of the old key is taken, and all before stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.embedded import EmbeddedLedger
from ledger.fsck import fsck
from ledger.views import Concern
from polarise.errors import ErrorCode, RequestRejected
from polarise.generations import generation_path, publications, revocation_path
from polarise.signing import Certificate, Identity, Purpose
from polarise.statement import sign_statement
from polarise.transaction import SetValue, sign_transaction
from tests.unit.ledger.small_market import GENESIS, MINER, VALIDATOR, ManualClock, Sender, identity, open_ledger

OWNER, THIEF = identity(7), identity(8)
PURPOSES = (Purpose.REQUEST, Purpose.STATEMENT, Purpose.LEDGER)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[EmbeddedLedger]:
    with open_ledger(path) as opened:
        opened.submit(Sender(MINER).register(entry(MINER)).raw)
        yield opened


def entry(node: Identity, owner: Identity = OWNER) -> dict[str, object]:
    """What a node says of itself; the ledger looks at its owner and at who signed it, readers at the rest."""
    body = Certificate.issue(owner.key, node.public_key, Purpose.NODE)
    return {**sign_statement(node, "registry", body).to_wire(), "body": {"owner_key": owner.public_key}}


def rotated(who: Identity, counter: int = 1) -> Identity:
    return replace(who, generations=dict.fromkeys(PURPOSES, counter))


def code(ledger: EmbeddedLedger, sender: Sender, path: str, value: object) -> ErrorCode | None:
    """Submit, and say why it was refused; None when it was taken."""
    try:
        ledger.submit(sender.sign(path, value).raw)
    except RequestRejected as err:
        sender.nonce -= 1
        return err.code
    return None


def publish(ledger: EmbeddedLedger, sender: Sender, who: Identity) -> list[ErrorCode | None]:
    return [code(ledger, sender, op.path, op.value) for op in publications(who).values()]


def test_a_published_generation_voids_the_ones_before(ledger: EmbeddedLedger, path: Path) -> None:
    new = Sender(rotated(MINER), nonce=1)
    assert publish(ledger, new, rotated(MINER)) == [None, None, None]
    registry = f"/registry/{MINER.public_key}"
    # By the old ledger subkey nothing is taken; by the new one no statement that the old statement subkey signed.
    assert code(ledger, Sender(MINER, nonce=4), registry, entry(MINER)) is ErrorCode.KEY_REFUSED
    assert code(ledger, new, registry, entry(MINER)) is ErrorCode.KEY_REFUSED
    assert code(ledger, new, registry, entry(rotated(MINER))) is None
    ledger.make_block()
    # What the old keys signed before stands, and the whole ledger is derived anew, the entry of before among it.
    assert fsck(path, GENESIS).leaves_count == 5


def test_a_ledger_subkey_is_void_when_only_its_certificate_was_published(ledger: EmbeddedLedger) -> None:
    """Also where the one that published it was neither old nor new."""
    certificate = MINER.subkey(Purpose.LEDGER, 5).certificate
    middle = replace(MINER, generations={Purpose.LEDGER: 3})
    sender = Sender(middle, nonce=1)
    assert code(ledger, sender, generation_path(MINER.public_key, Purpose.LEDGER), certificate.to_wire()) is None
    assert code(ledger, sender, f"/registry/{MINER.public_key}", None) is ErrorCode.KEY_REFUSED
    assert code(ledger, Sender(rotated(MINER, 5), nonce=2), f"/registry/{MINER.public_key}", None) is None


def test_generations_only_rise(ledger: EmbeddedLedger) -> None:
    sender = Sender(MINER, nonce=1)
    path = generation_path(MINER.public_key, Purpose.STATEMENT)
    for counter, expected in (
        (0, ErrorCode.CONFLICT),
        (2, None),
        (2, ErrorCode.CONFLICT),
        (1, ErrorCode.CONFLICT),
        (3, None),
    ):
        value = MINER.subkey(Purpose.STATEMENT, counter).certificate.to_wire()
        assert code(ledger, sender, path, value) is expected, counter
    assert code(ledger, sender, path, None) is ErrorCode.RULE_REFUSED


@pytest.mark.parametrize(
    "value",
    [
        "x",
        THIEF.subkey(Purpose.STATEMENT, 1).certificate.to_wire(),
        MINER.subkey(Purpose.REQUEST, 1).certificate.to_wire(),
        {**MINER.subkey(Purpose.STATEMENT, 1).certificate.to_wire(), "counter": 2},
        Certificate.issue(THIEF.key, MINER.public_key, Purpose.STATEMENT, counter=1).to_wire(),
        {**MINER.subkey(Purpose.STATEMENT, 1).certificate.to_wire(), "more": 1},
    ],
)
def test_only_the_nodes_own_certificate_is_taken(ledger: EmbeddedLedger, value: object) -> None:
    """A thief of the ledger subkey alone can certify nothing, and so cannot push the generation away."""
    path = generation_path(MINER.public_key, Purpose.STATEMENT)
    assert code(ledger, Sender(MINER, nonce=1), path, value) is ErrorCode.RULE_REFUSED


def test_strangers_and_other_purposes_have_no_place(ledger: EmbeddedLedger) -> None:
    certificate = THIEF.subkey(Purpose.STATEMENT, 1).certificate.to_wire()
    stranger = Sender(THIEF)
    for key in (THIEF.public_key, MINER.public_key):
        path = generation_path(key, Purpose.STATEMENT)
        assert code(ledger, stranger, path, certificate) is ErrorCode.RULE_REFUSED
    for purpose in (Purpose.LOG, Purpose.WITNESS, Purpose.NODE):
        path, value = generation_path(MINER.public_key, purpose), MINER.subkey(purpose, 1).certificate.to_wire()
        assert code(ledger, Sender(MINER, nonce=1), path, value) is ErrorCode.RULE_REFUSED


def test_a_record_by_a_replaced_subkey_is_refused(ledger: EmbeddedLedger) -> None:
    sender = Sender(VALIDATOR)
    body = Certificate.issue(OWNER.key, VALIDATOR.public_key, Purpose.NODE)
    old, new = (sign_statement(who, "epoch_record", body).to_wire() for who in (VALIDATOR, rotated(VALIDATOR)))
    ledger.submit(sender.commit(1).raw)
    statement_only = replace(VALIDATOR, generations={Purpose.STATEMENT: 1})
    assert publish(ledger, sender, statement_only) == [None]
    record = f"/epochs/{VALIDATOR.public_key}/0000000001/record"
    assert code(ledger, sender, record, old) is ErrorCode.KEY_REFUSED
    assert code(ledger, sender, record, new) is None


def test_an_owner_takes_a_stolen_node_off_for_good(ledger: EmbeddedLedger, path: Path) -> None:
    owner, thief = Sender(OWNER), Sender(MINER, nonce=1)
    assert code(ledger, owner, revocation_path(MINER.public_key), {"owner": OWNER.public_key}) is None
    assert ledger.views.get(f"/registry/{MINER.public_key}", Concern.PENDING) is None
    assert code(ledger, thief, f"/registry/{MINER.public_key}", entry(MINER)) is ErrorCode.KEY_REFUSED
    assert publish(ledger, Sender(rotated(MINER), nonce=1), rotated(MINER)) == [ErrorCode.KEY_REFUSED] * 3
    for value in (None, {"owner": OWNER.public_key}):
        assert code(ledger, owner, revocation_path(MINER.public_key), value) is ErrorCode.CONFLICT
    ledger.make_block()
    fsck(path, GENESIS)


def test_who_holds_the_node_key_cannot_change_who_may_revoke(ledger: EmbeddedLedger) -> None:
    """The thief names itself as owner, empties the entry, names itself again: the first entry counts."""
    sender = Sender(MINER, nonce=1)
    for value in (entry(MINER, THIEF), None, entry(MINER, THIEF)):
        assert code(ledger, sender, f"/registry/{MINER.public_key}", value) is None
    path = revocation_path(MINER.public_key)
    assert code(ledger, Sender(THIEF), path, {}) is ErrorCode.RULE_REFUSED
    assert code(ledger, sender, path, {}) is ErrorCode.RULE_REFUSED
    assert code(ledger, Sender(OWNER), path, {}) is None


def test_a_node_without_an_entry_has_no_owner(ledger: EmbeddedLedger) -> None:
    assert code(ledger, Sender(OWNER), revocation_path(VALIDATOR.public_key), {}) is ErrorCode.RULE_REFUSED


def test_both_hold_after_a_restart(path: Path) -> None:
    clock = ManualClock()
    with open_ledger(path, clock) as ledger:
        ledger.submit(Sender(MINER).register(entry(MINER)).raw)
        publish(ledger, Sender(rotated(MINER), nonce=1), rotated(MINER))
        ledger.make_block()
    with open_ledger(path, clock) as ledger:
        op = SetValue(path=f"/registry/{MINER.public_key}", value=None)
        old = sign_transaction(MINER, op, net=GENESIS.net, nonce=4, time_unix_ms=0)
        with pytest.raises(RequestRejected) as refused:
            ledger.submit(old.raw)
        assert refused.value.code is ErrorCode.KEY_REFUSED
