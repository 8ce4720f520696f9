"""A real lease, countersigned by its renter: the signature is kept with it, and goes with its next receipt."""

from __future__ import annotations

import pytest

from polarise.errors import RequestRejected
from polarise.messages import AllocateRequest
from polarise.rented import check_countersigned
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
        receipt = check_countersigned(kept.countersigned, miner_key=miner.key, owner_key=people.owner.public_key)
        assert receipt.container_id == granted.container_id
        renewed = client.renew(granted.container_id, 600)
        with pytest.raises(RequestRejected, match="countersigned receipt is another"):
            client.countersign(granted.receipt)
        client.countersign(renewed.receipt)
    finally:
        client.terminate(granted.container_id)
