"""A bundle checked offline: every signature, draw, seed, tile, share, limit and score computed anew from the evidence alone.

Rules:
- Nothing is believed but the validator's own words, which are named as such: stamps, silence, what was seen inside.
- A verdict that can be recomputed must come out with the same reason; a score must come out equal to the last integer, by
  the rules that it names.
- Who was drawn follows from beacon, host and the score before, by the rules of the bundle. Who was not has no proof; who
  was has one per device and kind, all of one attempt.
- The same functions that judged live judge here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from challenges import draw
from neurons.validator.challenges import KINDS_OF_BUNDLE, claimed_rate, kinds_of
from neurons.validator.drawing import Intervals, draw_for
from neurons.validator.drawing_2 import draw_by_host
from neurons.validator.findings import Findings, check_claims, check_findings, check_receipt
from neurons.validator.replay_finding import Finding, witnessed
from neurons.validator.replay_proof import beacon_of, replay_proof
from neurons.validator.scoring import KNOWN_VERSIONS, RulesUnknown, recompute_score
from polarise.answers import open_receipt, printable
from polarise.canonical import canonical_bytes
from polarise.checkpoint import open_checkpoint
from polarise.decode import decode_model
from polarise.errors import ProofRejected, RejectReason, SubnetError
from polarise.evidence import DrawEvidence, EvidenceBundle, InspectionEvidence, TelemetryEvidence
from polarise.notes import NoteInvalid, NoteVerifier
from polarise.registry import RegistryEntry, open_entry
from polarise.signing import SignatureInvalid
from polarise.stream import log_verifier, system_stream_of


def replay(bundle: EvidenceBundle, now_unix_ms: int = 0, validators: Collection[str] | None = None) -> list[Finding]:
    """Check everything in a bundle that can be checked.

    Args:
        bundle: As it was read.
        now_unix_ms: Wall clock of whoever checks: openings may be missing when their retention is over. It never is at 0.
        validators: Keys of the ledger's validators, whose orders excuse; None where they are not known.
    """
    try:
        entry = open_entry(bundle.registry)
    except (SignatureInvalid, ValueError) as err:
        return [Finding("registry entry", False, printable(err))]
    findings = [Finding("registry entry", entry.node_key == bundle.miner_key), _commit(bundle)]
    findings.extend(_draw(bundle, entry))
    if bundle.draw is None or bundle.draw.is_proven:
        findings.append(Finding("one proof per device and kind", _is_complete(bundle, entry)))
    for proof in bundle.proofs:
        findings.extend(replay_proof(bundle, entry, proof, now_unix_ms, validators))
    if bundle.inspection is not None:
        findings.extend(_inspection(bundle, entry, bundle.inspection))
    if bundle.telemetry is not None:
        findings.extend(_telemetry(bundle.miner_key, bundle.telemetry))
    findings.extend(_score(bundle))
    return findings


def _draw(bundle: EvidenceBundle, entry: RegistryEntry) -> Iterator[Finding]:
    """Check that the miner's turn had come where it was examined, and had not where it was not."""
    said, round_ = bundle.draw, bundle.round
    if bundle.version == 1:
        return
    if said is None:
        yield Finding("draw", False, "there is none: nobody can tell whose turn it was")
    else:
        yield _same_draw(bundle, entry, said)
        yield Finding("round of a drawn miner", (round_ is not None) is said.is_proven)
        if not said.is_proven:
            yield Finding("no proof of a miner that is not drawn", not bundle.proofs)
        if not said.is_inspected:
            yield Finding("no inspection of a miner that is not drawn", bundle.inspection is None)
    attempt = 0 if round_ is None else round_.attempt
    yield Finding("one attempt", all(proof.attempt == attempt for proof in bundle.proofs))


def _same_draw(bundle: EvidenceBundle, entry: RegistryEntry, said: DrawEvidence) -> Finding:
    try:
        beacon = beacon_of(bundle)
    except NoteInvalid as err:
        return Finding("draw", False, f"the beacon is no block: {err}")
    try:
        drawn = _recomputed(beacon, bundle, entry, said)
    except ValueError as err:
        return Finding("draw", False, printable(err))
    # Which epoch is the first, and who missed a window, only the epochs before show: `audit.windows` looks there.
    turns = [
        ("" if is_drawn else "not ") + word
        for word, is_drawn in (("proven", drawn.is_proven), ("inspected", drawn.is_inspected))
    ]
    detail = f"recomputed {', '.join(turns)}"
    return Finding("draw", drawn == said, detail)


