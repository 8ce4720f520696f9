"""The validator's routes: what it found, for auditors, miners and anybody; and a page for people.

Rules:
- Everything shown stands on the ledger or will when the epoch ends; an opening key is shown only then.
- Lists come in pages by key, so that no answer and no look into the file grows with the market.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from flask import Response, request

from neurons.base.access import Caller
from neurons.base.health import Health
from neurons.base.http_app import HttpApp
from neurons.base.metrics import MetricsTracker
from neurons.validator.evidence_files import EvidenceFiles, Openings
from neurons.validator.metrics import EpochRow, KnownMiner, MetricsHandler, StoredScore, StoredWeight
from neurons.validator.scoring import ACCEPTABLE_PPM, points
from neurons.validator.status_page import StatusPage
from polarise.answers import printable
from polarise.decode import WireModel
from polarise.errors import ErrorCode, RequestRejected
from polarise.signing import KEY_PATTERN
from polarise.validator_messages import (
    PAGE_MAX,
    EpochsAnswer,
    EpochView,
    MinersAnswer,
    MinerView,
    ScoresAnswer,
    ScoreView,
    ValidatorStatus,
)
from utils.clock import iso_utc

EPOCH_MAX = 2**53 - 1
DEVICES_SHOWN = 8
OPENINGS_HEADER = "Polarise-Openings"


class ValidatorRoutes:
    """All routes of one validator.

    Args:
        about: Answers ``/status``; the epoch is filled in.
        scores: What was found.
        evidence: The bundles.
        page: The page for people.
        health: Readiness checks.
        metrics: Counters.
    """

    def __init__(
        self,
        about: Callable[[], ValidatorStatus],
        scores: MetricsHandler,
        evidence: EvidenceFiles,
        page: StatusPage,
        health: Health,
        metrics: MetricsTracker,
    ) -> None:
        self._about = about
        self._scores = scores
        self._evidence = evidence
        self._page = page
        self._health = health
        self._metrics = metrics

    def register(self, app: HttpApp) -> None:
        """Add every route to the application."""
        app.route("GET", "/", lambda _caller, _body: self._page.render())
        app.route("GET", "/scores", self.scores)
        app.route("GET", "/miners", self.miners)
        app.route("GET", "/epochs", self.epochs)
        app.route("GET", "/evidence/<name>", self.evidence)
        app.route("GET", "/status", self.status)
        app.route("GET", "/healthz", lambda _caller, _body: self._health.healthz())
        app.route("GET", "/readyz", lambda _caller, _body: self._health.readyz())
        app.route("GET", "/metrics", lambda _caller, _body: Response(self._metrics.render(), mimetype="text/plain"))

    def scores(self, _caller: Caller | None, _body: bytes) -> WireModel:
        """Return the newest score of each miner, or with ``?epoch=`` those of one epoch."""
        limit = _number("limit", PAGE_MAX, PAGE_MAX)
        epoch = _number("epoch", 0, EPOCH_MAX) if "epoch" in request.args else None
        found = self._scores.scores_page(epoch, _after(), limit)
        weights = self._scores.weights(epoch)
        return ScoresAnswer(
            scores=tuple(score_view(score, weights.get(score.miner_key)) for score in found),
            next=found[-1].miner_key if found and len(found) == limit else None,
        )

    def miners(self, _caller: Caller | None, _body: bytes) -> WireModel:
        """Return who is or was registered, when each last answered, and its newest score."""
        limit = _number("limit", PAGE_MAX, PAGE_MAX)
        newest = self._newest_epoch()
        found = self._scores.miners_page(_after(), limit)
        return MinersAnswer(
            miners=tuple(miner_view(miner, self._scores.newest(miner.miner_key), newest) for miner in found),
            next=found[-1].miner_key if found and len(found) == limit else None,
        )

    def epochs(self, _caller: Caller | None, _body: bytes) -> WireModel:
        """Return epochs, newest first."""
        limit = _number("limit", PAGE_MAX, PAGE_MAX)
        found = self._scores.epochs(limit, _number("before", EPOCH_MAX, EPOCH_MAX))
        return EpochsAnswer(
            epochs=tuple(epoch_view(row) for row in found),
            next=found[-1].epoch if found and len(found) == limit else None,
        )

    def evidence(self, _caller: Caller | None, _body: bytes, name: str) -> Response:
        """Return a bundle's exact bytes; they never change but for the openings, which have a header of their own."""
        bundle = self._evidence.read(name)
        response = Response(bundle.raw, mimetype="application/json")
        response.headers[OPENINGS_HEADER] = str(bundle.openings)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.set_etag(name if bundle.openings is Openings.PRESENT else f"{name}-{bundle.openings}")
        response.make_conditional(request)
        return response

    def status(self, _caller: Caller | None, _body: bytes) -> WireModel:
        """Say who this is and how far it has come."""
        return self._about().model_copy(update={"epoch": self._newest_epoch()})

    def _newest_epoch(self) -> int | None:
        return next((row.epoch for row in self._scores.epochs(1)), None)


