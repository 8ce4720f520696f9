"""Whom a ledger takes in: places for nodes, room for registry entries, and that neither is a rule of the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.admission import REGISTRY_BYTES_MAX, Admission
from ledger.embedded import EmbeddedLedger
from ledger.fsck import fsck
from polarise.errors import ErrorCode, RequestRejected
from polarise.ledger_state import SUBTREE_BYTES_MAX, SUBTREE_VALUES_MAX
from polarise.signing import Purpose
from tests.support.identities import identity
from tests.unit.ledger.small_market import GENESIS, LOG_KEY, MINER, VALIDATOR, ManualClock, Sender

LEAST = len(b'"here"')


@pytest.fixture(name="ledger")
def ledger_with_two_places(tmp_path: Path) -> Iterator[EmbeddedLedger]:
    """Two nodes may write, and their entries may have what `register` puts there, and a byte."""
    bounds = Admission([VALIDATOR.public_key], senders_max=2, registry_bytes_max=2 * LEAST + 1)
    path = tmp_path / "ledger.sqlite"
    with EmbeddedLedger(path, GENESIS, LOG_KEY, ManualClock(), admission=bounds) as made:
        yield made
    fsck(path, GENESIS)


def is_full(ledger: EmbeddedLedger, sender: Sender, value: object = "here") -> bool:
    try:
        ledger.submit(sender.register(value).raw)
    except RequestRejected as err:
        if err.code != ErrorCode.NO_CAPACITY or err.status != 409:
            raise
        sender.nonce -= 1
        return True
    return False


def test_who_has_a_place_writes_on_where_nobody_else_gets_one(ledger: EmbeddedLedger) -> None:
    first, second, third = Sender(MINER), Sender(identity("second")), Sender(identity("third"))
    assert not is_full(ledger, first)
    assert not is_full(ledger, second)
    assert is_full(ledger, third)
    ledger.submit(Sender(VALIDATOR).commit(1).raw)
    ledger.submit(first.sign(f"/registry/{MINER.public_key}", None).raw)
    assert is_full(ledger, third), "a place is not given back: what a node wrote stays"
    assert not is_full(ledger, first)


def test_entries_together_stay_within_their_room_and_may_always_become_smaller(ledger: EmbeddedLedger) -> None:
    first, second = Sender(MINER), Sender(identity("second"))
    assert not is_full(ledger, first)
    assert not is_full(ledger, second, "heres")
    assert is_full(ledger, first, "heres"), "one byte too many"
    assert not is_full(ledger, first, "her")
    assert not is_full(ledger, first, "here")


def test_only_a_sender_that_never_wrote_is_a_newcomer(ledger: EmbeddedLedger) -> None:
    seen: list[str] = []
    miner = Sender(MINER)
    for number in range(3):
        ledger.submit(miner.register(number).raw, lambda: seen.append("new"))
    assert seen == ["new"]


def test_newcomer_that_is_refused_leaves_nothing(ledger: EmbeddedLedger) -> None:
    def refuse() -> None:
        raise RequestRejected(ErrorCode.TOO_MANY_REQUESTS, "later", status=429)

    with pytest.raises(RequestRejected, match="later"):
        ledger.submit(Sender(MINER).register().raw, refuse)
    assert ledger.log.size == 0


def test_what_is_taken_at_most_is_what_readers_take_at_once() -> None:
    """Each node has one entry, and one newest certificate of each purpose, in two subtrees."""
    assert REGISTRY_BYTES_MAX < SUBTREE_BYTES_MAX
    assert 14_000 * (len(Purpose) - 1) <= SUBTREE_VALUES_MAX, "ledger.max_nodes may be 14,000; NODE is no subkey"
