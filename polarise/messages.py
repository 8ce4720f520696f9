"""Bodies of the HTTP API; the field names are the ones of the seed document and of design section 4.

A model checks shape and type. Whether the host can give what is asked for is the miner's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    StrictInt,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from polarise.decode import WireModel
from polarise.excuse import Excuse
from polarise.quantities import SIZE_PATTERN, parse_size
from polarise.receipt import PRIVATE_NAME_PATTERN, Isolation, Limits, PrivateNetwork
from polarise.statement import SignedStatement

TTL_SECONDS_MAX = 365 * 86400


def _size(text: str) -> str:
    parse_size(text)
    return text


Size = Annotated[int, Field(ge=0, lt=2**53)]
SizeText = Annotated[str, Field(max_length=32, json_schema_extra={"pattern": SIZE_PATTERN}), AfterValidator(_size)]


DeviceList = Annotated[tuple[Annotated[str, Field(max_length=96)] | StrictInt, ...], Field(max_length=64)]


class DeviceSelector(WireModel):
    """Any ``count`` devices, all of one model if it is named, instead of their UUIDs."""

    count: int = Field(ge=1, le=64)
    model: str | None = Field(default=None, max_length=200)


class AllocateRequest(WireModel):
    """POST /allocate. Everything may be left out; the miner's configured defaults then apply.

    Attributes:
        memory: Size, for example ``2g``.
        cpu_count: CPUs, fractions in steps of 0.01.
        devices: UUIDs or indices, or a selector; an empty list asks for none.
        disk: Size of the disk that holds everything the container writes; rounded up to 128 MiB.
        image: Name of an image the miner allows.
        ssh_public_key: One OpenSSH public key without options; the caller's registered key or a one-time password
            is used when it is left out.
        ttl_seconds: How long the lease lasts.
        isolation: Profile of the container; ``strict`` has no root inside, and takes an ssh key.
        private_network: Name of a network in which the caller's leases on this node that say the same name reach each
            other, and nobody else; none where it is left out.
    """

    memory: SizeText | None = None
    cpu_count: float | None = Field(default=None, gt=0, le=4096, allow_inf_nan=False)
    devices: DeviceList | DeviceSelector | None = None
    disk: SizeText | None = None
    image: str | None = Field(default=None, min_length=1, max_length=200)
    ssh_public_key: str | None = Field(default=None, max_length=16384)
    ttl_seconds: int | None = Field(default=None, ge=1, le=TTL_SECONDS_MAX)
    isolation: Isolation | None = None
    private_network: str | None = Field(default=None, pattern=PRIVATE_NAME_PATTERN)

    @field_validator("cpu_count")
    @classmethod
    def _whole_milli(cls, value: float | None) -> float | None:
        if value is not None and round(value * 1000) < 10:
            raise ValueError("at least 0.01 CPU must be asked for")
        return value


class AllocateAnswer(WireModel):
    """200 of POST /allocate. ``ssh_password`` is present once, and only when no key was given."""

    status: Literal["success"] = "success"
    container_id: str
    ssh_host: str
    ssh_port: int
    ssh_user: str
    ssh_password: str | None = None
    host_key: str
    host_key_fingerprint: str
    limits: Limits
    devices: tuple[str, ...]
    private_network: PrivateNetwork | None = None
    expires_at: str
    receipt: SignedStatement


ShownBy = Literal["countersignature", "consent"]


class ContainerUsage(WireModel):
    """What a lease's container uses right now; None where there is no figure. Disk counts the file system's own tables."""

    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    pids_count: int | None = None
    disk_bytes: int | None = None
    disk_inodes: int | None = None


class ContainerView(WireModel):
    """One lease as GET /containers shows it.

    ``shown_by`` says which signature of its renter shows a validator that it is rented; None: none does.
    """

    container_id: str
    lease_id: str
    renter_key: str
    status: str
    ssh_host: str
    ssh_port: int
    ssh_user: str
    host_key_fingerprint: str
    isolation: Isolation = "standard"
    limits: Limits
    devices: tuple[str, ...]
    private_network: PrivateNetwork | None = None
    created_at: str
    expires_at: str
    usage: ContainerUsage | None = None
    shown_by: ShownBy | None = None


class ContainerList(WireModel):
    """GET /containers."""

    status: Literal["success"] = "success"
    containers: tuple[ContainerView, ...]


class RenewRequest(WireModel):
    """POST /containers/{id}/renew: the lease ends this many seconds from now."""

    ttl_seconds: int | None = Field(default=None, ge=1, le=TTL_SECONDS_MAX)


class RenewAnswer(WireModel):
    """The new end, with a receipt that says so."""

    status: Literal["success"] = "success"
    container_id: str
    expires_at: str
    receipt: SignedStatement


class CountersignRequest(WireModel):
    """POST /containers/{id}/countersign: the renter's signature over the newest receipt; see `polarise.rented`."""

    countersignature: SignedStatement


