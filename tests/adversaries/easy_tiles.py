"""A validator that is in league with a tile skipper: it opens tiles that were computed, or swaps the key afterwards.

The bundle it shows is otherwise perfect. Whoever replays it draws the positions anew from opening key and commitment,
and the opening key is bound by what the validator posted before the epoch.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from challenges import draw
from challenges.draw import ChallengeKind
from challenges.pow_messages import PowParams
from challenges.pow_solver import NumpyPowBackend, solve_pow
from challenges.solver import MatmulWork, solve
from neurons.validator.challenges import Challenge, fitted_params, recompute
from neurons.validator.proof_trace import ProofTrace, signed_bytes
from neurons.validator.replay import replay
from neurons.validator.replay_finding import Finding
from neurons.validator.scoring import ScoringSystem
from neurons.validator.verification import judge
from polarise.evidence import (
    DrawEvidence,
    EvidenceBundle,
    ProofEvidence,
    RoundEvidence,
    VerdictRecord,
    openings_digest,
)
from polarise.messages import Position
from polarise.statement import SignedStatement
from tests.adversaries.cheat import Cheat, Outcome
from tests.adversaries.exam import EPOCH, Positions, commitment, vendor_table
from tests.adversaries.proofs import matmul_params
from tests.adversaries.skipping import SkippingBackend, Tile, skipped_tiles
from tests.support.proving_miner import BEACON, BEACON_BLOCK, CPU, MINER, VALIDATOR, entry_of

# The smallest proofs that follow from a claim: two rounds of 8 x 8 tiles, 16 shares.
DEVICE = CPU.model_copy(update={"matmul_ops_per_second": 4 * 256**3, "pow_hashes_per_second": 4096})
TARGET_SECONDS = 1
OPENINGS = 8
SHARE = 0.2
# Half of the target, so that a proof of work of so few shares stays above the floor by its lower bound too.
WORK_NS = 500_000_000
KEYS_TRIED = 1000
POSITIONS = "matmul proof of cpu: positions"
COMMIT = "challenge commit"

EVERYBODY = DrawEvidence(proof_every=1, inspect_every=1, is_proven=True, is_inspected=True, is_common=True)


@dataclass(frozen=True, slots=True)
class Conspiracy:
    """One epoch of a validator and a miner that left out a fifth of the tiles.

    Args:
        opening_key: What the validator is bound to.
        challenge: The matmul proof.
        work: What the miner has.
        skipped: What it has not.
        statement: Its signed commitment.
    """

    opening_key: bytes
    challenge: Challenge
    work: MatmulWork
    skipped: tuple[Tile, ...]
    statement: SignedStatement

    @classmethod
    def begin(cls, rng: random.Random, share: float = SHARE) -> Conspiracy:
        """Prove with gaps, honestly asked."""
        opening_key = rng.randbytes(draw.KEY_BYTES)
        challenge = challenge_of(rng, opening_key, ChallengeKind.MATMUL)
        params = matmul_params(challenge)
        skipped = tuple(skipped_tiles(rng, params, share))
        work = solve(params, challenge.seed, SkippingBackend(params, skipped))
        statement = commitment(challenge, work.commitment.to_wire())
        return cls(opening_key, challenge, work, skipped, statement)

    @property
    def drawn(self) -> Positions:
        """What should be opened."""
        return self.challenge.positions(signed_bytes(self.statement))

    def easy(self, rng: random.Random) -> Positions:
        """Return as many positions, none of them a gap."""
        params = matmul_params(self.challenge)
        return rng.sample(sorted(set(skipped_tiles(rng, params, 1.0)) - set(self.skipped)), params.openings)

    def kind_key(self, rng: random.Random) -> bytes:
        """Return an opening key whose draw from this very commitment misses all gaps."""
        for _ in range(KEYS_TRIED):
            key = rng.randbytes(draw.KEY_BYTES)
            if not set(self.skipped).intersection(
                replace(self.challenge, opening_key=key).positions(signed_bytes(self.statement))
            ):
                return key
        raise AssertionError(f"no key of {KEYS_TRIED} misses {len(self.skipped)} gaps")

    def bundle(self, rng: random.Random, positions: Positions, opening_key: bytes) -> EvidenceBundle:
        """Write it all down as if nothing were wrong."""
        proofs = (self._shares(rng), self._tiles(positions))
        return EvidenceBundle(
            epoch=EPOCH,
            examined_unix_ms=1,
            validator_key=VALIDATOR.public_key,
            miner_key=MINER.public_key,
            registry=entry_of(devices=(DEVICE,)),
            target_seconds=TARGET_SECONDS,
            opening_key=opening_key.hex(),
            miner_set_root="0" * 64,
            challenge_commit=draw.challenge_commit(EPOCH, self.opening_key, bytes(32)).hex(),
            beacon_block=BEACON_BLOCK,
            proofs=proofs,
            inspection=None,
            previous=None,
            score=ScoringSystem().calculate_score(proofs, None, None, draw=EVERYBODY),
            draw=EVERYBODY,
            round=RoundEvidence(attempt=0, devices_count=1, missing_count=0),
        )

    def _tiles(self, positions: Positions) -> ProofEvidence:
        opened = tuple(opening.to_wire() for opening in self.work.open(positions))
        return _evidence(self.challenge, self.statement).model_copy(
            update={
                "positions": tuple(Position(round_index=r, tile_row=i, tile_column=j) for r, i, j in positions),
                "openings": opened,
                "openings_digest": openings_digest(opened),
            }
        )

    def _shares(self, rng: random.Random) -> ProofEvidence:
        challenge = challenge_of(rng, self.opening_key, ChallengeKind.POW)
        assert isinstance(challenge.params, PowParams)
        work = solve_pow(challenge.params, challenge.seed, NumpyPowBackend(lanes=4096, calls=1))
        return _evidence(challenge, commitment(challenge, work.commitment.to_wire()))


def challenge_of(rng: random.Random, opening_key: bytes, kind: ChallengeKind) -> Challenge:
    """Return the challenge that follows from the claim and the test's beacon."""
    return recompute(
        challenge_id=rng.randbytes(16).hex(),
        epoch=EPOCH,
        validator_key=VALIDATOR.public_key,
        miner_key=MINER.public_key,
        device=DEVICE,
        device_index=0,
        params=fitted_params(
            kind, DEVICE, 0, target_seconds=TARGET_SECONDS, openings=OPENINGS, hardware=vendor_table()
        ),
        opening_key=opening_key,
        beacon=BEACON,
    )


