"""One proof of a bundle, checked offline: its draw, sizes, answer and rate, or what was shown in its place.

Rules:
- The same functions that judged live judge here.
- A verdict without evidence is accepted only where nothing but the validator's word can exist.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from challenges.draw import ChallengeKind
from challenges.hardware import HardwareTable
from challenges.matmul_messages import MatmulParams
from challenges.pow_messages import PowParams
from challenges.proofs import ProofParams, read_params, sizes_of
from challenges.timing import WorkTooSmall
from neurons.validator.challenges import Challenge, fitted_params, recompute
from neurons.validator.proof_trace import ProofTrace, check_commitment, signed_bytes
from neurons.validator.replay_excuse import replay_excuse
from neurons.validator.replay_finding import Finding, same_reason, witnessed
from neurons.validator.replay_openings import missing_openings
from neurons.validator.verification import check_answer, expected_of, judge
from polarise.answers import printable
from polarise.block import block_hash
from polarise.errors import ProofRejected, RejectReason
from polarise.evidence import EvidenceBundle, ProofEvidence
from polarise.registry import RegistryEntry


def beacon_of(bundle: EvidenceBundle) -> bytes:
    """Return the epoch's public randomness, 32 bytes.

    Raises:
        NoteInvalid: The bundle holds no block.
    """
    return bytes.fromhex(block_hash(bundle.beacon_block.encode()))


def replay_proof(
    bundle: EvidenceBundle,
    entry: RegistryEntry,
    proof: ProofEvidence,
    now_unix_ms: int,
    validators: Collection[str] | None = None,
) -> Iterator[Finding]:
    """Check one proof; see `neurons.validator.replay.replay`."""
    name = f"{proof.kind} proof of {printable(proof.device, 40)}"
    try:
        challenge = _challenge(bundle, entry, proof)
    except (ValueError, IndexError) as err:
        yield Finding(f"{name}: sizes", False, printable(err))
        return
    drawn = (challenge.beacon.hex(), challenge.nonce.hex(), challenge.seed.hex())
    yield Finding(f"{name}: beacon, nonce and seed", drawn == (proof.beacon, proof.nonce, proof.seed))
    if bundle.version > 2:
        yield from _expected(name, challenge, proof)
    params, too_small = _fitted(challenge, bundle.target_seconds)
    sizes = ", ".join(f"{size} {value}" for size, value in sizes_of(params).items())
    yield Finding(f"{name}: sizes follow from the claim", params == challenge.params, f"recomputed {sizes}")
    if too_small is not None:
        yield from _unasked(name, too_small, proof)
    elif proof.rented is not None or proof.excuse is not None:
        yield from replay_excuse(name, bundle, entry, proof, validators)
    else:
        yield from _answer(name, bundle, challenge, proof, now_unix_ms)


def _expected(name: str, challenge: Challenge, proof: ProofEvidence) -> Iterator[Finding]:
    """Find a card that is compared with other figures than its name's."""
    expectation = expected_of(challenge, HardwareTable.load())
    expected = None if expectation.model is None else expectation.rate
    if expected != proof.expected_per_second:
        promised = "nothing" if expected is None else f"{expected} per second"
        yield Finding(f"{name}: what its name promises", False, f"recomputed {promised}")


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
        beacon=beacon_of(bundle),
        attempt=proof.attempt,
    )


def _fitted(challenge: Challenge, target_seconds: int) -> tuple[ProofParams, WorkTooSmall | None]:
    """Return the sizes that follow from the claim, and why nothing was asked where they are too small to show it."""
    # How many tiles or blocks are opened, and how large tiles are, is the validator's choice; it decides nothing of the work.
    openings = 1 if isinstance(challenge.params, PowParams) else challenge.params.openings
    try:
        params = fitted_params(
            challenge.kind,
            challenge.device,
            challenge.device_index,
            target_seconds=target_seconds,
            openings=openings,
            hardware=HardwareTable.load(),
        )
    except WorkTooSmall as err:
        return _with_tiles_of(challenge.params, err.params), err
    return _with_tiles_of(challenge.params, params), None


def _with_tiles_of(asked: ProofParams, fitted: ProofParams) -> ProofParams:
    if isinstance(asked, MatmulParams) and isinstance(fitted, MatmulParams):
        return replace(fitted, tile=asked.tile)
    return fitted


def _unasked(name: str, too_small: WorkTooSmall, proof: ProofEvidence) -> Iterator[Finding]:
    """Check the verdict on a claim that cannot be proven; that nothing was measured at all stays the validator's word."""
    if proof.verdict.reason is RejectReason.NOT_MEASURED:
        yield witnessed(name, proof.verdict.reason)
        return
    yield same_reason(f"{name}: claim", too_small.reason, proof)
    is_bare = proof.commitment is None and proof.measured_per_second == 0
    yield Finding(f"{name}: nothing was asked", is_bare)


def _answer(
    name: str, bundle: EvidenceBundle, challenge: Challenge, proof: ProofEvidence, now_unix_ms: int
) -> Iterator[Finding]:
    if proof.commitment is None:
        yield witnessed(name, proof.verdict.reason)
        return
    try:
        commitment = check_commitment(challenge, proof.commitment)
    except ProofRejected as err:
        yield same_reason(f"{name}: commitment", err.reason, proof)
        return
    positions = challenge.positions(signed_bytes(proof.commitment))
    kept = tuple(position.numbers for position in proof.positions)
    yield Finding(f"{name}: positions", positions == kept)
    answer = f"{name}: {'openings' if challenge.has_openings else 'shares'}"
    if (amiss := _openings_amiss(answer, bundle, challenge, proof, now_unix_ms)) is not None:
        yield amiss
        return
    checked = check_answer(challenge.params, challenge.seed, commitment, positions, proof.openings, challenge.fill_seed)
    if checked.reason is not None:
        yield same_reason(answer, RejectReason(checked.reason), proof)
        return
    if proof.verdict.reason is RejectReason.NOT_MEASURED:
        yield witnessed(name, proof.verdict.reason)
        return
    verdict = judge(challenge, HardwareTable.load(), _trace(proof))
    is_same = verdict.measured_per_second == proof.measured_per_second
    yield Finding(f"{name}: rate from the stamps", is_same, f"recomputed {verdict.measured_per_second} per second")
    yield same_reason(answer, verdict.reason, proof)
    flag = None if verdict.flag is None else verdict.flag.value
    if bundle.version > 1 and flag != proof.flag:
        yield Finding(f"{name}: flag", False, f"recomputed {flag or 'none'}, bundle says {proof.flag or 'none'}")


def _openings_amiss(
    what: str, bundle: EvidenceBundle, challenge: Challenge, proof: ProofEvidence, now_unix_ms: int
) -> Finding | None:
    """Return what ends the replay of an answer early: openings that are not there, or there though the kind has none."""
    if not challenge.has_openings:
        is_bare = proof.openings is None and proof.openings_digest is None
        return None if is_bare else Finding(what, False, "a proof of work has no openings")
    if proof.openings_digest is None:
        return witnessed(what, proof.verdict.reason)
    if proof.openings is None:
        return Finding(what, *missing_openings(bundle, now_unix_ms))
    return None


def _trace(proof: ProofEvidence) -> ProofTrace:
    return ProofTrace(
        rtt_min_ns=proof.rtt_min_ns or 0, last_byte_after_ns=proof.last_byte_after_ns or 0, average=proof.average
    )
