"""The evidence bundle: everything one examination of one miner rests on, so that anybody can reach its verdicts anew.

Rules:
- Integers, texts and signed statements as received; what cannot be recomputed (stamps, what was seen inside the
  container) is the validator's word and stands beside what can.
- The name of a bundle is the SHA-256 of its canonical bytes *without* the openings, which are bound by digests of their
  own: throwing them away after their retention changes no name. What was said of openings that went earlier is no part of
  it either (`polarise.openings`).
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
from polarise.excuse import Excuse
from polarise.messages import OpenedPosition, ProofKind, SizedProof
from polarise.notes import MAX_NOTE_BYTES
from polarise.rate_average import RateAverage
from polarise.rented import CountersignedReceipt
from polarise.signing import KEY_PATTERN, Certificate
from polarise.statement import SignedStatement

MAX_BUNDLE_BYTES = 16 * 1024 * 1024
TEXT_CHARS_MAX = 500
RETENTION_HOURS_MAX = 87_600
# By these rules and later ones weight counts what was shown in a common window.
WINDOWS_SINCE_RULES = 3

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
    """One proof of one device; rates are operations per second for matmul, hashes for the proof of work, bytes for memory.

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
        positions: Tiles or blocks drawn from it; empty for a proof of work, which has nothing to open.
        openings: The miner's answer in wire form; None before it came, after its retention, and for a proof of work.
        openings_digest: SHA-256 of the openings' canonical bytes.
        measured_per_second: What follows from sizes and stamps, for a proof of work the lower bound; 0 when nothing was
            measured.
        verdict: What came of it.
        attempt: 1 when the whole round was run again; nonce and positions follow from it.
        started_after_ns: When the start left, after the first start of the same wave.
        rented: The lease the miner showed instead of a proof; bundles of version 2 only.
        average: The usual rate of its model and kind before this epoch; None where there is none yet, and for a CPU.
        flag: On which side of the band that follows the rate lies; it costs nothing.
        expected_per_second: What a card of this name should do by the table; None of a CPU, and of a card nobody knows.
        excuse: What the miner showed instead of a proof; see `polarise.rented` and `polarise.occupied`.
        ordered_unix_ms: With an excuse, the stamp of the order that it had to answer.
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
    positions: tuple[OpenedPosition, ...] = ()
    openings: tuple[dict[str, object], ...] | None = None
    openings_digest: Hash | None = None
    measured_per_second: Count = 0
    verdict: VerdictRecord
    attempt: Literal[0, 1] = 0
    started_after_ns: Count | None = None
    rented: CountersignedReceipt | None = None
    average: RateAverage | None = None
    flag: Literal["DEGRADED", "FAST"] | None = None
    expected_per_second: Count | None = None
    excuse: Excuse | None = None
    ordered_unix_ms: Count | None = None


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
    """What one kind of proof measured on one device, or over all that answered, beside what was claimed.

    Attributes:
        kind: Which proof.
        measured_per_second: The measured rate, or the sum of them.
        claimed_per_second: The claim, or the sum of them.
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
    """One device's share in the compute or the memory part, with what the next epoch builds on.

    Attributes:
        device: UUID of the device.
        last_ppm: Newest value that was really measured; None if it never was.
        declines_count: Rounds in a row in which it declined to be measured.
        standing: Why its newest measured proof lost points; it stands until the device is measured again.
        rates: Its newest measured rates beside the claims of that round, one per kind; what the device is worth follows
            from these claims, not from newer ones.
        window_ppm: What it showed in common windows, in which one device answers for one miner; None until its first one.
    """

    device: str = Field(max_length=96)
    last_ppm: Ppm | None
    declines_count: Count
    standing: RejectReason | None = None
    rates: tuple[KindRate, ...] = ()
    window_ppm: Ppm | None = None


class PartScore(WireModel):
    """One part of a score.

    Attributes:
        name: Which part.
        weight_ppm: Its weight before parts that were left out.
        value_ppm: What it is worth; None when it was left out.
        measured: Measured figure (promises kept for service); None for compute and memory, which have rates.
        claimed: The figure it is compared with.
        rates: One per kind of proof that was measured; compute and memory only.
        reasons: Why points are missing.
        message: One sentence for the miner's operator.
        last_ppm: Newest value that was really measured.
        declines_count: Rounds in a row in which the miner declined to be measured; where there are devices the most of any.
        devices: One per claimed device, and what stands against those that were withdrawn; compute and memory only.
        standing: Why the newest inspection, or the newest look at the log, lost points; it stands until the next one.
        smoothed_ppm: Moving average over the rounds in which the part was measured; None when it never was.
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
    standing: RejectReason | None = None
    smoothed_ppm: Ppm | None = None


