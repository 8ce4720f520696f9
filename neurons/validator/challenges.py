"""What a miner is asked, and why nobody could know it before: opening key, commit, beacon, nonce, sizes, seed.

Rules:
- One opening key per epoch, kept before anything is sent, so that evidence can be re-checked after any crash.
- The beacon is the hash of the first ledger block that covers the epoch's commitment; see `neurons.validator.chain`.
- A device is asked for each kind of proof that it claims a rate of, one after the other; nonce and seed of each are its
  own. What a memory is filled from is told before, and follows from a nonce that is no other's either.
- Sizes follow from the claim alone, so that a miner which claims more has to do more.
- Everything a seed depends on stands in the evidence; `recompute` is the same code for the round and for an auditor.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace

from challenges import draw
from challenges.draw import ChallengeKind, SeedInputs
from challenges.hardware import HardwareTable
from challenges.matmul_messages import MatmulParams
from challenges.memory_digest import DIGEST_BYTES
from challenges.memory_fit import GPU_SECONDS_MIN, fit_cpu_memory_params, fit_gpu_memory_params
from challenges.memory_messages import LEAF_BLOCKS, MemoryParams
from challenges.pow_messages import PowParams
from challenges.proofs import ProofParams, bounds_of, kind_of, sizes_of
from challenges.timing import WorkTooSmall, fit_params, fit_pow_params
from polarise import merkle
from polarise.clients import OrderedWork
from polarise.hardware import DeviceClaim
from polarise.messages import MemoryFill, PrepareRequest, StartRequest
from polarise.occupied import WORK_MS_MAX
from polarise.statement import SignedStatement

START_SECONDS_MAX = 180.0
START_SLACK_SECONDS = 10.0
# Below 0.6 of the claim the epoch is lost anyhow; waiting twice as long tells the operator how far off the claim is.
WORTH_WAITING_FOR = 0.3
# Sizes are rounded, to half as much again at most. A wave waits for the slowest, so that one tiny claim would hold up all.
TARGETS_WORTH_WAITING_FOR = 2
# From prepare to ready. Filling a card takes some seconds, 64 MiB on one slow and busy core most of a minute.
PREPARE_SECONDS = 60.0
FILL_SECONDS = 90.0
# The proof of work first: it needs no torch, so that the miner's first answer costs it least.
KINDS = (ChallengeKind.POW, ChallengeKind.MATMUL, ChallengeKind.MEMORY)
# Version of a bundle -> what a device could be asked for.
KINDS_OF_BUNDLE = {1: KINDS[:2], 2: KINDS[:2], 3: KINDS}


@dataclass(frozen=True, slots=True)
class EpochSecret:
    """What the validator is bound to in one epoch.

    Attributes:
        epoch: Its number.
        opening_key: 32 bytes, secret until the epoch's proofs are done.
        miner_set_root: 32 bytes, over the digests of all entries, in order of the node keys.
        commit: 32 bytes; goes onto the ledger at the start of the epoch.
    """

    epoch: int
    opening_key: bytes
    miner_set_root: bytes
    commit: bytes


@dataclass(frozen=True, slots=True)
class Challenge:
    """One proof of one kind for one device.

    Attributes:
        challenge_id: 32 hex digits.
        epoch: Epoch number.
        miner_key: Node key of the miner, 64 hex digits.
        device: The claim that is tested.
        device_index: Its place in the registry entry.
        params: Sizes; their class is the kind.
        opening_key: The epoch's secret, 32 bytes.
        beacon: 32 bytes.
        nonce: 32 bytes.
        seed: 32 bytes, what the miner has to derive too.
        attempt: 1 in a round that is run again; nonce and positions follow from it.
        fill_nonce: 32 bytes that `/challenge/prepare` tells of a memory proof; empty for other kinds.
        fill_seed: 32 bytes that follow from it, what the memory is filled from; empty for other kinds.
        patience_seconds: How long its commitment is waited for at most, whatever the claim.
    """

    challenge_id: str
    epoch: int
    miner_key: str
    device: DeviceClaim
    device_index: int
    params: ProofParams
    opening_key: bytes
    beacon: bytes
    nonce: bytes
    seed: bytes
    attempt: int = 0
    fill_nonce: bytes = b""
    fill_seed: bytes = b""
    patience_seconds: float = START_SECONDS_MAX

    @property
    def kind(self) -> ChallengeKind:
        """Which proof."""
        return kind_of(self.params)

    @property
    def claimed_per_second(self) -> int:
        """The device's claim that this proof tests."""
        return claimed_rate(self.device, self.kind)

    @property
    def expected_seconds(self) -> float:
        """Time of the work by the claim."""
        return self.params.operations / self.claimed_per_second

    @property
    def prepare_deadline_seconds(self) -> float:
        """How long a device may take to get ready; filling memory has a deadline of its own."""
        return FILL_SECONDS if isinstance(self.params, MemoryParams) else PREPARE_SECONDS

    @property
    def start_deadline_seconds(self) -> float:
        """How long the commitment is waited for."""
        return min(self.expected_seconds / WORTH_WAITING_FOR + START_SLACK_SECONDS, self.patience_seconds)

    @property
    def commitment_bytes_max(self) -> int:
        """Bound of a signed commitment on the wire: 64 hex digits a root, or 8 bytes a nonce in base64."""
        match self.params:
            case MatmulParams(rounds=roots) | MemoryParams(passes=roots):
                return 8192 + 70 * roots
            case PowParams(shares=shares):
                return 8192 + 24 * shares

    @property
    def openings_bytes_max(self) -> int:
        """Bound of the openings on the wire: leaf and path in base64, with some room for each one's names."""
        match self.params:
            case MatmulParams() as params:
                hashes_count = (params.tiles_per_side - 1).bit_length()
                return 1024 + params.openings * (params.leaf_bytes * 4 // 3 + hashes_count * 48 + 256)
            case MemoryParams() as params:
                hashes_count = (params.leaves_count - 1).bit_length()
                leaf_bytes = min(params.blocks, LEAF_BLOCKS) * DIGEST_BYTES
                return 1024 + params.openings * (leaf_bytes * 4 // 3 + hashes_count * 43 + 160)
            case PowParams():
                return 1024

    @property
    def has_openings(self) -> bool:
        """Whether anything is left to open after the commitment."""
        return bool(bounds_of(self.params))

    def prepare_request(self) -> PrepareRequest:
        """Return the message that announces it."""
        fill = None
        if self.fill_nonce:
            fill = MemoryFill(epoch=self.epoch, beacon=self.beacon.hex(), nonce=self.fill_nonce.hex())
        wire = {
            "challenge_id": self.challenge_id,
            "kind": self.kind.value,
            "device": self.device.uuid,
            "sizes": sizes_of(self.params),
            "fill": fill,
        }
        return PrepareRequest.model_validate(wire)

    def start_request(self) -> StartRequest:
        """Return the message that starts the clock."""
        return StartRequest(
            challenge_id=self.challenge_id, epoch=self.epoch, beacon=self.beacon.hex(), nonce=self.nonce.hex()
        )

    def ordered_work(self, ordered_unix_ms: int) -> OrderedWork:
        """Return what the order of its start says."""
        work_ms = min(round(self.expected_seconds * 1000), WORK_MS_MAX)
        return OrderedWork(self.device.uuid, self.kind.value, work_ms, ordered_unix_ms)

    def positions(self, signed_commitment: bytes) -> tuple[tuple[int, ...], ...]:
        """Draw the tiles or blocks to open from the exact bytes of the signed commitment; none for a proof of work."""
        if isinstance(self.params, PowParams):
            return ()
        return draw.draw_positions(
            self.opening_key,
            self.device.uuid,
            self.kind,
            signed_commitment,
            bounds=self.params.bounds,
            count=self.params.openings,
            attempt=self.attempt,
        )


class ChallengeGenerator:
    """Makes the challenges of one validator.

    Args:
        validator_key: Its node key, 64 hex digits.
        target_seconds: How long a proof should take a miner that holds its claim.
        openings: Tiles recomputed per matmul proof, and blocks per memory proof, as far as its check may take.
        hardware: What vendors say of their cards; the table that comes with this software if left out.
    """

    def __init__(
        self, validator_key: str, *, target_seconds: int, openings: int, hardware: HardwareTable | None = None
    ) -> None:
        self._validator_key = validator_key
        self._target_seconds = target_seconds
        self._openings = openings
        self._hardware = hardware or HardwareTable.load()

    @property
    def target_seconds(self) -> int:
        """How long a proof should take; it stands in the evidence, as the sizes follow from it."""
        return self._target_seconds

    def begin_epoch(self, epoch: int, entries: Iterable[SignedStatement]) -> EpochSecret:
        """Draw the epoch's key and bind it to the miners that will be asked."""
        opening_key = secrets.token_bytes(draw.KEY_BYTES)
        miner_set_root = merkle.root([bytes.fromhex(statement.digest()) for statement in entries])
        return EpochSecret(
            epoch, opening_key, miner_set_root, draw.challenge_commit(epoch, opening_key, miner_set_root)
        )

    def challenges(
        self,
        secret: EpochSecret,
        beacon: bytes,
        miner_key: str,
        device: DeviceClaim,
        device_index: int,
        *,
        attempt: int = 0,
    ) -> tuple[Challenge, ...]:
        """Make the proofs of one device, as `kinds_of` orders them.

        Args:
            secret: The epoch's key.
            beacon: Public randomness of the epoch, 32 bytes.
            miner_key: Node key of the miner.
            device: One of its devices.
            device_index: Its place there.
            attempt: 1 in a round that is run again.
        """
        found = (
            recompute(
                challenge_id=secrets.token_hex(16),
                epoch=secret.epoch,
                validator_key=self._validator_key,
                miner_key=miner_key,
                device=device,
                device_index=device_index,
                params=self._params(kind, device, device_index),
                opening_key=secret.opening_key,
                beacon=beacon,
                attempt=attempt,
            )
            for kind in kinds_of(device)
        )
        patience_seconds = patience(self._target_seconds)
        return tuple(replace(challenge, patience_seconds=patience_seconds) for challenge in found)

    def check_work(self, challenge: Challenge) -> None:
        """Check that the device's claim carries a proof of its own rate; otherwise nothing need be sent.

        Raises:
            ProofRejected: CLAIM_NOT_MET, the claimed memory is too small.
        """
        self._fitted(challenge.kind, challenge.device, challenge.device_index)

    def _params(self, kind: ChallengeKind, device: DeviceClaim, device_index: int) -> ProofParams:
        try:
            return self._fitted(kind, device, device_index)
        except WorkTooSmall as err:
            return err.params

    def _fitted(self, kind: ChallengeKind, device: DeviceClaim, device_index: int) -> ProofParams:
        return fitted_params(
            kind,
            device,
            device_index,
            target_seconds=self._target_seconds,
            openings=self._openings,
            hardware=self._hardware,
        )


def patience(target_seconds: int) -> float:
    """Return how long any commitment is waited for: who claims an operation a second has the smallest proof, of weeks."""
    longest = TARGETS_WORTH_WAITING_FOR * max(target_seconds, GPU_SECONDS_MIN)
    return min(longest / WORTH_WAITING_FOR + START_SLACK_SECONDS, START_SECONDS_MAX)


def kinds_of(device: DeviceClaim, kinds: tuple[ChallengeKind, ...] = KINDS) -> tuple[ChallengeKind, ...]:
    """Return which of these proofs a device is asked for, in their order: those it claims a rate of."""
    return tuple(kind for kind in kinds if claimed_rate(device, kind))


def claimed_rate(device: DeviceClaim, kind: ChallengeKind) -> int:
    """Return what a device claims in one kind of proof, per second; 0 where it claims nothing."""
    match kind:
        case ChallengeKind.POW:
            return device.pow_hashes_per_second
        case ChallengeKind.MATMUL:
            return device.matmul_ops_per_second
        case ChallengeKind.MEMORY:
            return device.memory_bytes_per_second


def fitted_params(
    kind: ChallengeKind,
    device: DeviceClaim,
    device_index: int,
    *,
    target_seconds: int,
    openings: int,
    hardware: HardwareTable,
) -> ProofParams:
    """Return the sizes that follow from a device's claim, for the round and for an auditor.

    Raises:
        WorkTooSmall: The claimed memory does not carry a proof of the claimed rate.
    """
    rate = claimed_rate(device, kind)
    match kind:
        case ChallengeKind.POW:
            return fit_pow_params(rate, target_seconds, slot=device_index)
        case ChallengeKind.MATMUL:
            return fit_params(rate, target_seconds, memory_bytes=device.memory_bytes or None, openings=openings)
        case ChallengeKind.MEMORY:
            memory_bytes = device.memory_bytes
            if device.kind == "cpu":
                return fit_cpu_memory_params(rate, target_seconds, memory_bytes=memory_bytes, openings=openings)
            model = hardware.find(device.name)
            return fit_gpu_memory_params(model, memory_bytes, rate, target_seconds, openings=openings)


def recompute(
    *,
    challenge_id: str,
    epoch: int,
    validator_key: str,
    miner_key: str,
    device: DeviceClaim,
    device_index: int,
    params: ProofParams,
    opening_key: bytes,
    beacon: bytes,
    attempt: int = 0,
) -> Challenge:
    """Derive nonces and seeds from what the evidence holds."""
    kind = kind_of(params)
    inputs = SeedInputs(
        kind=kind,
        params=params.encode(),
        epoch=epoch,
        beacon=beacon,
        validator_key=bytes.fromhex(validator_key),
        nonce=draw.nonce(opening_key, beacon, device.uuid, kind, attempt=attempt),
        miner_key=bytes.fromhex(miner_key),
        device_uuid=device.uuid,
        device_index=device_index,
    )
    fill_nonce = fill_seed = b""
    if kind is ChallengeKind.MEMORY:
        fill_nonce = draw.fill_nonce(opening_key, beacon, device.uuid, attempt=attempt)
        fill_seed = draw.fill_seed(replace(inputs, nonce=fill_nonce))
    return Challenge(
        challenge_id=challenge_id,
        epoch=epoch,
        miner_key=miner_key,
        device=device,
        device_index=device_index,
        params=params,
        opening_key=opening_key,
        beacon=beacon,
        nonce=inputs.nonce,
        seed=draw.seed(inputs),
        attempt=attempt,
        fill_nonce=fill_nonce,
        fill_seed=fill_seed,
    )
