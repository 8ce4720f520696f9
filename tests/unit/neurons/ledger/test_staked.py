"""Who is a validator by stake: read from a real ledger, kept while it is away or lies."""

from pathlib import Path

import pytest

from neurons.base.access import Role, RoleTable
from neurons.base.staked import StakedValidators
from polarise.errors import RequestRejected
from polarise.ledger_client import LedgerClient
from tests.unit.neurons.ledger.ledger_process import SLOW, running
from tests.unit.neurons.ledger.lying_ledger import Answer, LyingDoor

STAKE = max(member.stake for member in SLOW.validators)
NAMED = frozenset(member.key for member in SLOW.validators if member.stake >= STAKE)
BEFORE = frozenset({"ab" * 32})


def nothing(_query: dict[str, str], answer: Answer) -> Answer:
    return {**answer, "values": []}


def test_genesis_counts_until_the_ledger_answers() -> None:
    nowhere = LedgerClient("http://127.0.0.1:9", SLOW)
    staked = StakedValidators(nowhere, STAKE)
    assert staked.keys() == NAMED
    assert StakedValidators(nowhere, STAKE + 1).keys() == frozenset()
    staked.refresh()
    assert staked.keys() == NAMED


def test_ledger_replaces_what_was_known_and_a_ledger_that_is_away_replaces_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as (_node, url):
        client = LedgerClient(url, SLOW)
        staked, too_little = StakedValidators(client, STAKE), StakedValidators(client, STAKE + 1)
        staked._keys = too_little._keys = BEFORE
        for reader in (staked, too_little):
            reader.refresh()
        assert (staked.keys(), too_little.keys()) == (NAMED, frozenset())
    staked.refresh()
    assert staked.keys() == NAMED


def test_ledger_that_hides_a_validator_is_not_believed(tmp_path: Path) -> None:
    with running(tmp_path) as (_node, url):
        door = LyingDoor(url)
        with door.running() as shown:
            staked = StakedValidators(LedgerClient(shown, SLOW), STAKE)
            staked.refresh()
            door.lies["/state/values"] = nothing
            staked.refresh()
    assert staked.keys() == NAMED


def test_owners_lists_go_before_the_ledger() -> None:
    renter, staked = "cd" * 32, "ab" * 32
    table = RoleTable("ef" * 32, renters=[renter], staked=lambda: {renter, staked})
    assert (table.role_of(renter), table.role_of(staked), table.role_of("ef" * 32)) == (
        Role.RENTER,
        Role.VALIDATOR,
        Role.OWNER,
    )
    assert table.is_listed(staked)
    with pytest.raises(RequestRejected, match="stands on no list"):
        table.role_of("12" * 32)


def test_open_table_knows_who_is_listed() -> None:
    table = RoleTable(None, renters=["cd" * 32], is_open=True)
    assert table.role_of("12" * 32) is Role.RENTER
    assert (table.is_listed("cd" * 32), table.is_listed("12" * 32)) == (True, False)
