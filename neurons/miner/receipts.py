"""What renters see of a lease: the signed receipt and the answers around it."""

from __future__ import annotations

from neurons.miner.lease import Lease
from neurons.miner.login import login_user
from polarise.messages import AllocateAnswer, ContainerUsage, ContainerView, RenewAnswer, ShownBy
from polarise.receipt import STATEMENT_KIND, PrivateNetwork, Receipt
from polarise.signing import Identity
from polarise.ssh_keys import fingerprint
from polarise.statement import SignedStatement, sign_statement
from utils.clock import iso_utc


class ReceiptWriter:
    """Signs receipts for one node.

    Args:
        identity: The node; receipts are signed with its statement subkey.
        advertised_host: Where renters connect.
    """

    def __init__(self, identity: Identity, advertised_host: str) -> None:
        self._identity = identity
        self.advertised_host = advertised_host

    def sign(self, lease: Lease) -> SignedStatement:
        """Return the receipt of an active lease as it is now."""
        if lease.container_id is None or lease.host_key is None or lease.image_id is None:
            raise ValueError(f"lease {lease.lease_id} has no container yet")
        receipt = Receipt(
            lease_id=lease.lease_id,
            container_id=lease.container_id,
            node_key=self._identity.public_key,
            renter_key=lease.renter_key,
            ssh_host=self.advertised_host,
            ssh_port=lease.ssh_port,
            ssh_user=login_user(lease.isolation),
            host_key=lease.host_key,
            host_key_fingerprint=fingerprint(lease.host_key),
            limits=lease.limits,
            devices=lease.devices,
            image=lease.image_id,
            isolation=lease.isolation,
            runtime=lease.runtime,
            private_network=_private_network(lease),
            nonce=lease.nonce,
            granted_unix_ms=lease.created_unix_ms,
            expires_unix_ms=lease.expiry.wall_unix_ms,
        )
        return sign_statement(self._identity, STATEMENT_KIND, receipt)

    def allocate_answer(self, lease: Lease, password: str | None) -> AllocateAnswer:
        """Return the 200 of POST /allocate."""
        return AllocateAnswer(
            container_id=str(lease.container_id),
            ssh_host=self.advertised_host,
            ssh_port=lease.ssh_port,
            ssh_user=login_user(lease.isolation),
            ssh_password=password,
            host_key=str(lease.host_key),
            host_key_fingerprint=fingerprint(str(lease.host_key)),
            limits=lease.limits,
            devices=lease.devices,
            private_network=_private_network(lease),
            expires_at=iso_utc(lease.expiry.wall_unix_ms),
            receipt=self.sign(lease),
        )

    def renew_answer(self, lease: Lease) -> RenewAnswer:
        """Return the 200 of POST /containers/{id}/renew."""
        return RenewAnswer(
            container_id=str(lease.container_id),
            expires_at=iso_utc(lease.expiry.wall_unix_ms),
            receipt=self.sign(lease),
        )

    def view(self, lease: Lease, usage: ContainerUsage | None, shown_by: ShownBy | None) -> ContainerView:
        """Return one entry of GET /containers."""
        return ContainerView(
            container_id=str(lease.container_id),
            lease_id=lease.lease_id,
            renter_key=lease.renter_key,
            status=str(lease.state),
            ssh_host=self.advertised_host,
            ssh_port=lease.ssh_port,
            ssh_user=login_user(lease.isolation),
            host_key_fingerprint=fingerprint(str(lease.host_key)),
            isolation=lease.isolation,
            limits=lease.limits,
            devices=lease.devices,
            private_network=_private_network(lease),
            created_at=iso_utc(lease.created_unix_ms),
            expires_at=iso_utc(lease.expiry.wall_unix_ms),
            usage=usage,
            shown_by=shown_by,
        )


def _private_network(lease: Lease) -> PrivateNetwork | None:
    place = lease.private
    return None if place is None or place.address is None else PrivateNetwork(name=place.name, address=place.address)