class ScoreRecord(WireModel):
    """A miner's score in one epoch, with everything the next one builds on.

    Attributes:
        rules_version: Which rules computed it.
        parts: The four parts.
        raw_ppm: Weighted mean of the parts that count; None when nothing was measured.
        smoothed_ppm: After the moving average; from rules 2 on the weighted mean of the smoothed parts that count.
        gate: 0 when something in this epoch takes every point, else 1.
        score_ppm: smoothed_ppm x gate; 1,000,000 is 100 points.
        reasons: All reasons, each once.
        undrawn_count: Epochs in a row in which the miner was not drawn for a proof.
        uninspected_count: Epochs in a row in which it was not drawn for an inspection.
    """

    rules_version: Count
    parts: tuple[PartScore, ...]
    raw_ppm: Ppm | None
    smoothed_ppm: Ppm
    gate: Literal[0, 1]
    score_ppm: Ppm
    reasons: tuple[RejectReason, ...]
    undrawn_count: Count = 0
    uninspected_count: Count = 0

    def part(self, name: PartName) -> PartScore:
        """Return the part of that name.

        Raises:
            KeyError: These rules do not have it.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(name)


class DrawEvidence(WireModel):
    """Whether a miner was to be proven and inspected in this epoch; it follows from beacon, host and score before.

    Attributes:
        proof_every: One epoch of about so many has a common window; by rules 2 a host was proven so often.
        inspect_every: A host is inspected in about one epoch of so many; 0 where the validator inspects nobody.
        is_proven: Drawn for a proof.
        is_inspected: Drawn for an inspection.
        is_first: Whether it is the validator's first complete epoch by rules with windows.
        is_common: Whether every miner of the epoch is proven, all in one window.
        has_missed_window: Whether there was a common window since the miner's score before, without it.
    """

    proof_every: int = Field(ge=1, le=1000)
    inspect_every: int = Field(ge=0, le=1000)
    is_proven: bool
    is_inspected: bool
    is_first: bool = False
    is_common: bool = False
    has_missed_window: bool = False


class RoundEvidence(WireModel):
    """The round of all miners of the epoch, as far as it decides what one of them gets.

    Attributes:
        attempt: 1 when the round was run again because too many devices were missing.
        devices_count: Devices that were asked in the first attempt; by rules 3 those that were measured before.
        missing_count: Those of them that were MISSING; above a fifth the round is run again, once.
    """

    attempt: Literal[0, 1]
    devices_count: Count
    missing_count: Count


class EvidenceBundle(WireModel):
    """One examination of one miner.

    Attributes:
        version: Of this format; 1 has no draw and no round. It goes with the version of the rules.
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
        proofs: One per device and kind; none where the miner was not drawn.
        inspection: The rented container; None when this validator does not inspect, or not in this epoch.
        telemetry: The miner's log; None when this validator does not read it.
        previous: The miner's score before.
        score: The score that follows.
        draw: Whether it was to be proven and inspected.
        round: The round it was proven in; None where it was not drawn.
        retention_hours: Hours after the examination for which the openings are shown.
        openings_gone: The validator's word that they went earlier; see `polarise.openings`.
    """

    version: Literal[1, 2, 3] = 3
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
    draw: DrawEvidence | None = None
    round: RoundEvidence | None = None
    retention_hours: int | None = Field(default=None, ge=1, le=RETENTION_HOURS_MAX)
    openings_gone: SignedStatement | None = None

    def to_wire(self) -> dict[str, JsonValue]:
        """Return the bundle as JSON-ready values; an older one without what came later, so that its name stays."""
        if (later := _SINCE.get(self.version)) is not None:
            wire: dict[str, JsonValue] = self.model_dump(mode="json", exclude=later)  # type: ignore[arg-type]  # nested
            return wire
        return super().to_wire()

    def digest(self) -> str:
        """Return the bundle's name: the SHA-256 of its canonical bytes without openings."""
        return hashlib.sha256(canonical_bytes(self.without_openings().to_wire())).hexdigest()

    def without_openings(self) -> EvidenceBundle:
        """Return what is kept for ever, and what the bundle's name is made of."""
        proofs = tuple(proof.model_copy(update={"openings": None}) for proof in self.proofs)
        return self.model_copy(update={"proofs": proofs, "openings_gone": None})


