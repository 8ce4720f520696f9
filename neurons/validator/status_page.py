"""The page for people at ``GET /``: epochs, miners, scores, reasons and fixes, rendered here, without any script.

Rules:
- Whatever a miner says about itself is escaped, cut, and loses control and direction characters.
- The page loads nothing, and a browser is told so; it is made anew at most every two seconds, whoever asks how often.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from neurons.validator.metrics import EpochRow, KnownMiner, MetricsHandler, StoredScore, StoredWeight
from neurons.validator.scoring import ACCEPTABLE_PPM, RULES_VERSION, points
from polarise.answers import printable
from polarise.fixes import FIXES
from polarise.validator_messages import ValidatorStatus
from polarise.verdict import LostPoints, lost_points, lost_text
from utils.clock import Clock, iso_utc

TEMPLATE = "status_page.html"
FRESH_SECONDS = 2
EPOCHS_SHOWN = 12
MINERS_SHOWN = 100
TEXT_CHARS = 300
# Nothing is loaded from anywhere; the style stands in the page itself.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class StatusPage:
    """One page.

    Args:
        about: Says who this validator is.
        metrics: What it found.
        clock: Wall and monotonic clock.
    """

    def __init__(self, about: Callable[[], ValidatorStatus], metrics: MetricsHandler, clock: Clock) -> None:
        self._about = about
        self._metrics = metrics
        self._clock = clock
        environment = Environment(
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            loader=FileSystemLoader(Path(__file__).parent),
        )
        environment.filters["clean"] = lambda value: printable(value, TEXT_CHARS)
        self._template = environment.get_template(TEMPLATE)
        self._lock = threading.Lock()
        self._made_ns: int | None = None
        self._html = ""

    def render(self) -> Response:
        """Return the page."""
        with self._lock:
            now_ns = self._clock.monotonic_ns()
            if self._made_ns is None or now_ns - self._made_ns >= FRESH_SECONDS * 1_000_000_000:
                self._html, self._made_ns = self._make(), now_ns
            html = self._html
        response = Response(html, mimetype="text/html")
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-store"
        return response

    def _make(self) -> str:
        epochs = self._metrics.epochs(EPOCHS_SHOWN)
        miners = self._metrics.miners_page("", MINERS_SHOWN + 1)
        newest = epochs[0].epoch if epochs else None
        weights = self._metrics.weights()
        rows = [
            _miner_row(miner, self._metrics.newest(miner.miner_key), weights.get(miner.miner_key), newest)
            for miner in miners[:MINERS_SHOWN]
        ]
        finished = {row.epoch for row in epochs if row.finished_unix_ms is not None}
        oldest_shown = epochs[-1].epoch if epochs else 0
        for row in rows:
            row["is_served"] = row["epoch"] is not None and (row["epoch"] in finished or row["epoch"] < oldest_shown)
        return self._template.render(
            about=self._about(),
            now=_moment(self._clock.wall_unix_ms()),
            acceptable=points(ACCEPTABLE_PPM),
            rules_version=RULES_VERSION,
            epochs=[_epoch_row(row) for row in epochs],
            miners=sorted(rows, key=lambda row: (-row["score_ppm"], row["miner_key"])),
            is_cut=len(miners) > MINERS_SHOWN,
            registered_count=sum(1 for row in rows if row["is_registered"]),
        )


def _epoch_row(row: EpochRow) -> dict[str, object]:
    is_finished = row.finished_unix_ms is not None
    return {
        "epoch": row.epoch,
        "is_finished": is_finished,
        "state": row.state,
        "started": _moment(row.started_unix_ms),
        "beacon_height": row.beacon_height,
        "commit": row.challenge_commit.hex(),
        "record": row.record,
        "opening_key": row.opening_key.hex() if is_finished else None,
    }


def _miner_row(
    miner: KnownMiner, stored: StoredScore | None, weight: StoredWeight | None, newest_epoch: int | None
) -> dict[str, Any]:
    record = stored.record if stored else None
    return {
        "miner_key": miner.miner_key,
        "endpoint": miner.endpoint,
        "devices": miner.devices,
        "is_registered": miner.epoch == newest_epoch,
        "seen": None if miner.seen_unix_ms is None else _moment(miner.seen_unix_ms),
        "epoch": stored.epoch if stored else None,
        "evidence": stored.evidence if stored else None,
        "score_ppm": record.score_ppm if record else -1,
        "score": points(record.score_ppm) if record else None,
        "weight": f"{weight.weight_ppm / 10_000:.4f} %" if weight else None,
        "undrawn_count": record.undrawn_count if record else 0,
        "is_acceptable": record is not None and record.score_ppm >= ACCEPTABLE_PPM,
        "lost": [_loss_row(line) for line in lost_points(record)] if record else [],
    }


def _loss_row(line: LostPoints) -> dict[str, object]:
    return {
        "part": line.part,
        "points": lost_text(line.lost_ppm),
        "message": line.message,
        "reasons": [{"code": str(reason), "fix": FIXES[reason]} for reason in line.reasons],
    }


def _moment(unix_ms: int) -> str:
    """Return an instant to the second: ``2026-11-20 04:22:39 UTC``."""
    return iso_utc(unix_ms)[:19].replace("T", " ") + " UTC"
