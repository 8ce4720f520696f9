"""The evidence bundle: everything one examination of one miner rests on, so that anybody can reach its verdicts anew.

Rules:
- Integers, texts and signed statements as received; what cannot be recomputed (stamps, what was seen inside the
  container) is the validator's word and stands beside what can.
- The name of a bundle is the SHA-256 of its canonical bytes *without* the openings, which are bound by digests of their
  own: throwing them away after their retention changes no name.
- A bundle is read with a bound, strictly; a digest that does not fit its openings is refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from polarise.canonical import JsonValue, canonical_bytes, digest_hex
from polarise.decode import WireModel, decode_model
from polarise.errors import ErrorCode, RejectReason, RequestRejected
from polarise.messages import Position, ProofKind, SizedProof
from polarise.notes import MAX_NOTE_BYTES
from polarise.signing import KEY_PATTERN, Certificate
from polarise.statement import SignedStatement

MAX_BUNDLE_BYTES = 16 * 1024 * 1024
TEXT_CHARS_MAX = 500

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
COUNT_MAX = 2**53 - 1
Count = Annotated[int, Field(ge=0, le=COUNT_MAX)]
Claim = Annotated[int, Field(ge=1, le=COUNT_MAX)]
Ppm = Annotated[int, Field(ge=0, le=1_000_000)]
Text = Annotated[str, Field(max_length=TEXT_CHARS_MAX)]
PartName = Literal["compute", "memory", "service", "telemetry"]


class VerdictRecord(WireModel):
    """What came of one proof or inspection.

    Attributes:
        reason: Why it lost points; None when it passed.
        message: One sentence for the miner's operator.
        got: What the miner sent or what was measured.
        expected: What it had to be, or the bound.
    """

    reason: RejectReason | None = None
    message: Text = ""
    got: Text | None = None
    expected: Text | None = None

    @property
    def is_passed(self) -> bool:
        """Whether nothing was wrong."""
        return self.reason is None


class ProofEvidence(SizedProof):
    """One proof of one device; rates are operations per second for matmul, hashes per second for the proof of work.

    Attributes:
        challenge_id: The validator's name for it.
        device: UUID of the device.
        device_index: Its place in the registry entry.
        claimed_per_second: The claim it is compared with.
        nonce: The validator's nonce.
        beacon: Public randomness of the epoch.
        seed: What follows from all of them.
        rtt_min_ns: Smallest round trip of the pings; None when it did not come so far.
        first_byte_after_ns: First byte of the commitment after the start was sent; for diagnosis.
        last_byte_after_ns: Last byte of it; the work ended before.
        commitment: The miner's signed commitment as received.
        positions: Tiles drawn from it; empty for a proof of work, which has nothing to open.
        openings: The miner's answer in wire form; None before it came, after its retention, and for a proof of work.
        openings_digest: SHA-256 of the openings' canonical bytes.
        measured_per_second: What follows from sizes and stamps, for a proof of work the lower bound; 0 when nothing was
            measured.
        verdict: What came of it.
    """

    challenge_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    device: str = Field(max_length=96)
    device_index: Count
    claimed_per_second: Claim
    nonce: Hash
    beacon: Hash
    seed: Hash
    rtt_min_ns: Count | None = None
    first_byte_after_ns: Count | None = None
    last_byte_after_ns: Count | None = None
    commitment: SignedStatement | None = None
    positions: tuple[Position, ...] = ()
    openings: tuple[dict[str, object], ...] | None = None
    openings_digest: Hash | None = None
    measured_per_second: Count = 0
    verdict: VerdictRecord


class InspectionEvidence(WireModel):
    """One rented container.

    Attributes:
        asked_memory_bytes: Memory that was asked for.
        asked_cpu_milli: CPU time that was asked for.
        allocate_ms: Request to answer of POST /allocate; None when it failed.
        login_ms: Connect to authenticated; None when it failed.
        receipt: The miner's signed receipt.
        findings: What the probe printed inside, decoded; the validator's word.
        verdict: What came of it.
    """

    asked_memory_bytes: Count
    asked_cpu_milli: Count
    allocate_ms: Count | None = None
    login_ms: Count | None = None
    receipt: SignedStatement | None = None
    findings: dict[str, object] | None = None
    verdict: VerdictRecord


class KindRate(WireModel):
    """What one kind of proof measured over all devices that answered, for whoever asks where points were lost.

    Attributes:
        kind: Which proof.
        measured_per_second: Sum of the measured rates.
        claimed_per_second: Sum of their claims.
    """

    kind: ProofKind
    measured_per_second: Count
    claimed_per_second: Count


class TelemetryEvidence(WireModel):
    """What a miner's own log was found to be.

    Attributes:
        origin: Name of the log.
        size: Lines verified so far, from the first on.
        new_lines: Lines verified in this epoch.
        certificate: The node's certificate of the key that signs the log; None when it was not seen.
        checkpoint: Newest signed checkpoint that was verified; None when there is none.
        fork: The two signed checkpoints that do not fit together.
        verdict: What came of it.
    """

    origin: str = Field(max_length=200)
    size: Count
    new_lines: Count
    certificate: Certificate | None = None
    checkpoint: str | None = Field(default=None, max_length=MAX_NOTE_BYTES)
    fork: tuple[str, str] | None = None
    verdict: VerdictRecord

    def checkpoint_hash(self) -> str | None:
        """Return the SHA-256 of the checkpoint as it was received; it goes into the epoch's telemetry root."""
        return None if self.checkpoint is None else hashlib.sha256(self.checkpoint.encode()).hexdigest()


