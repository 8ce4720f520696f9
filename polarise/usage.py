"""The signed usage statement of a lease: what its container used, as the miner counted it.

It is the miner's word: the kernel's counters are read by whoever owns the host. What it binds the miner to is one figure,
the same towards renter, log and ledger; after the end there is one final statement per lease.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from polarise.answers import compare
from polarise.decode import WireModel
from polarise.errors import AnswerInvalid
from polarise.receipt import ID_PATTERN
from polarise.signing import KEY_PATTERN, SignatureInvalid
from polarise.statement import SignedStatement

STATEMENT_KIND = "usage"
# Why a lease ended before its time though nobody ended it. disk_key_lost: its disk was encrypted, and the key went with
# a restart of the host; disk_lost: its disk cannot be mounted; container_lost: it does not run and cannot be started.
# host_memory_taken: its programs held memory of the host that no limit of the kernel counts.
Loss = Literal["disk_key_lost", "disk_lost", "container_lost", "host_memory_taken"]
LOSS_TEXT: dict[Loss, str] = {
    "disk_key_lost": "the miner's host was restarted, and the key of the lease's disk, kept in memory only, is gone with its data",
    "disk_lost": "the disk of the lease cannot be used any more; its data is gone",
    "container_lost": "the container stopped and could not be kept running; its data is gone",
    "host_memory_taken": "its programs took memory of the host in netlink sockets or multicast groups, and the miner ended it; its data is gone",
}
# The largest whole number that every JSON reader has; a counter beyond it stays there.
COUNT_MAX = 2**53 - 1


class DeviceUsage(WireModel):
    """One GPU of the lease.

    Attributes:
        uuid: Which.
        allocated_ms: How long nobody else could have it, used or not.
    """

    uuid: str = Field(max_length=96)
    allocated_ms: int = Field(ge=0, le=COUNT_MAX)


class Usage(WireModel):
    """Body of a usage statement; null is what this host could not read.

    Attributes:
        lease_id: The miner's name for the lease, as in the receipt.
        container_id: Engine's id of the container.
        node_key: The miner; must be the statement's signer.
        renter_key: Who held the lease.
        began_unix_ms: When it was handed out.
        until_unix_ms: When was counted last.
        is_final: Whether the lease is over; a final statement is made once.
        allocated_ms: How long the lease lasted while its container ran, never beyond its expiry.
        cpu_ms: CPU time of all its processes.
        memory_mib_seconds: Memory it held, MiB times seconds, from a reading every few seconds.
        network_in_bytes: Received through its network interface.
        network_out_bytes: Sent through it.
        devices: Its GPUs.
        lost: Why the lease is over, and its data gone, though nobody ended it; None for every other end.
    """

    lease_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    container_id: str = Field(pattern=ID_PATTERN)
    node_key: str = Field(pattern=KEY_PATTERN)
    renter_key: str = Field(pattern=KEY_PATTERN)
    began_unix_ms: int = Field(ge=0, le=COUNT_MAX)
    until_unix_ms: int = Field(ge=0, le=COUNT_MAX)
    is_final: bool
    allocated_ms: int = Field(ge=0, le=COUNT_MAX)
    cpu_ms: int | None = Field(ge=0, le=COUNT_MAX)
    memory_mib_seconds: int | None = Field(ge=0, le=COUNT_MAX)
    network_in_bytes: int | None = Field(ge=0, le=COUNT_MAX)
    network_out_bytes: int | None = Field(ge=0, le=COUNT_MAX)
    devices: tuple[DeviceUsage, ...] = Field(max_length=64)
    lost: Loss | None = None


def open_usage(statement: SignedStatement, *, node_key: str, renter_key: str, container_id: str) -> Usage:
    """Check that ``node_key`` signed the usage of this renter's container.

    Raises:
        AnswerInvalid: It did not, or the statement is about something else.
    """
    try:
        usage = statement.open(STATEMENT_KIND, Usage, signer=node_key)
    except SignatureInvalid as err:
        raise AnswerInvalid(f"the usage statement does not hold: {err}") from err
    compare("node_key", usage.node_key, node_key)
    compare("renter_key", usage.renter_key, renter_key)
    compare("container_id", usage.container_id, container_id)
    return usage