_SCORE_SINCE_2: dict[str, object] = {
    "undrawn_count": True,
    "uninspected_count": True,
    "parts": {
        "__all__": {
            "standing": True,
            "smoothed_ppm": True,
            "devices": {"__all__": {"standing": True, "rates": True, "window_ppm": True}},
        }
    },
}
_PROOF_SINCE_3 = ("expected_per_second", "excuse", "ordered_unix_ms")
_PROOF_SINCE_2 = ("attempt", "started_after_ns", "rented", "average", "flag", *_PROOF_SINCE_3)
_SINCE_VERSION_2: dict[str, object] = {
    "draw": True,
    "round": True,
    "retention_hours": True,
    "openings_gone": True,
    "proofs": {"__all__": dict.fromkeys(_PROOF_SINCE_2, True)},
    "previous": _SCORE_SINCE_2,
    "score": _SCORE_SINCE_2,
}

_SCORE_SINCE_3: dict[str, object] = {"parts": {"__all__": {"devices": {"__all__": {"window_ppm": True}}}}}
_SINCE_VERSION_3: dict[str, object] = {
    "draw": dict.fromkeys(("is_first", "is_common", "has_missed_window"), True),
    "proofs": {"__all__": dict.fromkeys(_PROOF_SINCE_3, True)},
    "previous": _SCORE_SINCE_3,
    "score": _SCORE_SINCE_3,
}
# Version of a bundle -> what only later ones have.
_SINCE: dict[int, dict[str, object]] = {1: _SINCE_VERSION_2, 2: _SINCE_VERSION_3}


def openings_digest(openings: Sequence[dict[str, object]]) -> str:
    """Return the digest that stands for openings once they are gone."""
    value: JsonValue = list(openings)  # type: ignore[arg-type]  # came through JSON, so it is JSON
    return digest_hex(value)


def read_bundle(path: Path) -> EvidenceBundle:
    """Read one bundle.

    Raises:
        OSError: Not readable.
        RequestRejected: Too large, not a bundle, an older one with what came later, or openings whose digest is another.
    """
    with path.open("rb") as handle:
        raw = handle.read(MAX_BUNDLE_BYTES + 1)
    bundle = decode_model(EvidenceBundle, raw, max_bytes=MAX_BUNDLE_BYTES)
    if bundle.version in _SINCE:
        _check_older(bundle)
    for proof in bundle.proofs:
        if proof.openings is not None and _digest_of(proof.openings) != proof.openings_digest:
            raise RequestRejected(
                ErrorCode.INVALID_FIELD,
                f"the openings of {proof.device} have another digest than the bundle names",
                hint="get the bundle from the validator again",
                field="proofs.openings_digest",
            )
    return bundle


def _check_older(bundle: EvidenceBundle) -> None:
    """Refuse a bundle of an older version that says what only a newer one can: its name would not cover it."""
    if decode_model(EvidenceBundle, canonical_bytes(bundle.to_wire()), max_bytes=MAX_BUNDLE_BYTES) != bundle:
        raise RequestRejected(
            ErrorCode.INVALID_FIELD,
            f"a bundle of version {bundle.version} says what that version does not have",
            hint="get the bundle from the validator again",
            field="version",
        )


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