class DeviceScore(WireModel):
    """One device's share in the compute part, with what the next epoch builds on.

    Attributes:
        device: UUID of the device.
        last_ppm: Newest value that was really measured; None if it never was.
        declines_count: Rounds in a row in which it declined to be measured.
    """

    device: str = Field(max_length=96)
    last_ppm: Ppm | None
    declines_count: Count


class PartScore(WireModel):
    """One part of a score.

    Attributes:
        name: Which part.
        weight_ppm: Its weight before parts that were left out.
        value_ppm: What it is worth; None when it was left out.
        measured: Measured figure (promises kept for service); None for compute, which has rates.
        claimed: The figure it is compared with.
        rates: One per kind of proof that was measured; compute only.
        reasons: Why points are missing.
        message: One sentence for the miner's operator.
        last_ppm: Newest value that was really measured.
        declines_count: Rounds in a row in which the miner declined to be measured; for compute the most of any device.
        devices: One per claimed device; compute only.
    """

    name: PartName
    weight_ppm: Ppm
    value_ppm: Ppm | None
    measured: Count | None = None
    claimed: Count | None = None
    rates: tuple[KindRate, ...] = ()
    reasons: tuple[RejectReason, ...] = ()
    message: Text = ""
    last_ppm: Ppm | None = None
    declines_count: Count = 0
    devices: tuple[DeviceScore, ...] = ()