class SshKeyRequest(WireModel):
    """PUT /containers/{id}/ssh-key: this key replaces all others at once."""

    ssh_public_key: str = Field(max_length=16384)


class PasswordAnswer(WireModel):
    """POST /containers/{id}/password: the new password, shown once; the old one is dead."""

    status: Literal["success"] = "success"
    container_id: str
    ssh_user: str
    ssh_password: str


class TerminateAnswer(WireModel):
    """DELETE /terminate/{id}.

    Attributes:
        status: The lease is over, and nobody can log in any more.
        container_id: Whose.
        data: What became of everything that was written inside: ``deleted`` with the container, and no copy is kept;
            ``deleting``: it is being removed, and nobody reaches it meanwhile.
        usage: The final, signed usage statement; None with ``deleting``, GET /containers/{id}/usage has it a little later.
    """

    status: Literal["success"] = "success"
    container_id: str
    data: Literal["deleted", "deleting"] = "deleted"
    usage: SignedStatement | None = None


class UsageAnswer(WireModel):
    """GET /containers/{id}/usage: a signed usage statement; see `polarise.usage`."""

    status: Literal["success"] = "success"
    usage: SignedStatement


class TokenRequest(WireModel):
    """POST /token, whose body may be left out.

    Attributes:
        consent: The renter's ``lease_consent`` statement for leases made under this token; see `polarise.rented`.
    """

    consent: SignedStatement | None = None


class TokenAnswer(WireModel):
    """POST /token: a bearer token for plain HTTP clients."""

    status: Literal["success"] = "success"
    token: str
    expires_at: str


class SuccessAnswer(WireModel):
    """An operation that has nothing more to say."""

    status: Literal["success"] = "success"


class StatusAnswer(WireModel):
    """GET /status: who this node is and what is free.

    ``runtime`` is what its settings name, None for the engine's own; nothing new is granted while ``is_draining``;
    ``disk_bytes_free`` is 0 where leases have no disks.
    """

    status: Literal["success"] = "success"
    node_key: str
    role: str
    version: str
    leases_count: int
    cpu_milli_free: int
    memory_bytes_free: int
    devices_free: tuple[str, ...]
    ssh_host: str
    runtime: str | None = None
    is_draining: bool = False
    disk_bytes_free: int = 0


class MatmulSizes(WireModel):
    """Sizes of a matmul proof; the bounds that make sense are those of `challenges.matmul_messages`.

    Attributes:
        n: Matrix size.
        rounds: Chained rounds.
        tile: Tile size.
        openings: How many tiles will be opened.
    """

    n: Size
    rounds: Size
    tile: Size
    openings: Size


class PowSizes(WireModel):
    """Sizes of a proof of work; the bounds that make sense are those of `challenges.pow_messages`.

    Attributes:
        shares: How many shares are to be found.
        difficulty: Hashes per share on average.
        slot: Index of the device on its host; no two slots have a nonce in common.
    """

    shares: Size
    difficulty: Size
    slot: Size


class MemorySizes(WireModel):
    """Sizes of a memory proof; the bounds that make sense are those of `challenges.memory_messages`.

    Attributes:
        blocks: How much memory is filled, in blocks of 64 KiB.
        hashes: Hashes one after another for each unit of 32 bytes.
        passes: How often all of it is read.
        openings: How many blocks will be opened.
    """

    blocks: Size
    hashes: Size
    passes: Size
    openings: Size


ProofKind = Literal["pow", "matmul", "memory"]
ProofSizes = PowSizes | MatmulSizes | MemorySizes

_SIZES: dict[str, type[ProofSizes]] = {"pow": PowSizes, "matmul": MatmulSizes, "memory": MemorySizes}


class SizedProof(WireModel):
    """A kind of proof and sizes of that kind; another kind's sizes are refused by the name of the wrong field.

    Attributes:
        kind: Which proof.
        sizes: What is asked for.
    """

    kind: ProofKind
    sizes: ProofSizes

    @field_validator("sizes", mode="before")
    @classmethod
    def _of_kind(cls, value: object, info: ValidationInfo) -> object:
        """Decode by the kind, which stands before; a kind that does not exist was refused already."""
        model = _SIZES.get(info.data.get("kind", ""))
        return value if model is None else model.model_validate(value, strict=True)


class MemoryFill(WireModel):
    """What a device's memory is filled from, beside who both are: the inputs of `challenges.draw.fill_seed`.

    Attributes:
        epoch: The validator's epoch number.
        beacon: Public randomness of the epoch, 64 hex digits.
        nonce: The validator's fill nonce of this device, 64 hex digits; the nonce that starts the clock is another.
    """

    epoch: int = Field(ge=0, lt=2**53)
    beacon: str = Field(pattern=r"^[0-9a-f]{64}$")
    nonce: str = Field(pattern=r"^[0-9a-f]{64}$")