def _recomputed(beacon: bytes, bundle: EvidenceBundle, entry: RegistryEntry, said: DrawEvidence) -> DrawEvidence:
    if bundle.version == 2:
        return draw_by_host(
            beacon, entry, bundle.previous, proof_every=said.proof_every, inspect_every=said.inspect_every
        )
    intervals = Intervals(bundle.validator_key, said.proof_every, said.inspect_every, said.is_first)
    return draw_for(beacon, entry, bundle.previous, intervals, has_missed_window=said.has_missed_window)


def _score(bundle: EvidenceBundle) -> Iterator[Finding]:
    """Compute the score anew by its own rules."""
    said = bundle.score.rules_version
    yield Finding("rules of this form", KNOWN_VERSIONS.get(said) == bundle.version, f"rules {said} in {bundle.version}")
    try:
        score = recompute_score(said, bundle.proofs, bundle.inspection, bundle.previous, bundle.telemetry, bundle.draw)
    except RulesUnknown as err:
        yield Finding("score", False, str(err))
        return
    yield Finding("score", score == bundle.score, f"recomputed {score.score_ppm} ppm")


def _is_complete(bundle: EvidenceBundle, entry: RegistryEntry) -> bool:
    proven = [(proof.device_index, proof.device, proof.kind, proof.claimed_per_second) for proof in bundle.proofs]
    claimed = [
        (index, device.uuid, kind.value, claimed_rate(device, kind))
        for index, device in enumerate(entry.hardware.devices)
        for kind in kinds_of(device, KINDS_OF_BUNDLE[bundle.version])
    ]
    return proven == claimed


def _commit(bundle: EvidenceBundle) -> Finding:
    commit = draw.challenge_commit(
        bundle.epoch, bytes.fromhex(bundle.opening_key), bytes.fromhex(bundle.miner_set_root)
    )
    return Finding("challenge commit", commit.hex() == bundle.challenge_commit)


def _inspection(bundle: EvidenceBundle, entry: RegistryEntry, inspection: InspectionEvidence) -> Iterator[Finding]:
    if inspection.receipt is None:
        yield witnessed("inspection", inspection.verdict.reason)
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
            yield witnessed("inspection", inspection.verdict.reason)
            return
        raw = canonical_bytes(inspection.findings)  # type: ignore[arg-type]  # came through JSON, so it is JSON
        findings = decode_model(Findings, raw)
        check_findings(findings, receipt)
        check_claims(findings, entry.hardware, receipt.limits)
    except (SubnetError, ValueError) as err:
        reason = err.reason if isinstance(err, ProofRejected) else RejectReason.SSH_FAILED
    found = inspection.verdict.reason
    if reason is None and found is RejectReason.TERMINATE_FAILED:
        yield witnessed("inspection", found)
        return
    yield Finding(
        "inspection: limits", reason is found, f"recomputed {reason or 'passed'}, bundle says {found or 'passed'}"
    )


def _telemetry(miner_key: str, telemetry: TelemetryEvidence) -> Iterator[Finding]:
    name = "telemetry"
    if telemetry.certificate is None:
        yield witnessed(name, telemetry.verdict.reason)
        return
    try:
        log = log_verifier(telemetry.certificate, miner_key, system_stream_of(telemetry.origin, miner_key))
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
        yield Finding(
            f"{name}: lines", None, f"event log {telemetry.verdict.reason or 'verified'}: the validator's word"
        )


def _fork(name: str, telemetry: TelemetryEvidence, log: NoteVerifier) -> Finding:
    """Two trees of one size settle it; of two sizes the missing consistency proof is the validator's word."""
    first, second = (open_checkpoint(note.encode(), log).checkpoint for note in telemetry.fork or ())
    if first.size == second.size:
        return Finding(f"{name}: two histories", first.root != second.root)
    return Finding(f"{name}: two histories", None, "both are signed; that no proof joins them is the validator's word")