class ScoreRecord(WireModel):
    """A miner's score in one epoch, with everything the next one builds on.

    Attributes:
        rules_version: Which rules computed it.
        parts: The four parts.
        raw_ppm: Weighted mean of the parts that count; None when nothing was measured.
        smoothed_ppm: After the moving average.
        gate: 0 when something in this epoch takes every point, else 1.
        score_ppm: smoothed_ppm x gate; 1,000,000 is 100 points.
        reasons: All reasons, each once.
    """

    rules_version: Count
    parts: tuple[PartScore, ...]
    raw_ppm: Ppm | None
    smoothed_ppm: Ppm
    gate: Literal[0, 1]
    score_ppm: Ppm
    reasons: tuple[RejectReason, ...]

    def part(self, name: PartName) -> PartScore:
        """Return the part of that name.

        Raises:
            KeyError: These rules do not have it.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(name)


class EvidenceBundle(WireModel):
    """One examination of one miner.

    Attributes:
        version: Of this format.
        epoch: The validator's epoch number.
        examined_unix_ms: When it ended, by the validator's wall clock.
        validator_key: Who examined.
        miner_key: Who was examined.
        registry: The miner's signed registry entry.
        target_seconds: How long each proof was to take by its claim; the sizes follow from it.
        opening_key: The validator's secret of this epoch; a bundle must not leave it before the epoch's proofs are done.
        miner_set_root: Merkle root over the digests of all entries of the epoch.
        challenge_commit: What the validator was bound to before.
        beacon_block: The signed block whose hash is the beacon of all proofs.
        proofs: One per device and kind.
        inspection: The rented container; None when this validator does not inspect.
        telemetry: The miner's log; None when this validator does not read it.
        previous: The miner's score before.
        score: The score that follows.
    """

    version: Literal[1] = 1
    epoch: Count
    examined_unix_ms: Count
    validator_key: str = Field(pattern=KEY_PATTERN)
    miner_key: str = Field(pattern=KEY_PATTERN)
    registry: SignedStatement
    target_seconds: int = Field(ge=1, le=60)
    opening_key: Hash
    miner_set_root: Hash
    challenge_commit: Hash
    beacon_block: str = Field(max_length=MAX_NOTE_BYTES)
    proofs: tuple[ProofEvidence, ...]
    inspection: InspectionEvidence | None
    telemetry: TelemetryEvidence | None = None
    previous: ScoreRecord | None
    score: ScoreRecord

    def digest(self) -> str:
        """Return the bundle's name: the SHA-256 of its canonical bytes without openings."""
        return hashlib.sha256(canonical_bytes(self.without_openings().to_wire())).hexdigest()

    def without_openings(self) -> EvidenceBundle:
        """Return what is kept for ever."""
        proofs = tuple(proof.model_copy(update={"openings": None}) for proof in self.proofs)
        return self.model_copy(update={"proofs": proofs})


def openings_digest(openings: Sequence[dict[str, object]]) -> str:
    """Return the digest that stands for openings once they are gone."""
    value: JsonValue = list(openings)  # type: ignore[arg-type]  # came through JSON, so it is JSON
    return digest_hex(value)


def read_bundle(path: Path) -> EvidenceBundle:
    """Read one bundle.

    Raises:
        OSError: Not readable.
        RequestRejected: Too large, not a bundle, or openings whose digest is another.
    """
    with path.open("rb") as handle:
        raw = handle.read(MAX_BUNDLE_BYTES + 1)
    bundle = decode_model(EvidenceBundle, raw, max_bytes=MAX_BUNDLE_BYTES)
    for proof in bundle.proofs:
        if proof.openings is not None and _digest_of(proof.openings) != proof.openings_digest:
            raise RequestRejected(
                ErrorCode.INVALID_FIELD,
                f"the openings of {proof.device} have another digest than the bundle names",
                hint="get the bundle from the validator again",
                field="proofs.openings_digest",
            )
    return bundle


def _digest_of(openings: Sequence[dict[str, object]]) -> str:
    try:
        return openings_digest(openings)
    except ValueError as err:
        raise RequestRejected(
            ErrorCode.INVALID_FIELD,
            f"openings without a canonical form: {err}"[:400],
            hint="finite numbers, integers within 2^53 - 1",
            field="proofs.openings",
        ) from err


def write_bundle(folder: Path, bundle: EvidenceBundle) -> Path:
    """Write a bundle under its name, mode 0600, so that a reader sees all of it or nothing.

    Raises:
        ValueError: It is larger than a reader would read.
    """
    raw = canonical_bytes(bundle.to_wire())
    if len(raw) > MAX_BUNDLE_BYTES:
        raise ValueError(f"the bundle has {len(raw)} bytes, at most {MAX_BUNDLE_BYTES} are read")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{bundle.digest()}.json"
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(raw)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)
    return path
