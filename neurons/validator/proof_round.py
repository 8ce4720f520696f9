"""One proof over the network: prepare, ping, start (the clock runs), signed commitment (it stops), open.

Rules:
- Every kind takes the same way; a proof of work ends at its commitment, which shows all there is.
- Stamps are the client's, on this process's monotonic clock; nothing is computed while the clock runs.
- What a miner sent is kept in the trace before it is judged, so that a rejection can be recomputed too.
- A device that is busy at prepare (429) declined: NOT_MEASURED. Once `/challenge/start` has left, everything that is no
  commitment is MISSING, and once positions have left, everything that is no openings is OPENING_LATE, whatever the
  excuse. A proof is never repeated.
- No answer is read beyond what an honest one of these sizes can have.
- The pings have five seconds together, and no deadline goes beyond what is left of the miner's time.
- Openings have two seconds: whoever sees the questions must not have time to work on the answers.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from challenges.matmul import MatmulCommitment, MatmulParams, check_roots_shape
from challenges.pow import PowCommitment, check_nonces_shape
from challenges.proofs import sizes_of
from neurons.validator.budget import Budget
from neurons.validator.challenges import Challenge
from polarise.answers import printable
from polarise.canonical import canonical_bytes
from polarise.clients import MinerClient
from polarise.deadline import Deadline
from polarise.errors import DeadlineExceeded, ErrorCode, ProofRejected, RejectReason, RequestRejected, SubnetError
from polarise.evidence import openings_digest
from polarise.messages import CommitmentBody, OpenRequest, Position
from polarise.signing import SignatureInvalid
from polarise.statement import SignedStatement

logger = logging.getLogger(__name__)

ProofCommitment = MatmulCommitment | PowCommitment

STATEMENT_KIND = "commitment"
PINGS = 8
PREPARE_SECONDS = 90.0
PINGS_SECONDS = 5.0
OPEN_SECONDS = 2.0
ALONE_SECONDS = 600.0


@dataclass
class ProofTrace:
    """What happened in one proof, filled as it happens; see `polarise.evidence.ProofEvidence`."""

    rtt_min_ns: int | None = None
    first_byte_after_ns: int | None = None
    last_byte_after_ns: int | None = None
    commitment: SignedStatement | None = None
    positions: tuple[tuple[int, ...], ...] = ()
    openings: tuple[dict[str, object], ...] | None = None


class ProofRound:
    """Runs proofs; holds nothing between them."""

    def run(self, client: MinerClient, challenge: Challenge, trace: ProofTrace, budget: Budget | None = None) -> None:
        """Lead one proof up to its last answer; whether it is right is for `verification`.

        Args:
            client: The miner.
            challenge: What it is asked.
            trace: Filled with what it answered.
            budget: What is left of the miner's time; None for one proof alone.

        Raises:
            ProofRejected: NOT_MEASURED (busy), MISSING, BAD_SIGNATURE, SEED_MISMATCH, MALFORMED, WRONG_COUNT or
                OPENING_LATE.
        """
        fields = {
            "challenge_id": challenge.challenge_id,
            "miner_key": challenge.miner_key,
            "device": challenge.device.uuid,
            "kind": challenge.kind.value,
        }
        budget = budget or Budget(ALONE_SECONDS)
        self._prepare(client, challenge, budget)
        trace.rtt_min_ns = self._smallest_round_trip(client, budget)
        logger.info("proof sent", extra={**fields, "sizes": sizes_of(challenge.params)})
        statement = self._start(client, challenge, trace, budget)
        logger.info(
            "proof answered",
            extra={
                **fields,
                "work_ms": (trace.last_byte_after_ns or 0) // 1_000_000,
                "rtt_ms": round(trace.rtt_min_ns / 1e6, 2),
            },
        )
        check_commitment(challenge, statement)
        if not challenge.has_openings:
            return
        trace.positions = challenge.positions(signed_bytes(statement))
        trace.openings = self._open(client, challenge, trace.positions)

    def _prepare(self, client: MinerClient, challenge: Challenge, budget: Budget) -> None:
        deadline_seconds = budget.clamp(PREPARE_SECONDS)
        try:
            client.prepare(challenge.prepare_request(), deadline_seconds=deadline_seconds)
        except RequestRejected as err:
            if err.status == 429 or err.code is ErrorCode.TOO_MANY_REQUESTS:
                raise ProofRejected(RejectReason.NOT_MEASURED, f"BUSY: {printable(err.message)}"[:400]) from err
            raise _missing("refused to prepare", err) from err
        except (SubnetError, ValueError) as err:
            raise _missing("could not prepare", err) from err

    def _smallest_round_trip(self, client: MinerClient, budget: Budget) -> int:
        deadline = Deadline(budget.clamp(PINGS_SECONDS))
        try:
            return min(client.ping(timeout_seconds=deadline.left_seconds()) for _ in range(PINGS))
        except SubnetError as err:
            raise _missing("did not answer a ping", err) from err

    def _start(self, client: MinerClient, challenge: Challenge, trace: ProofTrace, budget: Budget) -> SignedStatement:
        deadline_seconds = budget.clamp(challenge.start_deadline_seconds)
        try:
            timed = client.start(
                challenge.start_request(),
                deadline_seconds=deadline_seconds,
                max_bytes=challenge.commitment_bytes_max,
            )
        except DeadlineExceeded as err:
            raise ProofRejected(
                RejectReason.MISSING,
                "sent no commitment in time",
                got=f"> {deadline_seconds:.0f} s",
                expected=f"{challenge.expected_seconds:.1f} s by its claim",
            ) from err
        except (SubnetError, ValueError) as err:
            raise _missing("sent no commitment", err) from err
        trace.first_byte_after_ns = timed.first_byte_ns - timed.sent_ns
        trace.last_byte_after_ns = timed.last_byte_ns - timed.sent_ns
        statement = timed.answer.commitment
        # What has no canonical form can be neither verified nor kept.
        try:
            signed_bytes(statement)
        except ValueError as err:
            raise ProofRejected(
                RejectReason.BAD_SIGNATURE, f"the commitment has no canonical form: {err}"[:400]
            ) from err
        trace.commitment = statement
        return statement

    def _open(
        self, client: MinerClient, challenge: Challenge, positions: tuple[tuple[int, ...], ...]
    ) -> tuple[dict[str, object], ...]:
        request = OpenRequest(
            challenge_id=challenge.challenge_id,
            positions=tuple(
                Position(round_index=index, tile_row=row, tile_column=column) for index, row, column in positions
            ),
        )
        try:
            openings = client.open(
                request, deadline_seconds=OPEN_SECONDS, max_bytes=challenge.openings_bytes_max
            ).openings
        except DeadlineExceeded as err:
            raise ProofRejected(
                RejectReason.OPENING_LATE,
                "sent the openings too late",
                got=f"> {OPEN_SECONDS:g} s",
                expected=f"<= {OPEN_SECONDS:g} s",
            ) from err
        except (SubnetError, ValueError) as err:
            # It has seen the questions: whatever the excuse, another answer would be a second try.
            raise ProofRejected(RejectReason.OPENING_LATE, f"sent no openings in time: {printable(err)}"[:400]) from err
        try:
            openings_digest(openings)
        except ValueError as err:
            raise ProofRejected(RejectReason.MALFORMED, f"the openings have no canonical form: {err}"[:400]) from err
        return openings


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
    if isinstance(challenge.params, MatmulParams):
        roots = MatmulCommitment.from_wire(body.proof)
        check_roots_shape(challenge.params, roots)
        return roots
    nonces = PowCommitment.from_wire(body.proof)
    check_nonces_shape(challenge.params, nonces)
    return nonces


def signed_bytes(statement: SignedStatement) -> bytes:
    """Return the exact bytes positions are drawn from: the statement with its signature, in canonical form."""
    return canonical_bytes(statement.to_wire())


def _missing(what: str, err: Exception) -> ProofRejected:
    return ProofRejected(RejectReason.MISSING, f"{what}: {printable(err)}"[:400])
