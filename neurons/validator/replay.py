"""A bundle checked offline: every signature, draw, seed, tile, share, limit and score computed anew from the evidence alone.

Rules:
- Nothing is believed but the validator's own words, which are named as such: stamps, silence, what was seen inside.
- A verdict that can be recomputed must come out with the same reason; a score must come out equal to the last integer.
- The same functions that judged live judge here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from challenges import draw
from challenges.draw import ChallengeKind
from challenges.hardware import HardwareTable
from challenges.matmul_messages import MatmulParams
from challenges.proofs import ProofParams, read_params
from challenges.timing import WorkTooSmall
from neurons.validator.challenges import KINDS, Challenge, claimed_rate, fitted_params, recompute
from neurons.validator.findings import Findings, check_findings, check_receipt
from neurons.validator.proof_trace import ProofTrace, check_commitment, signed_bytes
from neurons.validator.scoring import ScoringSystem
from neurons.validator.verification import check_answer, judge
from polarise.answers import open_receipt, printable
from polarise.block import block_hash
from polarise.canonical import canonical_bytes
from polarise.checkpoint import open_checkpoint
from polarise.decode import decode_model
from polarise.errors import ProofRejected, RejectReason, SubnetError
from polarise.evidence import EvidenceBundle, InspectionEvidence, ProofEvidence, TelemetryEvidence
from polarise.notes import NoteInvalid, NoteVerifier
from polarise.registry import RegistryEntry, open_entry
from polarise.signing import SignatureInvalid
from polarise.stream import SYSTEM, log_verifier

# What only the validator saw: nobody can recompute a silence.
WITNESSED = frozenset(
    {
        RejectReason.MISSING,
        RejectReason.OPENING_LATE,
        RejectReason.NOT_MEASURED,
        RejectReason.ALLOCATE_FAILED,
        RejectReason.SSH_FAILED,
        RejectReason.HOST_KEY_MISMATCH,
        RejectReason.TERMINATE_FAILED,
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a replay.

    Attributes:
        what: What was checked.
        holds: Whether it came out the same; None where only the validator's word stands.
        detail: What differed, or why it cannot be recomputed.
    """

    what: str
    holds: bool | None
    detail: str = ""


def replay(bundle: EvidenceBundle) -> list[Finding]:
    """Check everything in a bundle that can be checked."""
    try:
        entry = open_entry(bundle.registry)
    except (SignatureInvalid, ValueError) as err:
        return [Finding("registry entry", False, printable(err))]
    findings = [Finding("registry entry", entry.node_key == bundle.miner_key), _commit(bundle)]
    findings.append(Finding("one proof per device and kind", _is_complete(bundle, entry)))
    for proof in bundle.proofs:
        findings.extend(_proof(bundle, entry, proof))
    if bundle.inspection is not None:
        findings.extend(_inspection(bundle, bundle.inspection))
    if bundle.telemetry is not None:
        findings.extend(_telemetry(bundle.miner_key, bundle.telemetry))
    score = ScoringSystem().calculate_score(bundle.proofs, bundle.inspection, bundle.previous, bundle.telemetry)
    findings.append(Finding("score", score == bundle.score, f"recomputed {score.score_ppm} ppm"))
    return findings


def _commit(bundle: EvidenceBundle) -> Finding:
    commit = draw.challenge_commit(
        bundle.epoch, bytes.fromhex(bundle.opening_key), bytes.fromhex(bundle.miner_set_root)
    )
    return Finding("challenge commit", commit.hex() == bundle.challenge_commit)


def _is_complete(bundle: EvidenceBundle, entry: RegistryEntry) -> bool:
    proven = [(proof.device_index, proof.device, proof.kind, proof.claimed_per_second) for proof in bundle.proofs]
    claimed = [
        (index, device.uuid, kind.value, claimed_rate(device, kind))
        for index, device in enumerate(entry.hardware.devices)
        for kind in KINDS
    ]
    return proven == claimed


