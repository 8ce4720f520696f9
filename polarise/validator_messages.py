"""Answers of the validator's HTTP API; everything in them is public and can be recomputed from ledger and evidence.

Scores are millionths (``1,000,000`` is 100 points); ``score`` repeats one for people, rounded down to two decimals.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from polarise.decode import WireModel
from polarise.errors import RejectReason
from polarise.evidence import PartScore
from polarise.signing import Certificate

PAGE_MAX = 200


class ScoreView(WireModel):
    """One miner in one epoch.

    Attributes:
        miner_key: Who was scored.
        epoch: Epoch number.
        score: Points, as text.
        score_ppm: Smoothed score after the gate.
        smoothed_ppm: Before the gate.
        raw_ppm: Before smoothing; None when nothing was measured.
        gate: 0 when something in this epoch takes every point.
        is_acceptable: Whether it reaches 70 points.
        reasons: Why points are missing.
        parts: The parts with their weights, values, reasons and messages.
        rules_version: Rules it was computed by.
        evidence: Name of the bundle, served at ``/evidence/<name>``.
        scored_at: When.
        undrawn_count: Epochs in a row in which it was not drawn for a proof; its newest one stands.
        uninspected_count: Epochs in a row in which it was not drawn for an inspection.
        worth_ppb: What its devices count for, in billionths of the reference card; None where no epoch with it has ended.
        weight_ppm: Its share of the market, in the epoch asked for or else in the newest that ended; all miners of that
            epoch have 1,000,000 together, or 0.
    """

    miner_key: str
    epoch: int
    score: str
    score_ppm: int
    smoothed_ppm: int
    raw_ppm: int | None
    gate: int
    is_acceptable: bool
    reasons: tuple[RejectReason, ...]
    parts: tuple[PartScore, ...]
    rules_version: int
    evidence: str
    scored_at: str
    undrawn_count: int = 0
    uninspected_count: int = 0
    worth_ppb: int | None = None
    weight_ppm: int | None = None


class ScoresAnswer(WireModel):
    """GET /scores: by miner key; ``next`` is what ``?after=`` takes for the next page."""

    status: Literal["success"] = "success"
    scores: tuple[ScoreView, ...] = Field(max_length=PAGE_MAX)
    next: str | None


class MinerView(WireModel):
    """One miner this validator knows.

    Attributes:
        miner_key: Its node key.
        endpoint: Base URL of its API, as registered.
        devices: Names of the first eight devices it claims.
        is_registered: Whether it stood in the registry at the newest epoch.
        seen_at: When it last answered an examination; None if it never did.
        epoch: Epoch of its newest score; None before the first.
        score: Its points.
        score_ppm: The same in millionths.
        is_acceptable: Whether it reaches 70 points.
        reasons: Why points are missing.
    """

    miner_key: str
    endpoint: str
    devices: tuple[str, ...]
    is_registered: bool
    seen_at: str | None
    epoch: int | None = None
    score: str | None = None
    score_ppm: int | None = None
    is_acceptable: bool | None = None
    reasons: tuple[RejectReason, ...] = ()


class MinersAnswer(WireModel):
    """GET /miners: by miner key; ``next`` is what ``?after=`` takes for the next page."""

    status: Literal["success"] = "success"
    miners: tuple[MinerView, ...] = Field(max_length=PAGE_MAX)
    next: str | None


class EpochView(WireModel):
    """One epoch.

    Attributes:
        epoch: Its number.
        is_finished: Whether scores and record are made; only then its evidence is served.
        state: The same in words: ``waits for its beacon``, ``runs``, ``finished``, ``broken off`` or ``no record``.
        started_at: When it began.
        finished_at: When it was recorded.
        challenge_commit: What the validator was bound to.
        beacon: Hash of the ledger's first block after the commitment; None before.
        beacon_height: Its height.
        record: Digest of the signed epoch record.
        opening_key: What the commitment hid; None until the epoch is finished.
    """

    epoch: int
    is_finished: bool
    state: str
    started_at: str
    finished_at: str | None
    challenge_commit: str
    beacon: str | None
    beacon_height: int | None
    record: str | None
    opening_key: str | None


class EpochsAnswer(WireModel):
    """GET /epochs: newest first; ``next`` is what ``?before=`` takes for the next page."""

    status: Literal["success"] = "success"
    epochs: tuple[EpochView, ...] = Field(max_length=PAGE_MAX)
    next: int | None


class CosignedLog(WireModel):
    """The newest checkpoint of one log that this validator cosigned.

    Attributes:
        origin: The log.
        name: SHA-256 of the origin; the signed note is at ``/witness/<name>``.
        size: Tree size.
        cosigned_at: When.
    """

    origin: str
    name: str
    size: int
    cosigned_at: str


class WitnessAnswer(WireModel):
    """GET /witness: the key cosignatures verify with, and what was cosigned; ``next`` is what ``?after=`` takes.

    Attributes:
        witness: Verifier key, as `polarise verify --witness` takes it.
        certificate: The node key's word for it.
        logs: By name.
        next: Where the next page begins; None at the end.
    """

    status: Literal["success"] = "success"
    witness: str
    certificate: Certificate
    logs: tuple[CosignedLog, ...] = Field(max_length=PAGE_MAX)
    next: str | None


class ValidatorStatus(WireModel):
    """GET /status: who this validator is and how far it has come.

    The verifier key in ``witness`` cosigned the ledger up to ``cosigned_ledger_size`` leaves.
    """

    status: Literal["success"] = "success"
    node_key: str
    role: Literal["validator"] = "validator"
    version: str
    net: str
    ledger: str
    public_url: str
    epoch_seconds: int
    epoch: int | None
    rules_version: int
    witness: str | None = None
    cosigned_ledger_size: int | None = None
