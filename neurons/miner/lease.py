"""A lease: what was granted to whom, where it runs and until when; the one record all parts of the miner share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from polarise.receipt import Isolation, Limits
from polarise.rented import CountersignedReceipt
from polarise.statement import SignedStatement
from polarise.usage import Loss
from utils.clock import Clock

LeaseId = NewType("LeaseId", str)


class LeaseState(StrEnum):
    """CREATING -> ACTIVE -> DELETING; the row is gone when nothing of the lease is left."""

    CREATING = "CREATING"
    ACTIVE = "ACTIVE"
    DELETING = "DELETING"


@dataclass(frozen=True, slots=True)
class Expiry:
    """The end of a lease by two clocks, of which the earlier wins.

    Attributes:
        wall_unix_ms: By the wall clock, which can be stepped.
        boot_ms: By the boot clock, which cannot; counts within one boot only.
        boot_id: Which boot that was.
    """

    wall_unix_ms: int
    boot_ms: int
    boot_id: str

    @staticmethod
    def after(clock: Clock, seconds: int) -> Expiry:
        """Return the expiry ``seconds`` from now."""
        return Expiry(clock.wall_unix_ms() + seconds * 1000, clock.boot_ms() + seconds * 1000, clock.boot_id())

    def now_at_latest(self, clock: Clock) -> Expiry:
        """Return this expiry where it has come already, else one of this moment."""
        return self if self.remaining_ms(clock) <= 0 else Expiry.after(clock, 0)

    def remaining_ms(self, clock: Clock) -> int:
        """Return the milliseconds left; zero or less means expired."""
        by_wall = self.wall_unix_ms - clock.wall_unix_ms()
        if clock.boot_id() != self.boot_id:
            return by_wall
        return min(by_wall, self.boot_ms - clock.boot_ms())


@dataclass(frozen=True, slots=True)
class PrivatePlace:
    """A lease's place in a private network, see `neurons.miner.private_network`.

    Attributes:
        name: As its renter calls the network.
        number: Of the network on this node, from 0.
        member: Of the lease in it, from 0; no two have the same.
        address: IPv4 address in it; None until the network exists.
    """

    name: str
    number: int
    member: int
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """One row of the journal.

    Attributes:
        lease_id: 32 hex digits.
        state: Where in its life it is.
        renter_key: Public key of the holder.
        limits: What its container may use.
        devices: UUIDs of its GPUs.
        image: Image reference asked for.
        ssh_port: Port on the host, its own as long as it lives.
        nonce: 64 hex digits, bound into the receipt; empty for a warm slot, which is nobody's lease yet.
        created_unix_ms: When it was reserved.
        expiry: When it ends.
        container_id: Engine's id; None until the container exists.
        image_id: What the reference was resolved to.
        host_key: OpenSSH public key line of the container; None until it exists.
        has_password: Whether password login is on.
        idempotency_key: The caller's key for retries, if any.
        request_digest: SHA-256 of the request, to tell a retry from another request under the same key.
        isolation: Profile of the container.
        runtime: What the engine started it with; None until the container exists.
        countersigned: The newest receipt with the renter's signature over it; None until the renter has signed that one.
        consent: What the token brought under which it was made; see `polarise.rented.LeaseConsent`.
        address: Where a renter on no list asked from, see `neurons.base.rate_limits`; gone with the row.
        lost: Why it is being ended though nobody ended it; None for every other end.
        private: Its place in a private network; None where it has none.
    """

    lease_id: LeaseId
    state: LeaseState
    renter_key: str
    limits: Limits
    devices: tuple[str, ...]
    image: str
    ssh_port: int
    nonce: str
    created_unix_ms: int
    expiry: Expiry
    container_id: str | None = None
    image_id: str | None = None
    host_key: str | None = None
    has_password: bool = False
    idempotency_key: str | None = None
    request_digest: str = ""
    isolation: Isolation = "standard"
    runtime: str | None = None
    countersigned: CountersignedReceipt | None = None
    consent: SignedStatement | None = None
    address: str | None = None
    lost: Loss | None = None
    private: PrivatePlace | None = None

    @property
    def is_slot(self) -> bool:
        """Whether it is a container that waits for its renter, see `neurons.miner.slots`."""
        return not self.nonce