class PrepareRequest(SizedProof):
    """POST /challenge/prepare: get ready for one proof; nothing is timed yet.

    Attributes:
        challenge_id: The validator's name for this proof, 32 hex digits, used once.
        device: UUID of the device that has to prove.
        fill: What to fill the memory from; with a memory proof, and with no other.
        order: The validator's ``challenge_order`` statement, which the miner may show to others; see `polarise.occupied`.
            `polarise.clients` adds it, and a miner prepares nothing without it.
    """

    challenge_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    device: str = Field(max_length=96)
    fill: MemoryFill | None = None
    order: SignedStatement | None = None

    @model_validator(mode="after")
    def _filled(self) -> PrepareRequest:
        """Refuse a memory that is filled from nothing, and a seed that fills nothing."""
        if (self.kind == "memory") != (self.fill is not None):
            raise ValueError("fill comes with a memory proof, and with no other")
        return self


class PrepareAnswer(WireModel):
    """200 of POST /challenge/prepare.

    Attributes:
        status: ``success``: ready to start; ``rented``: the device is in a tenant's hands; ``occupied``: it proves for
            another validator, or has proven enough for others in this hour. After these two nothing follows.
        excuse: With the latter two only, what shows it.
    """

    status: Literal["success", "rented", "occupied"] = "success"
    excuse: Excuse | None = None


class StartRequest(WireModel):
    """POST /challenge/start: the seed's missing part; the clock runs from here.

    Attributes:
        challenge_id: As prepared.
        epoch: The validator's epoch number.
        beacon: Public randomness of the epoch, 64 hex digits.
        nonce: The validator's nonce of this device and proof, 64 hex digits.
        order: The validator's ``challenge_order`` statement for this step. A miner proves without it, but can then show
            nobody that it has.
    """

    challenge_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    epoch: int = Field(ge=0, lt=2**53)
    beacon: str = Field(pattern=r"^[0-9a-f]{64}$")
    nonce: str = Field(pattern=r"^[0-9a-f]{64}$")
    order: SignedStatement | None = None


class CommitmentBody(WireModel):
    """Body of the ``commitment`` statement that stops the clock.

    Attributes:
        challenge_id: As prepared.
        device: UUID of the device that proved.
        seed: The seed the miner worked from, 64 hex digits.
        proof: The proof's own commitment, decoded by `challenges`: for matmul and memory ``roots``, one Merkle root per
            round or pass, for the proof of work ``nonces``, which are the whole proof. Its kind is bound by the seed.
    """

    challenge_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    device: str = Field(max_length=96)
    seed: str = Field(pattern=r"^[0-9a-f]{64}$")
    proof: dict[str, object]


class VerdictRequest(WireModel):
    """POST /challenge/verdict: what the validator found, signed; see `polarise.verdict`."""

    verdict: SignedStatement


class CommitAnswer(WireModel):
    """200 of POST /challenge/start."""

    status: Literal["success"] = "success"
    commitment: SignedStatement


class Position(WireModel):
    """One tile of one round, all 0-based."""

    round_index: int = Field(ge=0)
    tile_row: int = Field(ge=0)
    tile_column: int = Field(ge=0)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The coordinates in the order of the bounds they were drawn within."""
        return self.round_index, self.tile_row, self.tile_column


class BlockPosition(WireModel):
    """One block of memory in one pass, both 0-based."""

    pass_index: int = Field(ge=0)
    block: int = Field(ge=0)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The coordinates in the order of the bounds they were drawn within."""
        return self.pass_index, self.block


def _place_tag(value: object) -> str:
    """Say which of the two an object or a model means; an object of neither is held against the older one."""
    names = value if isinstance(value, dict) else getattr(type(value), "model_fields", {})
    return "block" if "pass_index" in names else "tile"


OpenedPosition = Annotated[
    Annotated[Position, Tag("tile")] | Annotated[BlockPosition, Tag("block")], Discriminator(_place_tag)
]


def position_of(numbers: Sequence[int]) -> OpenedPosition:
    """Return a drawn position as it travels: three numbers are a tile, two a block."""
    if len(numbers) == len(BlockPosition.model_fields):
        return BlockPosition(pass_index=numbers[0], block=numbers[1])
    round_index, row, column = numbers
    return Position(round_index=round_index, tile_row=row, tile_column=column)


class OpenRequest(WireModel):
    """POST /challenge/open: which tiles of a matmul proof, or blocks of memory, to show; a proof of work has neither."""

    challenge_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    positions: tuple[OpenedPosition, ...] = Field(min_length=1, max_length=256)


class OpenAnswer(WireModel):
    """200 of POST /challenge/open; each opening is decoded by `challenges.matmul` or `challenges.memory`."""

    status: Literal["success"] = "success"
    openings: tuple[dict[str, object], ...] = Field(max_length=256)
