"""RENTED, OCCUPIED and DECLINED verdicts replayed: they stand on what the miner showed, and on nothing the validator says."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from neurons.validator.challenges import ChallengeGenerator
from neurons.validator.replay_finding import Finding
from neurons.validator.replay_proof import replay_proof
from neurons.validator.scoring import ScoringSystem
from polarise.block import block_hash
from polarise.errors import RejectReason
from polarise.evidence import EvidenceBundle, ProofEvidence, VerdictRecord
from polarise.excuse import Excuse
from polarise.occupied import HOUR_MS, SHARE_MS, TAKEN_MS, Step, sign_order
from polarise.registry import STATEMENT_KIND as ENTRY_KIND
from polarise.registry import RegistryEntry
from polarise.rented import ShownLease, sign_consent
from polarise.statement import SignedStatement
from tests.support.proving_miner import CPU, MINER, OTHER_VALIDATOR, VALIDATOR, entry_of
from tests.support.rented import EXPIRES, GRANTED, RENTER, Lease

KNOWN = (VALIDATOR.public_key, OTHER_VALIDATOR.public_key)
STATEMENT = entry_of()
ENTRY = STATEMENT.open(ENTRY_KIND, RegistryEntry)
MINUTE_MS = 60_000
CPU_LEASE = replace(Lease(), devices=(), cpu_milli=601)
ORDERED = GRANTED + 1000


def _block(time_unix_ms: int) -> str:
    lines = f"height 1\ntime {time_unix_ms}\nstate {'0' * 64}\nprev {'0' * 64}\n"
    return f"ledger.polarise/test\n1\n{'A' * 43}=\n{lines}\n— nobody {'A' * 92}\n"


def _replayed(
    excuse: Excuse | None,
    reason: RejectReason | None,
    *,
    began_unix_ms: int = GRANTED,
    ended_unix_ms: int = EXPIRES,
    ordered_unix_ms: int | None = ORDERED,
    validators: Collection[str] | None = KNOWN,
    **changes: object,
) -> list[Finding]:
    """Replay one proof of a bundle in which the processor showed this excuse."""
    block = _block(began_unix_ms)
    generator = ChallengeGenerator(VALIDATOR.public_key, target_seconds=1, openings=32)
    secret = generator.begin_epoch(7, [STATEMENT])
    challenge = generator.challenges(secret, bytes.fromhex(block_hash(block.encode())), MINER.public_key, CPU, 0)[0]
    sized = challenge.prepare_request()
    proof = ProofEvidence(
        kind=sized.kind,
        sizes=sized.sizes,
        challenge_id=challenge.challenge_id,
        device="cpu",
        device_index=0,
        claimed_per_second=challenge.claimed_per_second,
        nonce=challenge.nonce.hex(),
        beacon=challenge.beacon.hex(),
        seed=challenge.seed.hex(),
        verdict=VerdictRecord(reason=reason),
        excuse=excuse,
        ordered_unix_ms=ordered_unix_ms,
    ).model_copy(update=changes)
    bundle = EvidenceBundle(
        epoch=secret.epoch,
        examined_unix_ms=ended_unix_ms,
        validator_key=VALIDATOR.public_key,
        miner_key=MINER.public_key,
        registry=STATEMENT,
        target_seconds=1,
        opening_key=secret.opening_key.hex(),
        miner_set_root=secret.miner_set_root.hex(),
        challenge_commit=secret.commit.hex(),
        beacon_block=block,
        proofs=(proof,),
        inspection=None,
        previous=None,
        score=ScoringSystem().calculate_score((proof,), None, None),
    )
    return list(replay_proof(bundle, ENTRY, proof, 0, validators))


def _broken(findings: list[Finding]) -> list[str]:
    return [finding.what.removeprefix("pow proof of cpu: ") for finding in findings if finding.holds is False]


def _order(*, step: Step = "prepare", work_ms: int = 0, ordered_unix_ms: int = ORDERED - 1) -> SignedStatement:
    return sign_order(
        OTHER_VALIDATOR,
        miner_key=MINER.public_key,
        device="cpu",
        kind="pow",
        challenge_id="0" * 32,
        step=step,
        work_ms=work_ms,
        ordered_unix_ms=ordered_unix_ms,
    )


ORDERS = Excuse(orders=(_order(),))
LEASES = Excuse(leases=(CPU_LEASE.shown(),))


@pytest.mark.parametrize(
    ("excuse", "reason"),
    [
        (LEASES, RejectReason.RENTED),
        (ORDERS, RejectReason.OCCUPIED),
        (
            Excuse(orders=(_order(step="start", work_ms=SHARE_MS, ordered_unix_ms=ORDERED - HOUR_MS),)),
            RejectReason.OCCUPIED,
        ),
        (Excuse(leases=(replace(CPU_LEASE, cpu_milli=600).shown(),)), RejectReason.DECLINED),
        (Excuse(leases=(CPU_LEASE.shown(), CPU_LEASE.shown())), RejectReason.MALFORMED),
        (Excuse(orders=(_order(ordered_unix_ms=ORDERED + 1),)), RejectReason.DECLINED),
        (Excuse(orders=(_order(ordered_unix_ms=ORDERED - TAKEN_MS["prepare"] - 1),)), RejectReason.DECLINED),
    ],
)
def test_verdict_on_an_excuse_follows_from_it_and_no_other_one_does(excuse: Excuse, reason: RejectReason) -> None:
    """Neither can a validator spare a friend, nor blame a rival."""
    findings = _replayed(excuse, reason)
    assert all(finding.holds for finding in findings)
    others = {RejectReason.RENTED, RejectReason.OCCUPIED, RejectReason.DECLINED, RejectReason.MALFORMED, None} - {
        reason
    }
    for other in others:
        assert _broken(_replayed(excuse, other)) == ["orders" if excuse.orders else "lease"], other


def test_excuse_without_evidence_does_not_hold_and_a_decline_is_a_word() -> None:
    for reason in (RejectReason.RENTED, RejectReason.OCCUPIED, None):
        for shown in (None, Excuse()):
            assert any(finding.holds is False for finding in _replayed(shown, reason)), reason
    for shown in (None, Excuse()):
        findings = _replayed(shown, RejectReason.DECLINED)
        assert _broken(findings) == []
        assert any(finding.holds is None for finding in findings)


def test_order_by_who_is_no_validator_of_the_ledger_is_found() -> None:
    assert _broken(_replayed(ORDERS, RejectReason.OCCUPIED, validators=[VALIDATOR.public_key])) == ["orders"]
    assert _broken(_replayed(ORDERS, RejectReason.DECLINED, validators=[VALIDATOR.public_key])) == []


def test_without_a_genesis_it_is_left_open_who_ordered_and_nothing_else() -> None:
    for reason in (RejectReason.OCCUPIED, RejectReason.DECLINED):
        findings = _replayed(ORDERS, reason, validators=None)
        assert _broken(findings) == []
        assert any(finding.holds is None and "genesis" in finding.detail for finding in findings)
    assert _broken(_replayed(ORDERS, None, validators=None)) == ["orders"]
    late = Excuse(orders=(_order(ordered_unix_ms=ORDERED + 1),))
    assert _broken(_replayed(late, RejectReason.OCCUPIED, validators=None)) == ["orders"]


@pytest.mark.parametrize(
    ("began_unix_ms", "ended_unix_ms", "ordered_unix_ms", "holds"),
    [
        (ORDERED + MINUTE_MS, ORDERED + 2 * MINUTE_MS, ORDERED, True),
        (ORDERED + MINUTE_MS + 1, ORDERED + 2 * MINUTE_MS, ORDERED, False),
        (ORDERED - MINUTE_MS, ORDERED, ORDERED, True),
        (ORDERED - MINUTE_MS, ORDERED - 1, ORDERED, False),
        (ORDERED - MINUTE_MS, ORDERED, None, False),
    ],
)
def test_order_was_given_within_the_examination(
    began_unix_ms: int, ended_unix_ms: int, ordered_unix_ms: int | None, holds: bool
) -> None:
    """Else a validator could put its own order after any other's, or before."""
    findings = _replayed(
        ORDERS, RejectReason.OCCUPIED, began_unix_ms=began_unix_ms, ended_unix_ms=ended_unix_ms,
        ordered_unix_ms=ordered_unix_ms,
    )  # fmt: skip
    assert ("time of the order" not in _broken(findings)) is holds


