"""A RENTED verdict of rules 2 replayed: it stands on a lease that both sides signed, at a moment of the examination."""

from __future__ import annotations

import pytest

from neurons.validator.challenges import Challenge, ChallengeGenerator
from neurons.validator.replay import replay
from neurons.validator.scoring import version_2
from polarise.block import block_hash
from polarise.errors import RejectReason
from polarise.evidence import (
    DrawEvidence,
    EvidenceBundle,
    ProofEvidence,
    RoundEvidence,
    ScoreRecord,
    VerdictRecord,
)
from polarise.rented import CountersignedReceipt
from tests.support.proving_miner import CPU, MINER, VALIDATOR, entry_of
from tests.support.rented import EXPIRES, GPU, GRANTED, Lease

DEVICE = CPU.model_copy(update={"uuid": GPU, "kind": "gpu", "name": "a card"})
ENTRY = entry_of(devices=(DEVICE,))
MINUTE_MS = 60_000
DRAWN = DrawEvidence(proof_every=12, inspect_every=1, is_proven=True, is_inspected=True)
ROUND = RoundEvidence(attempt=0, devices_count=1, missing_count=0)


def _block(time_unix_ms: int) -> str:
    """A block of this time; whoever checks one bundle alone looks at no signature of the ledger."""
    lines = f"height 1\ntime {time_unix_ms}\nstate {'0' * 64}\nprev {'0' * 64}\n"
    return f"ledger.polarise/test\n1\n{'A' * 43}=\n{lines}\n\u2014 nobody {'A' * 92}\n"


def _proof(challenge: Challenge, lease: CountersignedReceipt | None, reason: RejectReason | None) -> ProofEvidence:
    sized = challenge.prepare_request()
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
        verdict=VerdictRecord(reason=reason),
        rented=lease,
    )


def _bundle(
    lease: CountersignedReceipt | None,
    reason: RejectReason | None = RejectReason.RENTED,
    *,
    began_unix_ms: int = GRANTED,
    ended_unix_ms: int = EXPIRES,
) -> EvidenceBundle:
    """An examination from the beacon to its end, in which the only device was shown as rented."""
    block = _block(began_unix_ms)
    generator = ChallengeGenerator(VALIDATOR.public_key, target_seconds=1, openings=32)
    secret = generator.begin_epoch(7, [ENTRY])
    beacon = bytes.fromhex(block_hash(block.encode()))
    challenges = generator.challenges(secret, beacon, MINER.public_key, DEVICE, 0)
    proofs = tuple(_proof(challenge, lease, reason) for challenge in challenges)
    score: ScoreRecord = version_2.ScoringSystem().calculate_score(proofs, None, None, draw=DRAWN)
    return EvidenceBundle(
        version=2,
        epoch=secret.epoch,
        examined_unix_ms=ended_unix_ms,
        validator_key=VALIDATOR.public_key,
        miner_key=MINER.public_key,
        registry=ENTRY,
        target_seconds=1,
        opening_key=secret.opening_key.hex(),
        miner_set_root=secret.miner_set_root.hex(),
        challenge_commit=secret.commit.hex(),
        beacon_block=block,
        proofs=proofs,
        inspection=None,
        previous=None,
        score=score,
        draw=DRAWN,
        round=ROUND,
    )


def _broken(bundle: EvidenceBundle) -> list[str]:
    return [finding.what for finding in replay(bundle) if finding.holds is False]


LEASE_FAILS = [f"{kind} proof of {GPU}: lease" for kind in ("pow", "matmul")]


def test_rented_device_replays_and_nothing_of_it_is_a_word() -> None:
    findings = replay(_bundle(Lease().signed()))
    assert all(finding.holds for finding in findings)


@pytest.mark.parametrize(
    ("began_unix_ms", "ended_unix_ms", "holds"),
    [
        # Signed for a moment between the beacon, with a minute between the clocks, and the end.
        (EXPIRES + MINUTE_MS, EXPIRES + 2 * MINUTE_MS, True),
        (EXPIRES + MINUTE_MS + 1, EXPIRES + 2 * MINUTE_MS, False),
        (GRANTED - MINUTE_MS, GRANTED, True),
        (GRANTED - MINUTE_MS, GRANTED - 1, False),
    ],
)
def test_lease_lasts_at_some_moment_of_the_examination(began_unix_ms: int, ended_unix_ms: int, holds: bool) -> None:
    bundle = _bundle(Lease().signed(), began_unix_ms=began_unix_ms, ended_unix_ms=ended_unix_ms)
    assert _broken(bundle) == ([] if holds else LEASE_FAILS)


def test_rented_without_a_lease_does_not_hold() -> None:
    """A validator cannot spare a friend its proof by a word."""
    assert _broken(_bundle(None)) == [f"{kind} proof of {GPU}" for kind in ("pow", "matmul")]


@pytest.mark.parametrize(
    "lease",
    [
        pytest.param(Lease(renter=MINER, renter_key=MINER.public_key), id="rented by the miner"),
        pytest.param(Lease(digest="4" * 64), id="another receipt countersigned"),
    ],
)
def test_rented_by_a_lease_that_does_not_hold_is_found(lease: Lease) -> None:
    assert _broken(_bundle(lease.signed())) == LEASE_FAILS
    assert _broken(_bundle(lease.signed(), RejectReason.MALFORMED)) == []


@pytest.mark.parametrize("reason", [RejectReason.MALFORMED, RejectReason.NOT_MEASURED, None])
def test_lease_that_holds_has_one_verdict(reason: RejectReason | None) -> None:
    """Nor can it blame a rival that showed one."""
    assert _broken(_bundle(Lease().signed(), reason)) == LEASE_FAILS


def test_lease_that_was_over_when_it_was_shown_is_the_validators_word() -> None:
    bundle = _bundle(Lease().signed(), RejectReason.MISSING)
    assert _broken(bundle) == []
    assert f"pow proof of {GPU}" in [finding.what for finding in replay(bundle) if finding.holds is None]


def test_rented_device_was_not_measured() -> None:
    bundle = _bundle(Lease().signed())
    claimed = bundle.proofs[0].model_copy(update={"measured_per_second": 1})
    assert _broken(bundle.model_copy(update={"proofs": (claimed, bundle.proofs[1])})) == [
        f"pow proof of {GPU}: nothing was asked"
    ]
