"""POST /containers/{id}/countersign over live HTTP: whose signature over which receipt is kept, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from neurons.miner.lease import LeaseState
from neurons.miner.node import MinerNode
from neurons.miner.receipts import ReceiptWriter
from neurons.miner.rented import RentedDevices
from polarise.canonical import canonical_bytes
from polarise.errors import ErrorCode, RequestRejected
from polarise.messages import CountersignRequest, PrepareAnswer
from polarise.rented import LEASES_MAX, STATEMENT_KIND, Countersignature, countersign
from polarise.signing import Identity
from polarise.statement import SignedStatement, sign_statement
from tests.support.http import Answer, send, signed
from tests.support.identities import People, identity, node_identity
from tests.support.leases import lease
from tests.support.miners import RunningMiner, engineless, running
from tests.support.proving_miner import MINER, ProvingMiner, challenge_of, entry_of, proving_miner
from utils.clock import SystemClock

CONTAINER = "a" * 64
OTHER_CONTAINER = "b" * 64


@dataclass
class Rented:
    """A running miner with one lease of the renter's and one of another's."""

    miner: RunningMiner
    people: People

    def renew(self) -> SignedStatement:
        """Renew the renter's lease and return the new receipt."""
        return self.miner.client(self.people.renter).renew(CONTAINER).receipt

    def post(self, statement: SignedStatement, who: Identity | None = None, container: str = CONTAINER) -> Answer:
        """Send a countersignature as anybody."""
        body = canonical_bytes(CountersignRequest(countersignature=statement).to_wire())
        target = f"/containers/{container}/countersign"
        return signed(self.miner.url, self.miner.key, who or self.people.renter, "POST", target, body=body)

    def is_kept(self) -> bool:
        """Whether the renter's lease has a countersignature."""
        found = self.miner.allocator.journal.by_container(CONTAINER)
        assert found is not None
        return found.countersigned is not None


@pytest.fixture(name="rented")
def miner_with_two_leases(engineless_miner: RunningMiner, people: People) -> Iterator[Rented]:
    journal = engineless_miner.allocator.journal
    made = [
        lease(1, renter_key=people.renter.public_key, state=LeaseState.ACTIVE, container_id=CONTAINER),
        lease(2, renter_key=people.other_renter.public_key, state=LeaseState.ACTIVE, container_id=OTHER_CONTAINER),
    ]
    for row in made:
        journal.reserve(lambda _leases, row=row: row)  # type: ignore[misc]
    yield Rented(engineless_miner, people)
    for row in made:
        journal.forget(row.lease_id, 0)


def test_signature_over_the_newest_receipt_is_kept(rented: Rented) -> None:
    receipt = rented.renew()
    client = rented.miner.client(rented.people.renter)
    for _ in range(2):
        client.countersign(receipt)
        assert rented.is_kept()


def test_renewal_makes_another_receipt_whose_signature_counts(rented: Rented) -> None:
    client = rented.miner.client(rented.people.renter)
    before = rented.renew()
    client.countersign(before)
    now = rented.renew()
    assert not rented.is_kept()
    with pytest.raises(RequestRejected, match="countersigned receipt is another") as refused:
        client.countersign(before)
    assert (refused.value.status, refused.value.code) == (422, ErrorCode.INVALID_FIELD)
    assert not rented.is_kept()
    client.countersign(now)
    assert rented.is_kept()


def test_forged_or_foreign_signature_is_refused_by_name(rented: Rented) -> None:
    receipt = rented.renew()
    right = countersign(rented.people.renter, receipt, 0)
    flipped = right.signature[:-1] + ("0" if right.signature[-1] != "0" else "1")
    for wrong in (
        right.model_copy(update={"signature": flipped}),
        right.model_copy(update={"body": {**right.body, "signed_unix_ms": 1}}),
        right.model_copy(update={"kind": "receipt"}),
        countersign(rented.people.other_renter, receipt, 0),
        receipt,
    ):
        shape = rented.post(wrong).assert_refused(422, "BAD_SIGNATURE", "countersignature")
        assert "countersignature does not hold" in str(shape["message"])
    assert not rented.is_kept()
    assert rented.post(right).status == 200


@pytest.mark.parametrize("field", ["lease_id", "node_key", "receipt"])
def test_signature_over_something_else_is_refused_by_name(rented: Rented, field: str) -> None:
    receipt = rented.renew()
    body = Countersignature.model_validate(countersign(rented.people.renter, receipt, 0).body)
    other = body.model_copy(update={field: "0" * len(getattr(body, field))})
    shape = rented.post(sign_statement(rented.people.renter, STATEMENT_KIND, other)).assert_refused(
        422, "INVALID_FIELD", "countersignature"
    )
    assert "is another" in str(shape["message"])
    assert not rented.is_kept()


def test_only_who_holds_the_lease_may(rented: Rented) -> None:
    right = countersign(rented.people.renter, rented.renew(), 0)
    rented.post(right, rented.people.other_renter).assert_refused(404, "NOT_FOUND", "container_id")
    rented.post(right, rented.people.owner).assert_refused(403, "NOT_PERMITTED")
    rented.post(right, rented.people.auditor).assert_refused(403, "NOT_PERMITTED")
    rented.post(right, container=OTHER_CONTAINER).assert_refused(404, "NOT_FOUND", "container_id")
    token = rented.miner.client(rented.people.renter).token().token
    url = f"/containers/{CONTAINER}/countersign"
    send(rented.miner.url, "POST", url, headers={"Authorization": f"Bearer {token}"}).assert_refused(
        401, "NOT_AUTHENTICATED", "Authorization"
    )
    assert not rented.is_kept()


