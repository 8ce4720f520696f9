"""What one proof leaves behind, and whether the commitment in it answers what was asked.

What a miner sent is kept in the trace before it is judged, so that a rejection can be recomputed too.
"""

from __future__ import annotations

from dataclasses import dataclass

from challenges.matmul import MatmulCommitment, MatmulParams, check_roots_shape
from challenges.memory import MemoryCommitment, MemoryParams, check_pass_roots
from challenges.pow import PowCommitment, PowParams, check_nonces_shape
from challenges.proofs import ProofParams
from neurons.validator.challenges import Challenge
from neurons.validator.opening_files import CommitmentFile, ExcuseFile, OpeningFile, Openings
from polarise.answers import printable
from polarise.canonical import canonical_bytes
from polarise.errors import ProofRejected, RejectReason
from polarise.excuse import Excuse
from polarise.messages import CommitmentBody
from polarise.rate_average import RateAverage
from polarise.signing import SignatureInvalid
from polarise.statement import SignedStatement

ProofCommitment = MatmulCommitment | PowCommitment | MemoryCommitment

STATEMENT_KIND = "commitment"


@dataclass
class ProofTrace:
    """What happened in one proof, filled as it happens; see `polarise.evidence.ProofEvidence`."""

    rtt_min_ns: int | None = None
    first_byte_after_ns: int | None = None
    last_byte_after_ns: int | None = None
    commitment: SignedStatement | CommitmentFile | None = None
    positions: tuple[tuple[int, ...], ...] = ()
    openings: Openings | OpeningFile | None = None
    started_after_ns: int | None = None
    ordered_unix_ms: int | None = None
    excuse: Excuse | ExcuseFile | None = None
    average: RateAverage | None = None


def check_commitment(challenge: Challenge, statement: SignedStatement) -> ProofCommitment:
    """Check who signed a commitment and what it answers, before anything is drawn from it.

    Raises:
        ProofRejected: BAD_SIGNATURE, SEED_MISMATCH, MALFORMED or WRONG_COUNT.
    """
    try:
        body = statement.open(STATEMENT_KIND, CommitmentBody, signer=challenge.miner_key)
    except (SignatureInvalid, ValueError) as err:
        raise ProofRejected(
            RejectReason.BAD_SIGNATURE, f"the commitment does not hold: {printable(err)}"[:400]
        ) from err
    for name, got, expected in (
        ("challenge_id", body.challenge_id, challenge.challenge_id),
        ("device", body.device, challenge.device.uuid),
        ("seed", body.seed, challenge.seed.hex()),
    ):
        if got != expected:
            raise ProofRejected(
                RejectReason.SEED_MISMATCH,
                f"the commitment is for another {name}",
                got=printable(got),
                expected=expected,
            )
    return _shaped(challenge.params, body.proof)


def signed_bytes(statement: SignedStatement) -> bytes:
    """Return the exact bytes positions are drawn from: the statement with its signature, in canonical form."""
    return canonical_bytes(statement.to_wire())


def _shaped(params: ProofParams, proof: object) -> ProofCommitment:
    """Decode a commitment by the kind of its proof, and check its shape."""
    match params:
        case MatmulParams():
            roots = MatmulCommitment.from_wire(proof)
            check_roots_shape(params, roots)
            return roots
        case PowParams():
            nonces = PowCommitment.from_wire(proof)
            check_nonces_shape(params, nonces)
            return nonces
        case MemoryParams():
            pass_roots = MemoryCommitment.from_wire(proof)
            check_pass_roots(params, pass_roots)
            return pass_roots
