"""Real leases: one whose renter countersigns, and one made with a token by a client that cannot, under a consent."""

from __future__ import annotations

import json
import time

import pytest

from polarise.errors import RequestRejected
from polarise.messages import AllocateRequest, PowSizes, PrepareRequest
from polarise.rented import ShownLease, check_lease, check_rented, sign_consent
from tests.support.http import send
from tests.support.identities import People
from tests.support.miners import RunningMiner

pytestmark = pytest.mark.docker


def test_receipt_of_a_real_container_is_countersigned_and_shown(miner: RunningMiner, people: People) -> None:
    client, journal = miner.client(people.renter), miner.allocator.journal
    granted = client.allocate(AllocateRequest(memory="128m"))
    try:
        client.countersign(granted.receipt)
        kept = journal.by_container(granted.container_id)
        assert kept is not None
        assert kept.countersigned is not None
        receipt = check_lease(
            ShownLease.of(kept.countersigned), miner_key=miner.key, owner_key=people.owner.public_key, now_unix_ms=0
        )
        assert receipt.container_id == granted.container_id
        renewed = client.renew(granted.container_id, 600)
        with pytest.raises(RequestRejected, match="countersigned receipt is another"):
            client.countersign(granted.receipt)
        client.countersign(renewed.receipt)
    finally:
        client.terminate(granted.container_id)


def test_lease_made_with_a_token_alone_excuses_the_processor_under_its_renters_consent(
    miner: RunningMiner, people: People
) -> None:
    """The README's main use: a token, then plain HTTP; the renter never signs a receipt."""
    now_unix_ms = time.time_ns() // 1_000_000
    consent = sign_consent(people.renter, miner.key, now_unix_ms - 1000, now_unix_ms + 600_000)
    plain, consented = miner.client(people.renter).token(), miner.client(people.renter).token(consent)
    cpus = miner.allocator.inventory.cpu_milli / 1000
    sizes = PowSizes(shares=16, difficulty=1, slot=0)
    request = PrepareRequest(kind="pow", sizes=sizes, challenge_id="1" * 32, device="cpu")
    for token, shown in ((plain.token, None), (consented.token, "consent")):
        body = json.dumps({"memory": "128m", "cpu_count": round(cpus / 2, 2)}).encode()
        bearer = {"Authorization": f"Bearer {token}"}
        granted = send(miner.url, "POST", "/allocate", headers=bearer, body=body)
        assert granted.status == 200, granted.body
        container = f"{granted.json['container_id']}"
        try:
            assert miner.client(people.renter).container(container).shown_by == shown
            if shown is None:
                with pytest.raises(RequestRejected, match="tenants hold"):
                    miner.client(people.validator).prepare(request, deadline_seconds=30)
                continue
            answer = miner.client(people.validator).prepare(request, deadline_seconds=30)
            assert answer.excuse is not None
            (receipt,) = check_rented(
                answer.excuse.leases,
                miner_key=miner.key,
                owner_key=people.owner.public_key,
                device="cpu",
                claimed_cpu_milli=miner.allocator.inventory.cpu_milli,
                now_unix_ms=time.time_ns() // 1_000_000,
            )
            assert receipt.container_id == container
        finally:
            miner.client(people.renter).terminate(container)