def _proof(bundle: EvidenceBundle, entry: RegistryEntry, proof: ProofEvidence) -> Iterator[Finding]:
    name = f"{proof.kind} proof of {printable(proof.device, 40)}"
    try:
        challenge = _challenge(bundle, entry, proof)
    except (ValueError, IndexError) as err:
        yield Finding(f"{name}: sizes", False, printable(err))
        return
    drawn = (challenge.beacon.hex(), challenge.nonce.hex(), challenge.seed.hex())
    yield Finding(f"{name}: beacon, nonce and seed", drawn == (proof.beacon, proof.nonce, proof.seed))
    params, too_small = _fitted(challenge, bundle.target_seconds)
    yield Finding(f"{name}: sizes follow from the claim", params == challenge.params, f"recomputed {params}")
    if too_small is None:
        yield from _answer(name, challenge, proof)
    else:
        yield from _unasked(name, too_small, proof)


def _challenge(bundle: EvidenceBundle, entry: RegistryEntry, proof: ProofEvidence) -> Challenge:
    return recompute(
        challenge_id=proof.challenge_id,
        epoch=bundle.epoch,
        validator_key=bundle.validator_key,
        miner_key=bundle.registry.signer,
        device=entry.hardware.devices[proof.device_index],
        device_index=proof.device_index,
        params=read_params(ChallengeKind(proof.kind), proof.sizes.model_dump()),
        opening_key=bytes.fromhex(bundle.opening_key),
        beacon=bytes.fromhex(block_hash(bundle.beacon_block.encode())),
    )


def _fitted(challenge: Challenge, target_seconds: int) -> tuple[ProofParams, WorkTooSmall | None]:
    """Return the sizes that follow from the claim, and why nothing was asked where they are too small to show it."""
    # How many tiles are opened is the validator's setting; it decides nothing about the work.
    openings = challenge.params.openings if isinstance(challenge.params, MatmulParams) else 1
    try:
        params = fitted_params(
            challenge.kind, challenge.device, challenge.device_index, target_seconds=target_seconds, openings=openings
        )
    except WorkTooSmall as err:
        return err.params, err
    return params, None


def _unasked(name: str, too_small: WorkTooSmall, proof: ProofEvidence) -> Iterator[Finding]:
    """Check the verdict on a claim that cannot be proven; that nothing was measured at all stays the validator's word."""
    if proof.verdict.reason is RejectReason.NOT_MEASURED:
        yield _witnessed(name, proof.verdict.reason)
        return
    yield _same_reason(f"{name}: claim", too_small.reason, proof)
    is_bare = proof.commitment is None and proof.measured_per_second == 0
    yield Finding(f"{name}: nothing was asked", is_bare)


def _answer(name: str, challenge: Challenge, proof: ProofEvidence) -> Iterator[Finding]:
    if proof.commitment is None:
        yield _witnessed(name, proof.verdict.reason)
        return
    try:
        commitment = check_commitment(challenge, proof.commitment)
    except ProofRejected as err:
        yield _same_reason(f"{name}: commitment", err.reason, proof)
        return
    positions = challenge.positions(signed_bytes(proof.commitment))
    kept = tuple((p.round_index, p.tile_row, p.tile_column) for p in proof.positions)
    yield Finding(f"{name}: positions", positions == kept)
    answer = f"{name}: {'openings' if challenge.has_openings else 'shares'}"
    if (amiss := _openings_amiss(answer, challenge, proof)) is not None:
        yield amiss
        return
    checked = check_answer(challenge.params, challenge.seed, commitment, positions, proof.openings)
    if checked.reason is not None:
        yield _same_reason(answer, RejectReason(checked.reason), proof)
        return
    if proof.verdict.reason is RejectReason.NOT_MEASURED:
        yield _witnessed(name, proof.verdict.reason)
        return
    verdict = judge(challenge, HardwareTable.load(), _trace(proof))
    is_same = verdict.measured_per_second == proof.measured_per_second
    yield Finding(f"{name}: rate from the stamps", is_same, f"recomputed {verdict.measured_per_second} per second")
    yield _same_reason(answer, verdict.reason, proof)