@pytest.mark.parametrize(
    ("began_unix_ms", "holds"), [(GRANTED + 10 + MINUTE_MS, True), (GRANTED + 11 + MINUTE_MS, False)]
)
def test_consent_lasts_at_some_moment_of_the_examination(began_unix_ms: int, holds: bool) -> None:
    consent = sign_consent(RENTER, MINER.public_key, GRANTED, GRANTED + 10)
    shown: ShownLease = CPU_LEASE.consented(consent)
    findings = _replayed(Excuse(leases=(shown,)), RejectReason.RENTED, began_unix_ms=began_unix_ms)
    assert _broken(findings) == ([] if holds else ["lease"])


def test_lease_that_was_over_when_it_was_shown_is_the_validators_word() -> None:
    findings = _replayed(LEASES, RejectReason.MISSING)
    assert _broken(findings) == []
    assert any(finding.holds is None for finding in findings)


def test_excused_device_was_not_measured_and_old_forms_stay_in_old_bundles() -> None:
    assert _broken(_replayed(ORDERS, RejectReason.OCCUPIED, measured_per_second=1)) == ["nothing was asked"]
    assert _broken(_replayed(LEASES, RejectReason.RENTED, measured_per_second=1)) == ["nothing was asked"]
    assert _broken(_replayed(None, RejectReason.RENTED, rented=CPU_LEASE.signed())) == ["lease"]
