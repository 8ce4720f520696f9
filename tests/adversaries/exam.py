"""One proof without a network: the challenge as a validator makes it, and every check it runs, in the order of a round.

Rules:
- Nothing is checked here: each step is the validator's own function. What is missing of a round is the wire.
- A player answers in the bytes it would send, and they are decoded as the validator's client decodes them. What cannot
  be decoded is MISSING for a commitment and OPENING_LATE once positions are known, as `wave` has it; that it does
  is shown by the live form of the same cheats.
- Time is a stamp that the caller names: no trial waits.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from challenges.hardware import HardwareTable
from challenges.matmul import MatmulParams
from challenges.proofs import ProofParams, Work
from neurons.validator.challenges import Challenge, recompute
from neurons.validator.proof_trace import ProofTrace, check_commitment, signed_bytes
from neurons.validator.verification import Verdict, check_answer, judge
from polarise.answers import MAX_ANSWER_BYTES
from polarise.decode import decode_model
from polarise.errors import ProofRejected, RejectReason, SubnetError
from polarise.evidence import openings_digest
from polarise.hardware import DeviceClaim
from polarise.messages import CommitAnswer, CommitmentBody, OpenAnswer
from polarise.signing import Identity
from polarise.statement import SignedStatement, sign_statement
from tests.support.proving_miner import CPU, MINER, VALIDATOR

Positions = Sequence[tuple[int, ...]]
AnswerT = TypeVar("AnswerT", CommitAnswer, OpenAnswer)

# 4 rounds of 8 x 8 tiles: 3 ms for both sides, and 256 different tiles to ask for.
MATMUL = MatmulParams(n=128, rounds=4, tile=16, openings=32)
# Claims so low that no machine, however busy, misses them in the live form.
DEVICE = CPU.model_copy(
    update={"matmul_ops_per_second": 1_000_000, "pow_hashes_per_second": 1_000, "memory_bytes_per_second": 1_000}
)
EPOCH = 7


class Player(Protocol):
    """The miner's end of one proof, in bytes."""

    def commit(self) -> bytes:
        """Return the body of the answer to `/challenge/start`."""

    def open(self, positions: Positions) -> bytes:
        """Return the body of the answer to `/challenge/open`."""


@dataclass(frozen=True, slots=True)
class SignedWork:
    """An honest messenger of some work, which is where the cheat is."""

    challenge: Challenge
    work: Work

    def commit(self) -> bytes:
        """Sign the work's commitment."""
        return body_of(commitment(self.challenge, self.work.commitment.to_wire()))

    def open(self, positions: Positions) -> bytes:
        """Open what is asked."""
        return openings_body([opening.to_wire() for opening in self.work.open(positions)])


def new_challenge(
    rng: random.Random,
    params: ProofParams = MATMUL,
    *,
    device: DeviceClaim = DEVICE,
    device_index: int = 0,
    epoch: int = EPOCH,
    miner: Identity = MINER,
    opening_key: bytes | None = None,
) -> Challenge:
    """Return a challenge whose opening key, beacon and name are drawn here."""
    return recompute(
        challenge_id=rng.randbytes(16).hex(),
        epoch=epoch,
        validator_key=VALIDATOR.public_key,
        miner_key=miner.public_key,
        device=device,
        device_index=device_index,
        params=params,
        opening_key=opening_key or rng.randbytes(32),
        beacon=rng.randbytes(32),
    )


def commitment(
    challenge: Challenge, proof: dict[str, object], *, signer: Identity = MINER, seed: bytes | None = None
) -> SignedStatement:
    """Sign a commitment; with the challenge's own seed and key, unless the cheat is in these."""
    body = CommitmentBody(
        challenge_id=challenge.challenge_id,
        device=challenge.device.uuid,
        seed=(seed or challenge.seed).hex(),
        proof=proof,
    )
    return sign_statement(signer, "commitment", body)


def body_of(statement: SignedStatement) -> bytes:
    """Return the answer to `/challenge/start` with this statement."""
    return json.dumps(CommitAnswer(commitment=statement).to_wire()).encode()


def openings_body(openings: Sequence[object]) -> bytes:
    """Return the answer to `/challenge/open` with these openings; NaN goes out as the word that json makes of it."""
    return json.dumps({"status": "success", "openings": list(openings)}).encode()


def at_claimed_rate(challenge: Challenge) -> ProofTrace:
    """Return stamps of a miner that takes exactly the time its claim implies, on a link without delay."""
    return ProofTrace(rtt_min_ns=0, last_byte_after_ns=round(challenge.expected_seconds * 1e9))


def examine(
    challenge: Challenge, player: Player, trace: ProofTrace | None = None, hardware: HardwareTable | None = None
) -> Verdict:
    """Let a player answer one challenge, and return the verdict.

    Args:
        challenge: What it is asked.
        player: Who answers.
        trace: Stamps of the round; those of its claim if left out.
        hardware: What vendors say; the real table if left out.
    """
    trace = trace or at_claimed_rate(challenge)
    try:
        trace.commitment = _commitment_of(challenge, player)
        checked_commitment = check_commitment(challenge, trace.commitment)
        if challenge.has_openings:
            trace.positions = challenge.positions(signed_bytes(trace.commitment))
            trace.openings = _openings_of(challenge, player, trace.positions)
    except ProofRejected as err:
        return Verdict.of(err)
    checked = check_answer(
        challenge.params, challenge.seed, checked_commitment, trace.positions, trace.openings, challenge.fill_seed
    )
    if checked.reason is not None:
        return Verdict(RejectReason(checked.reason), checked.message, checked.got, checked.expected)
    return judge(challenge, hardware or vendor_table(), trace)


@functools.cache
def vendor_table() -> HardwareTable:
    """Return the real table, read once."""
    return HardwareTable.load()


def _commitment_of(challenge: Challenge, player: Player) -> SignedStatement:
    try:
        answer = _decoded(CommitAnswer, player.commit(), challenge.commitment_bytes_max)
    except SubnetError as err:
        raise ProofRejected(RejectReason.MISSING, str(err)[:400]) from err
    return answer.commitment


def _openings_of(challenge: Challenge, player: Player, positions: Positions) -> tuple[dict[str, object], ...]:
    try:
        openings = _decoded(OpenAnswer, player.open(positions), challenge.openings_bytes_max).openings
    except SubnetError as err:
        raise ProofRejected(RejectReason.OPENING_LATE, str(err)[:400]) from err
    try:
        openings_digest(openings)
    except ValueError as err:
        raise ProofRejected(RejectReason.MALFORMED, str(err)[:400]) from err
    return openings


def _decoded(model: type[AnswerT], raw: bytes, max_bytes: int) -> AnswerT:
    return decode_model(model, raw, max_bytes=min(max_bytes, MAX_ANSWER_BYTES))