def failures(bundle: EvidenceBundle) -> list[Finding]:
    """Return what a replay finds untrue."""
    return [finding for finding in replay(bundle) if finding.holds is False]


@dataclass(frozen=True, slots=True, kw_only=True)
class EasyTiles(Cheat):
    """A validator that lets a miner pass."""

    def play_pure(self, rng: random.Random) -> Outcome:
        """Choose the positions, or choose the key that draws them; then let anybody replay the bundle."""
        plot = Conspiracy.begin(rng)
        if rng.random() < 0.5:
            return _outcome_of(plot.bundle(rng, plot.easy(rng), plot.opening_key), POSITIONS)
        key = plot.kind_key(rng)
        positions = replace(plot.challenge, opening_key=key).positions(signed_bytes(plot.statement))
        return _outcome_of(plot.bundle(rng, positions, key), COMMIT)


def _outcome_of(bundle: EvidenceBundle, expected: str) -> Outcome:
    is_caught = expected in {finding.what for finding in failures(bundle)}
    return Outcome(is_caught, seen=f"replay: {expected}")


def _evidence(challenge: Challenge, statement: SignedStatement) -> ProofEvidence:
    sized = challenge.prepare_request()
    verdict = judge(challenge, vendor_table(), ProofTrace(rtt_min_ns=0, last_byte_after_ns=WORK_NS))
    return ProofEvidence(
        kind=sized.kind,
        sizes=sized.sizes,
        challenge_id=challenge.challenge_id,
        device=challenge.device.uuid,
        device_index=0,
        claimed_per_second=challenge.claimed_per_second,
        nonce=challenge.nonce.hex(),
        beacon=challenge.beacon.hex(),
        seed=challenge.seed.hex(),
        rtt_min_ns=0,
        first_byte_after_ns=WORK_NS,
        last_byte_after_ns=WORK_NS,
        commitment=statement,
        measured_per_second=verdict.measured_per_second,
        verdict=VerdictRecord(reason=verdict.reason),
    )


CHEATS: tuple[Cheat, ...] = (
    EasyTiles(
        name="validator picks easy tiles",
        how="opens only tiles that its miner has computed, or shows another opening key whose draw misses the gaps",
        answer="whoever replays the bundle finds it",
        no_live="nothing false is sent to a miner: the cheat is in the bundle, which the audit reads as a file",
    ),
)
