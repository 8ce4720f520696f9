"""POST /token with a consent over live HTTP: which is taken, what the leases made under it show, and what the operator sees."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from neurons.miner.lease import Lease, LeaseState
from neurons.miner.rented import shown_by
from neurons.miner.status import read_status, render
from polarise.canonical import canonical_bytes
from polarise.messages import TokenRequest
from polarise.rented import CONSENT_MS_MAX, sign_consent
from polarise.signing import Identity
from polarise.statement import SignedStatement
from tests.support.http import Answer, send, signed
from tests.support.identities import People
from tests.support.leases import lease
from tests.support.miners import RunningMiner

CONTAINER = "a" * 64
HOUR_MS = 3_600_000


def _now() -> int:
    return time.time_ns() // 1_000_000


def _consent(miner: RunningMiner, who: Identity, begin_ms: int = -1000, end_ms: int = HOUR_MS) -> SignedStatement:
    return sign_consent(who, miner.key, _now() + begin_ms, _now() + end_ms)


def _ask(miner: RunningMiner, who: Identity, consent: SignedStatement | None) -> Answer:
    body = canonical_bytes(TokenRequest(consent=consent).to_wire())
    return signed(miner.url, miner.key, who, "POST", "/token", body=body)


def test_token_is_given_with_a_consent_without_one_and_without_a_body(
    engineless_miner: RunningMiner, people: People
) -> None:
    miner = engineless_miner
    asked = [
        signed(miner.url, miner.key, people.renter, "POST", "/token"),
        _ask(miner, people.renter, None),
        _ask(miner, people.renter, _consent(miner, people.renter)),
    ]
    for answer in asked:
        assert answer.status == 200
        bearer = {"Authorization": f"Bearer {answer.json['token']}"}
        assert send(miner.url, "GET", "/containers", headers=bearer).status == 200


def test_consent_that_validators_would_not_believe_gives_no_token(
    engineless_miner: RunningMiner, people: People
) -> None:
    miner, renter = engineless_miner, people.renter
    right = _consent(miner, renter)
    for wrong, code in (
        (_consent(miner, people.other_renter), "BAD_SIGNATURE"),
        (right.model_copy(update={"body": {**right.body, "expires_unix_ms": 0}}), "BAD_SIGNATURE"),
        (right.model_copy(update={"kind": "countersignature"}), "BAD_SIGNATURE"),
        (sign_consent(renter, renter.public_key, 0, _now()), "INVALID_FIELD"),
        (_consent(miner, renter, 0, CONSENT_MS_MAX + 60_000), "INVALID_FIELD"),
        (_consent(miner, renter, 1000, 0), "INVALID_FIELD"),
        (_consent(miner, renter, -2000, -1000), "INVALID_FIELD"),
    ):
        _ask(miner, renter, wrong).assert_refused(422, code, "consent")
    body = b'{"consents": null}'
    signed(miner.url, miner.key, renter, "POST", "/token", body=body).assert_refused(400, "UNKNOWN_FIELD", "consents")


@pytest.fixture(name="leased")
def lease_made_under_a_consent(engineless_miner: RunningMiner, people: People) -> Iterator[Lease]:
    journal = engineless_miner.allocator.journal
    made = lease(
        1,
        renter_key=people.renter.public_key,
        state=LeaseState.ACTIVE,
        container_id=CONTAINER,
        created_unix_ms=_now(),
        consent=_consent(engineless_miner, people.renter),
    )
    yield journal.reserve(lambda _leases: made)
    journal.forget(made.lease_id, 0)


def test_lease_is_shown_by_its_consent_until_its_renter_signs_and_again_after_a_renewal(
    engineless_miner: RunningMiner, people: People, leased: Lease
) -> None:
    client = engineless_miner.client(people.renter)
    assert engineless_miner.allocator.journal.by_id(leased.lease_id) == leased
    (listed,) = engineless_miner.client(people.owner).containers()
    assert listed.shown_by == "consent"
    client.countersign(client.renew(CONTAINER).receipt)
    assert engineless_miner.client(people.owner).containers()[0].shown_by == "countersignature"
    client.renew(CONTAINER)
    assert engineless_miner.client(people.owner).containers()[0].shown_by == "consent"


def test_consent_shows_what_was_granted_in_its_time_as_long_as_it_lasts(
    engineless_miner: RunningMiner, people: People, leased: Lease
) -> None:
    consent = sign_consent(people.renter, engineless_miner.key, 1000, 2000)
    for granted, now, is_shown in (
        (1000, 1000, True),
        (1000, 2000, True),
        (1000, 2001, False),
        (999, 1500, False),
        (2001, 2001, False),
    ):
        made = replace(leased, created_unix_ms=granted, consent=consent)
        assert (shown_by(made, now) == "consent") is is_shown
    assert shown_by(replace(leased, consent=None), 1500) is None


def test_operator_sees_which_leases_nothing_shows_and_what_their_renters_can_do(
    engineless_miner: RunningMiner, people: People, leased: Lease
) -> None:
    folder: Path = engineless_miner.node.data_dir.root
    assert read_status(folder)["leases"][0]["shown_by"] == "consent"
    assert "not shown as rented" not in render(read_status(folder))
    engineless_miner.allocator.journal.update(leased, consent=None)
    status = read_status(folder)
    assert status["leases"][0]["shown_by"] is None
    assert f"not shown as rented: its renter can `renter renew {CONTAINER[:12]}`" in render(status)
    receipt = engineless_miner.client(people.renter).renew(CONTAINER).receipt
    engineless_miner.client(people.renter).countersign(receipt)
    assert "not shown as rented" not in render(read_status(folder))
