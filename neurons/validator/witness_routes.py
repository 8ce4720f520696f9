"""The witness over HTTP: c2sp.org/tlog-witness for whoever wants a cosignature, and what was cosigned for anybody.

Rules:
- The log's own signature is the only authentication; what it did not sign gets no further than that check.
- A refusal has the status tlog-witness gives it. 409 carries the size to start from and nothing else, as that asks for.
"""

from __future__ import annotations

import logging
import re

from flask import Response, request

from neurons.base.access import Caller
from neurons.base.http_app import HttpApp
from neurons.base.metrics import MetricsTracker
from polarise.answers import printable
from polarise.checkpoint import parse_checkpoint
from polarise.decode import WireModel
from polarise.errors import ErrorCode, LogFork, RequestRejected
from polarise.notes import parse_note
from polarise.signing import KEY_PATTERN, Certificate
from polarise.validator_messages import PAGE_MAX, CosignedLog, WitnessAnswer
from tlog.witness import StaleCheckpoint, Witness
from utils.clock import Clock, iso_utc

logger = logging.getLogger(__name__)

TEXT = "text/plain; charset=utf-8"
SIZE = "text/x.tlog.size"


class WitnessRoutes:
    """The routes of one validator's witness.

    Args:
        witness: Decides and signs.
        certificate: The node key's word for the witness's key.
        metrics: Counts answers by status.
        clock: Wall clock.
    """

    def __init__(self, witness: Witness, certificate: Certificate, metrics: MetricsTracker, clock: Clock) -> None:
        self._witness = witness
        self._certificate = certificate
        self._metrics = metrics
        self._clock = clock

    def register(self, app: HttpApp) -> None:
        """Add every route to the application."""
        app.route("POST", "/witness/add-checkpoint", self.add_checkpoint)
        app.route("GET", "/witness", self.logs)
        app.route("GET", "/witness/<name>", self.note)

    def add_checkpoint(self, _caller: Caller | None, body: bytes) -> Response:
        """Cosign a checkpoint that goes on from the last one."""
        try:
            line = self._witness.add_checkpoint(body, self._clock.wall_unix_ms() // 1000)
        except StaleCheckpoint as err:
            return self._counted(_conflict(err.known_size))
        except LogFork as err:
            return self._counted(_forked(err))
        return self._counted(Response(line, content_type=TEXT))

    def logs(self, _caller: Caller | None, _body: bytes) -> WireModel:
        """Return the verifier key and a page of what was cosigned."""
        after = request.args.get("after", "")
        if after and not re.fullmatch(KEY_PATTERN, after):
            raise RequestRejected(
                ErrorCode.INVALID_FIELD,
                f"{after[:80]!r} is no log's name",
                hint="the `next` of the page before",
                field="after",
            )
        page = self._witness.page(after, PAGE_MAX)
        return WitnessAnswer(
            witness=self._witness.verifier.vkey,
            certificate=self._certificate,
            logs=tuple(
                CosignedLog(
                    origin=seen.origin,
                    name=seen.name,
                    size=seen.size,
                    cosigned_at=iso_utc(seen.time_unix_s * 1000),
                )
                for seen in page
            ),
            next=page[-1].name if len(page) == PAGE_MAX else None,
        )

    def note(self, _caller: Caller | None, _body: bytes, name: str) -> Response:
        """Return the newest checkpoint of one log with our cosignature."""
        seen = self._witness.seen(name)
        if seen is None:
            raise RequestRejected(
                ErrorCode.NOT_FOUND,
                f"nothing of a log named {name[:80]!r} was cosigned here",
                hint="GET /witness lists the names: SHA-256 of each origin",
                field="name",
                status=404,
            )
        response = Response(seen.cosigned, content_type=TEXT)
        response.headers["Cache-Control"] = "no-store"
        return response

    def _counted(self, response: Response) -> Response:
        self._metrics.count("polarise_witness_requests_total", status=str(response.status_code))
        return response


def _conflict(size: int) -> Response:
    return Response(f"{size}\n", 409, content_type=SIZE)


def _forked(err: LogFork) -> Response:
    """Two trees of one size conflict; of two sizes the proof is what did not hold, and anybody can send a bad one."""
    known, new = (parse_checkpoint(parse_note(note).text).size for note in (err.first, err.second))
    if known == new:
        logger.warning("a log signed two trees of one size", extra={"detail": printable(err.message, 300)})
        return _conflict(known)
    raise RequestRejected(
        ErrorCode.FORKED_CHECKPOINT,
        err.message,
        hint="send the consistency proof from the size this witness knows; both notes were kept",
        field="proof",
        status=422,
    ) from err
