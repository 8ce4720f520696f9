"""What a miner showed instead of a proof, checked offline: leases, or orders of other validators.

Rules:
- When it was shown is nobody's word but the validator's: some moment between the beacon and the end of the examination has
  to fit, with the ledger's clock as far ahead of the validator's as it accepts.
- Whether an orderer is a validator is read in the genesis. Who checks a bundle without one learns that this is left open.
- The same functions that judged live judge here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ledger.state import FUTURE_MS_MAX
from neurons.validator.replay_finding import Finding, same_reason, witnessed
from polarise.block import block_of
from polarise.checkpoint import parse_checkpoint
from polarise.errors import ProofRejected, RejectReason
from polarise.evidence import EvidenceBundle, ProofEvidence
from polarise.excuse import Excuse
from polarise.notes import NoteInvalid, parse_note
from polarise.occupied import check_occupied
from polarise.receipt import STATEMENT_KIND as RECEIPT_KIND
from polarise.receipt import Receipt
from polarise.registry import RegistryEntry
from polarise.rented import CONSENT_KIND, LeaseConsent, ShownLease, check_rented, check_rented_device
from polarise.signing import SignatureInvalid


def replay_excuse(
    name: str, bundle: EvidenceBundle, entry: RegistryEntry, proof: ProofEvidence, validators: Collection[str] | None
) -> Iterator[Finding]:
    """Check the excuse of one proof.

    Args:
        name: Of the proof, in what is found.
        bundle: Where it stands.
        entry: The miner's registry entry.
        proof: With what the miner showed.
        validators: Keys of the ledger's validators; None where they are not known.
    """
    if bundle.version > 2 and proof.rented is not None:
        yield Finding(f"{name}: lease", False, "it stands where only older bundles keep it")
        return
    excuse = _excuse_of(proof)
    if excuse.orders:
        yield from _occupied(name, bundle, proof, excuse, validators)
    elif excuse.leases and proof.verdict.reason is not RejectReason.MISSING:
        yield from _rented(name, bundle, entry, proof, excuse)
    else:
        # Nothing was shown, or a lease that was over or not begun: by which clock, only the validator knows.
        yield witnessed(name, proof.verdict.reason)
        return
    is_bare = proof.commitment is None and proof.measured_per_second == 0
    yield Finding(f"{name}: nothing was asked", is_bare)


def _excuse_of(proof: ProofEvidence) -> Excuse:
    if proof.rented is not None:
        return Excuse(leases=(ShownLease.of(proof.rented),))
    return proof.excuse or Excuse()


def _rented(
    name: str, bundle: EvidenceBundle, entry: RegistryEntry, proof: ProofEvidence, excuse: Excuse
) -> Iterator[Finding]:
    moment = _moment(bundle, excuse)
    keys = {"miner_key": bundle.miner_key, "owner_key": entry.owner_key}
    reason = RejectReason.RENTED
    try:
        if bundle.version > 2:
            claimed = entry.hardware.cpu_milli
            check_rented(excuse.leases, **keys, device=proof.device, claimed_cpu_milli=claimed, now_unix_ms=moment)
        else:
            check_rented_device(excuse.leases[0], **keys, device=proof.device, now_unix_ms=moment)
    except ProofRejected as err:
        reason = err.reason
    yield same_reason(f"{name}: lease", reason, proof)


def _occupied(
    name: str, bundle: EvidenceBundle, proof: ProofEvidence, excuse: Excuse, validators: Collection[str] | None
) -> Iterator[Finding]:
    ordered_unix_ms = proof.ordered_unix_ms or 0
    in_time = _began_unix_ms(bundle) - FUTURE_MS_MAX <= ordered_unix_ms <= bundle.examined_unix_ms
    yield Finding(f"{name}: time of the order", in_time, f"ordered at {ordered_unix_ms}")
    reason = RejectReason.OCCUPIED
    try:
        check_occupied(
            excuse.orders,
            validator_key=bundle.validator_key,
            miner_key=bundle.miner_key,
            device=proof.device,
            validators=validators,
            ordered_unix_ms=ordered_unix_ms,
        )
    except ProofRejected as err:
        reason = err.reason
    if validators is None and reason is RejectReason.OCCUPIED and proof.verdict.reason in _BY_MEMBERSHIP:
        detail = f"{proof.verdict.reason}: whether the ledger knows who ordered is in its genesis"
        yield Finding(f"{name}: orders", None, detail)
        return
    yield same_reason(f"{name}: orders", reason, proof)


_BY_MEMBERSHIP = frozenset({RejectReason.OCCUPIED, RejectReason.DECLINED})


def _moment(bundle: EvidenceBundle, excuse: Excuse) -> int:
    """Return the latest moment at which the leases can have been shown, and last."""
    ends = [bundle.examined_unix_ms]
    try:
        for lease in excuse.leases:
            ends.append(lease.receipt.open(RECEIPT_KIND, Receipt).expires_unix_ms)
            if lease.consent is not None:
                ends.append(lease.consent.open(CONSENT_KIND, LeaseConsent).expires_unix_ms)
    except SignatureInvalid:
        ends = ends[:1]
    return max(_began_unix_ms(bundle) - FUTURE_MS_MAX, min(ends))


def _began_unix_ms(bundle: EvidenceBundle) -> int:
    try:
        return block_of(parse_checkpoint(parse_note(bundle.beacon_block.encode()).text)).time_unix_ms
    except NoteInvalid:
        return 0
