"""Epochs, scores and bundles made by hand and put where a validator keeps its own."""

from __future__ import annotations

from pathlib import Path

from challenges import draw
from neurons.validator.challenges import EpochSecret
from neurons.validator.metrics import MetricsHandler, StoredScore
from neurons.validator.scoring import ScoringSystem
from polarise.evidence import EvidenceBundle, ProofEvidence, ScoreRecord, openings_digest, write_bundle
from polarise.hardware import DeviceClaim
from polarise.registry import open_entry
from polarise.signing import Identity
from tests.support.evidence import inspection, proof
from tests.support.proving_miner import BEACON_BLOCK, CPU, MINER, VALIDATOR, entry_of

OPENING_KEY = b"k" * 32
ROOT = b"r" * 32


def begin(metrics: MetricsHandler, epoch: int, *, started_unix_ms: int = 1_790_000_000_000) -> EpochSecret:
    """Begin an epoch whose opening key is known."""
    secret = EpochSecret(epoch, OPENING_KEY, ROOT, draw.challenge_commit(epoch, OPENING_KEY, ROOT))
    metrics.begin_epoch(secret, started_unix_ms)
    return secret


def score_record(*proofs: ProofEvidence) -> ScoreRecord:
    """Return the score that follows from these proofs and a container that kept its promises."""
    return ScoringSystem().calculate_score(proofs or (proof(),), inspection(), None)


def bundle_of(secret: EpochSecret, *proofs: ProofEvidence, miner: Identity = MINER) -> EvidenceBundle:
    """Return a bundle around these proofs; by default one that holds openings."""
    opened: tuple[dict[str, object], ...] = ({"tile": 1},)
    with_openings = proof().model_copy(update={"openings": opened, "openings_digest": openings_digest(opened)})
    kept = proofs or (with_openings,)
    return EvidenceBundle(
        epoch=secret.epoch,
        examined_unix_ms=1,
        validator_key=VALIDATOR.public_key,
        miner_key=miner.public_key,
        registry=entry_of(),
        target_seconds=1,
        opening_key=secret.opening_key.hex(),
        miner_set_root=secret.miner_set_root.hex(),
        challenge_commit=secret.commit.hex(),
        beacon_block=BEACON_BLOCK,
        proofs=kept,
        inspection=inspection(),
        previous=None,
        score=score_record(*kept),
    )


def keep(metrics: MetricsHandler, folder: Path, bundle: EvidenceBundle) -> Path:
    """Keep a bundle and its score as the examiner does."""
    path = write_bundle(folder, bundle)
    metrics.record(StoredScore(bundle.epoch, bundle.miner_key, bundle.score, path.stem, 1_790_000_001_000))
    return path


def register(metrics: MetricsHandler, epoch: int, *names: str) -> None:
    """Note the test's miner with devices of these names."""
    devices = tuple(CPU.model_copy(update={"uuid": f"cpu-{i}", "name": name}) for i, name in enumerate(names))
    claims: tuple[DeviceClaim, ...] = devices or (CPU,)
    metrics.set_registered(epoch, [open_entry(entry_of(devices=claims))])