def score_view(stored: StoredScore, weight: StoredWeight | None) -> ScoreView:
    """Return a score as the API shows it, with what the miner counts for in the epoch that weighs."""
    record = stored.record
    return ScoreView(
        miner_key=stored.miner_key,
        epoch=stored.epoch,
        score=points(record.score_ppm),
        score_ppm=record.score_ppm,
        smoothed_ppm=record.smoothed_ppm,
        raw_ppm=record.raw_ppm,
        gate=record.gate,
        is_acceptable=record.score_ppm >= ACCEPTABLE_PPM,
        reasons=record.reasons,
        parts=record.parts,
        rules_version=record.rules_version,
        evidence=stored.evidence,
        scored_at=iso_utc(stored.scored_unix_ms),
        undrawn_count=record.undrawn_count,
        uninspected_count=record.uninspected_count,
        worth_ppb=weight.worth_ppb if weight else None,
        weight_ppm=weight.weight_ppm if weight else None,
    )


def miner_view(miner: KnownMiner, stored: StoredScore | None, newest_epoch: int | None) -> MinerView:
    """Return a miner as the API shows it; its own texts lose what could steer a terminal."""
    return MinerView(
        miner_key=miner.miner_key,
        endpoint=miner.endpoint,
        devices=tuple(printable(name, 100) for name in miner.devices[:DEVICES_SHOWN]),
        is_registered=miner.epoch == newest_epoch,
        seen_at=None if miner.seen_unix_ms is None else iso_utc(miner.seen_unix_ms),
        epoch=stored.epoch if stored else None,
        score=points(stored.record.score_ppm) if stored else None,
        score_ppm=stored.record.score_ppm if stored else None,
        is_acceptable=stored.record.score_ppm >= ACCEPTABLE_PPM if stored else None,
        reasons=stored.record.reasons if stored else (),
    )


def epoch_view(row: EpochRow) -> EpochView:
    """Return an epoch as the API shows it; the opening key only when nobody can be asked with it any more."""
    is_finished = row.finished_unix_ms is not None
    return EpochView(
        epoch=row.epoch,
        is_finished=is_finished,
        state=row.state,
        started_at=iso_utc(row.started_unix_ms),
        finished_at=None if row.finished_unix_ms is None else iso_utc(row.finished_unix_ms),
        challenge_commit=row.challenge_commit.hex(),
        beacon=row.beacon.hex() if row.beacon else None,
        beacon_height=row.beacon_height,
        record=row.record,
        opening_key=row.opening_key.hex() if is_finished else None,
    )


def _after() -> str:
    text = request.args.get("after", "")
    if text and not re.fullmatch(KEY_PATTERN, text):
        raise _invalid("after", f"{text[:80]!r} is no node key", "the `next` of the page before")
    return text


def _number(name: str, default: int, most: int) -> int:
    """Return a number of the query, from 0 for an epoch and from 1 for a limit."""
    text = request.args.get(name)
    least = 1 if name == "limit" else 0
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,16}", text) or not least <= int(text) <= most:
        raise _invalid(name, f"{name} is an integer from {least} to {most}, got {text[:40]!r}", f"?{name}={default}")
    return int(text)


def _invalid(field: str, message: str, hint: str) -> RequestRejected:
    return RequestRejected(ErrorCode.INVALID_FIELD, message, hint=hint, field=field)
