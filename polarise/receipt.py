"""The signed receipt of a lease: where to log in, whose host key to expect, which limits hold, until when."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from polarise.decode import WireModel
from polarise.signing import KEY_PATTERN

STATEMENT_KIND = "receipt"
# standard: root inside, with the few capabilities that sshd and apt need; strict: nobody is root, and there are none.
Isolation = Literal["standard", "strict"]
ID_PATTERN = r"^[0-9a-f]{12,64}$"
# What may stand in a known_hosts line and on ssh's command line: no option, no blank, no second line.
HOST_PATTERN = r"^[A-Za-z0-9:][A-Za-z0-9.:\-]*$"
PRIVATE_NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,31}$"
IPV4_PATTERN = r"^[0-9]{1,3}(\.[0-9]{1,3}){3}$"


class Limits(WireModel):
    """What the container may use; read back from the host after it started.

    Attributes:
        memory_bytes: Hard limit of memory, shared memory and tmpfs included.
        swap_bytes: Swap on top of it; always 0.
        cpu_milli: CPU time per second of wall time, in thousandths of one CPU.
        pids_count: Processes and threads.
        shm_bytes: Size of /dev/shm.
        disk_bytes: Size of the disk that everything is on which can be written and is not memory; None where the lease
            has no disk of its own and shares the host's.
        disk_inodes: Files and folders that fit on it; None as above.
        disk_encrypted: Whether what is written to it is encrypted, with a key that only the miner's kernel has; None as
            above. Nothing inside the container can tell: it is the miner's word.
    """

    memory_bytes: int = Field(ge=1, lt=2**53)
    swap_bytes: int = Field(ge=0, lt=2**53)
    cpu_milli: int = Field(ge=1, lt=2**31)
    pids_count: int = Field(ge=1, lt=2**31)
    shm_bytes: int = Field(ge=0, lt=2**53)
    disk_bytes: int | None = Field(default=None, ge=1, lt=2**53)
    disk_inodes: int | None = Field(default=None, ge=1, lt=2**53)
    disk_encrypted: bool | None = None


class PrivateNetwork(WireModel):
    """What a lease shares with its renter's other leases on the same node that named the same network.

    Attributes:
        name: As the renter called it; another renter's network of that name is another one.
        address: IPv4 address of this lease in it, the same as long as the lease lives.
    """

    name: str = Field(pattern=PRIVATE_NAME_PATTERN)
    address: str = Field(pattern=IPV4_PATTERN)


class Receipt(WireModel):
    """Body of a receipt statement.

    Attributes:
        lease_id: The miner's name for the lease.
        container_id: Engine's id of the container, 64 hex digits.
        node_key: The miner; must be the statement's signer.
        renter_key: Who holds the lease.
        ssh_host: Where to connect.
        ssh_port: TCP port, 1..65535.
        ssh_user: Login name.
        host_key: OpenSSH public key line of this one container.
        host_key_fingerprint: ``SHA256:...`` of it, as OpenSSH prints it.
        limits: What was set and read back.
        devices: UUIDs of the GPUs inside; empty for none.
        image: Image id the container runs, ``sha256:...``.
        isolation: Profile of the container.
        runtime: What the engine started it with, by its name there; None in receipts of an earlier version.
        private_network: Where it meets the renter's other leases; None where it meets nobody.
        nonce: Fresh random value; proofs inside the container are bound to it.
        granted_unix_ms: When the lease began.
        expires_unix_ms: When it ends unless renewed.
    """

    lease_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    container_id: str = Field(pattern=ID_PATTERN)
    node_key: str = Field(pattern=KEY_PATTERN)
    renter_key: str = Field(pattern=KEY_PATTERN)
    ssh_host: str = Field(pattern=HOST_PATTERN, max_length=253)
    ssh_port: int = Field(ge=1, le=65535)
    ssh_user: str = Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")
    host_key: str = Field(max_length=200)
    host_key_fingerprint: str = Field(max_length=60)
    limits: Limits
    devices: tuple[str, ...] = Field(max_length=64)
    image: str = Field(max_length=200)
    isolation: Isolation
    runtime: str | None = Field(default=None, max_length=64)
    private_network: PrivateNetwork | None = None
    nonce: str = Field(pattern=r"^[0-9a-f]{64}$")
    granted_unix_ms: int = Field(ge=0, lt=2**53)
    expires_unix_ms: int = Field(ge=0, lt=2**53)
