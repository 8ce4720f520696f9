"""A lease, of one GPU unless a test says otherwise, signed by miner and renter; right unless a test changes it."""

from __future__ import annotations

from dataclasses import dataclass

from polarise.receipt import STATEMENT_KIND as RECEIPT_KIND
from polarise.receipt import Limits, Receipt
from polarise.rented import STATEMENT_KIND, Countersignature, CountersignedReceipt, ShownLease
from polarise.signing import Identity
from polarise.statement import SignedStatement, sign_statement
from tests.support.identities import identity
from tests.support.proving_miner import MINER

RENTER = identity("renter")
GPU = "GPU-00000000-0000-0000-0000-000000000001"
GRANTED, EXPIRES = 1_700_000_000_000, 1_700_000_600_000


@dataclass(frozen=True)
class Lease:
    """What both sides sign; a test changes one thing."""

    miner: Identity = MINER
    node_key: str = MINER.public_key
    renter_key: str = RENTER.public_key
    renter: Identity = RENTER
    lease_id: str = "1" * 32
    digest: str | None = None
    countersigned_lease: str = "1" * 32
    countersigned_node: str = MINER.public_key
    granted_unix_ms: int = GRANTED
    expires_unix_ms: int = EXPIRES
    devices: tuple[str, ...] = (GPU,)
    cpu_milli: int = 1

    def shown(self) -> ShownLease:
        """Return both halves as they are shown."""
        return ShownLease.of(self.signed())

    def consented(self, consent: SignedStatement) -> ShownLease:
        """Return the miner's half beside a consent."""
        return ShownLease(receipt=sign_statement(self.miner, RECEIPT_KIND, _receipt(self)), consent=consent)

    def signed(self) -> CountersignedReceipt:
        """Return both halves."""
        receipt = sign_statement(self.miner, RECEIPT_KIND, _receipt(self))
        body = Countersignature(
            receipt=self.digest or receipt.digest(),
            lease_id=self.countersigned_lease,
            node_key=self.countersigned_node,
            signed_unix_ms=GRANTED,
        )
        return CountersignedReceipt(receipt=receipt, countersignature=sign_statement(self.renter, STATEMENT_KIND, body))


def _receipt(lease: Lease) -> Receipt:
    return Receipt(
        lease_id=lease.lease_id,
        container_id="2" * 64,
        node_key=lease.node_key,
        renter_key=lease.renter_key,
        ssh_host="127.0.0.1",
        ssh_port=2222,
        ssh_user="root",
        host_key="ssh-ed25519 AAAA",
        host_key_fingerprint="SHA256:x",
        limits=Limits(memory_bytes=1, swap_bytes=0, cpu_milli=lease.cpu_milli, pids_count=1, shm_bytes=0),
        devices=lease.devices,
        image="sha256:0",
        isolation="standard",
        nonce="3" * 64,
        granted_unix_ms=lease.granted_unix_ms,
        expires_unix_ms=lease.expires_unix_ms,
    )