@pytest.mark.parametrize("who", ["node", "owner"])
def test_who_rents_from_itself_has_rented_nothing(rented: Rented, who: str) -> None:
    """Whatever a list of renters says: behind the route too."""
    identity = rented.miner.node.identity if who == "node" else rented.people.owner
    node, journal = rented.miner.node, rented.miner.allocator.journal
    receipts = ReceiptWriter(node.identity, "127.0.0.1")
    devices = RentedDevices(
        journal,
        receipts,
        miner_key=node.node_key,
        owner_key=rented.people.owner.public_key,
        clock=SystemClock(),
        cpu_milli=2000,
    )
    own = journal.reserve(
        lambda _leases: lease(3, renter_key=identity.public_key, state=LeaseState.ACTIVE, container_id="c" * 64)
    )
    try:
        with pytest.raises(RequestRejected, match="the renter is the miner itself") as refused:
            devices.countersign(own, countersign(identity, receipts.sign(own), 0))
        assert refused.value.field == "countersignature"
    finally:
        journal.forget(own.lease_id, 0)


def test_ended_lease_takes_none(rented: Rented) -> None:
    right = countersign(rented.people.renter, rented.renew(), 0)
    journal = rented.miner.allocator.journal
    found = journal.by_container(CONTAINER)
    assert found is not None
    journal.update(found, state=LeaseState.DELETING)
    rented.post(right).assert_refused(404, "NOT_FOUND", "container_id")


def test_countersignature_survives_a_restart(people: People, tmp_path: Path) -> None:
    identity = node_identity("restarted miner", people.owner)
    active = lease(1, renter_key=people.renter.public_key, state=LeaseState.ACTIVE, container_id=CONTAINER)
    with running(MinerNode(engineless(people), tmp_path / "node", identity)) as miner:
        miner.allocator.journal.reserve(lambda _leases: active)
        client = miner.client(people.renter)
        client.countersign(client.renew(CONTAINER).receipt)
    with running(MinerNode(engineless(people), tmp_path / "node", identity)) as miner:
        assert Rented(miner, people).is_kept()


def tenants(miner: ProvingMiner, *cpus_milli: int, is_signed: bool = True) -> None:
    """Let tenants hold so much of the processor, each by a lease of its own."""
    renter, receipts = identity("tenant"), ReceiptWriter(MINER, "127.0.0.1")
    for number, cpu_milli in enumerate(cpus_milli, len(miner.journal.all())):
        held = lease(number, renter_key=renter.public_key, state=LeaseState.ACTIVE, container_id=f"{number:064x}")
        held = replace(held, limits=held.limits.model_copy(update={"cpu_milli": cpu_milli}))
        miner.journal.reserve(lambda _leases, held=held: held)  # type: ignore[misc]
        if is_signed:
            miner.rented.countersign(held, countersign(renter, receipts.sign(held), 0))


def ask(miner: ProvingMiner) -> PrepareAnswer:
    """Ask the processor to prove."""
    return miner.client().prepare(challenge_of(entry_of())[1].prepare_request(), deadline_seconds=30)


@pytest.mark.parametrize(("cpus_milli", "shown"), [((600,), 0), ((601,), 1), ((200, 300, 102), 3), ((1, 400, 300), 2)])
def test_processor_that_tenants_hold_is_shown_by_the_fewest_leases(
    tmp_path: Path, cpus_milli: tuple[int, ...], shown: int
) -> None:
    """Of two CPUs 30 % are 600 thousandths."""
    with proving_miner(tmp_path) as miner:
        tenants(miner, *cpus_milli)
        answer = ask(miner)
        assert answer.status == ("rented" if shown else "success")
        assert len(answer.excuse.leases if answer.excuse else ()) == shown
        assert miner.handler.proving() == (frozenset() if shown else {"cpu"})


def test_processor_that_cannot_be_shown_as_rented_is_busy(tmp_path: Path) -> None:
    with proving_miner(tmp_path) as miner:
        tenants(miner, 600)
        tenants(miner, 1, is_signed=False)
        with pytest.raises(RequestRejected, match=r"tenants hold 0\.601 of 2 CPUs") as refused:
            ask(miner)
        assert refused.value.status == 429
        assert "miner status" in refused.value.hint


def test_of_many_small_leases_no_more_are_shown_than_may_be(tmp_path: Path) -> None:
    with proving_miner(tmp_path) as miner:
        tenants(miner, *[601 // LEASES_MAX + 1] * LEASES_MAX)
        answer = ask(miner)
        assert answer.excuse is not None
        assert len(answer.excuse.leases) == LEASES_MAX
    with proving_miner(tmp_path / "smaller") as miner:
        tenants(miner, *[600 // LEASES_MAX] * (LEASES_MAX + 1))
        with pytest.raises(RequestRejected, match="too little of the processor"):
            ask(miner)