def _openings_amiss(what: str, challenge: Challenge, proof: ProofEvidence) -> Finding | None:
    """Return what ends the replay of an answer early: openings that are not there, or there though the kind has none."""
    if not challenge.has_openings:
        is_bare = proof.openings is None and proof.openings_digest is None
        return None if is_bare else Finding(what, False, "a proof of work has no openings")
    if proof.openings_digest is None:
        return _witnessed(what, proof.verdict.reason)
    if proof.openings is None:
        return Finding(what, None, "thrown away after their retention; their digest stands")
    return None


def _trace(proof: ProofEvidence) -> ProofTrace:
    return ProofTrace(rtt_min_ns=proof.rtt_min_ns or 0, last_byte_after_ns=proof.last_byte_after_ns or 0)


def _inspection(bundle: EvidenceBundle, inspection: InspectionEvidence) -> Iterator[Finding]:
    if inspection.receipt is None:
        yield _witnessed("inspection", inspection.verdict.reason)
        return
    try:
        receipt = open_receipt(inspection.receipt, node_key=bundle.miner_key, renter_key=bundle.validator_key)
    except (SubnetError, ValueError) as err:
        yield Finding("inspection: receipt", False, printable(err))
        return
    yield Finding("inspection: receipt", True)
    reason: RejectReason | None = None
    try:
        check_receipt(receipt, memory_bytes=inspection.asked_memory_bytes, cpu_milli=inspection.asked_cpu_milli)
        if inspection.findings is None:
            yield _witnessed("inspection", inspection.verdict.reason)
            return
        raw = canonical_bytes(inspection.findings)  # type: ignore[arg-type]  # came through JSON, so it is JSON
        check_findings(decode_model(Findings, raw), receipt)
    except (SubnetError, ValueError) as err:
        reason = err.reason if isinstance(err, ProofRejected) else RejectReason.SSH_FAILED
    found = inspection.verdict.reason
    if reason is None and found is RejectReason.TERMINATE_FAILED:
        yield _witnessed("inspection", found)
        return
    yield Finding("inspection: limits", reason is found, f"recomputed {reason}, bundle says {found}")


def _telemetry(miner_key: str, telemetry: TelemetryEvidence) -> Iterator[Finding]:
    name = "telemetry"
    if telemetry.certificate is None:
        yield _witnessed(name, telemetry.verdict.reason)
        return
    try:
        log = log_verifier(telemetry.certificate, miner_key, SYSTEM)
        for note in (telemetry.checkpoint, *(telemetry.fork or ())):
            if note is not None:
                open_checkpoint(note.encode(), log)
        yield Finding(f"{name}: signed by the miner's log key", True)
        if telemetry.fork is not None:
            yield _fork(name, telemetry, log)
    except (ProofRejected, NoteInvalid) as err:
        yield Finding(f"{name}: signed by the miner's log key", False, printable(err))
        return
    if telemetry.verdict.reason is not RejectReason.LOG_FORK:
        yield Finding(f"{name}: lines", None, f"{telemetry.verdict.reason or 'verified'}: the validator's word")


def _fork(name: str, telemetry: TelemetryEvidence, log: NoteVerifier) -> Finding:
    """Two trees of one size settle it; of two sizes the missing consistency proof is the validator's word."""
    first, second = (open_checkpoint(note.encode(), log).checkpoint for note in telemetry.fork or ())
    if first.size == second.size:
        return Finding(f"{name}: two histories", first.root != second.root)
    return Finding(f"{name}: two histories", None, "both are signed; that no proof joins them is the validator's word")


def _same_reason(what: str, reason: RejectReason | None, proof: ProofEvidence) -> Finding:
    found = proof.verdict.reason
    return Finding(what, reason is found, f"recomputed {reason or 'passed'}, bundle says {found or 'passed'}")


def _witnessed(what: str, reason: RejectReason | None) -> Finding:
    """Accept a verdict without evidence only where nothing but the validator's word can exist."""
    if reason in WITNESSED:
        return Finding(what, None, f"{reason}: the validator's word")
    return Finding(what, False, f"{reason or 'passed'} without evidence")
