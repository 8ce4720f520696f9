"""Takes the verdicts that validators send, and takes them apart for the operator.

Rules:
- The caller of the request is the signer of the statement and the validator it names; the miner it names is this one.
- Of one epoch the first verdict stands; another one of the same epoch is refused, because a validator judges once.
"""

from __future__ import annotations

import logging

from neurons.miner.validations import KeptVerdict, ValidationTracker
from polarise.answers import printable
from polarise.canonical import canonical_bytes
from polarise.decode import decode_model
from polarise.errors import ErrorCode, RequestRejected
from polarise.signing import SignatureInvalid
from polarise.statement import SignedStatement
from polarise.verdict import lost_points, lost_text, open_verdict, points, weight_text
from utils.clock import Clock, iso_utc

logger = logging.getLogger(__name__)


class VerdictBook:
    """The verdicts on one miner.

    Args:
        miner_key: This miner's public key.
        tracker: Where they are kept.
        clock: Wall clock.
    """

    def __init__(self, miner_key: str, tracker: ValidationTracker, clock: Clock) -> None:
        self._miner_key = miner_key
        self._tracker = tracker
        self._clock = clock

    def take(self, statement: SignedStatement, caller_key: str) -> None:
        """Verify and keep one verdict.

        Raises:
            RequestRejected: BAD_SIGNATURE (422), another signer than the caller; INVALID_FIELD (422), it judges another
                miner; CONFLICT (409), another verdict of this epoch is kept.
        """
        try:
            verdict = open_verdict(statement, validator_key=caller_key)
        except SignatureInvalid as err:
            raise RequestRejected(
                ErrorCode.BAD_SIGNATURE,
                f"the verdict does not hold: {err}",
                hint="send the verdict that your own node signed",
                field="verdict",
                status=422,
            ) from err
        if verdict.miner_key != self._miner_key:
            raise RequestRejected(
                ErrorCode.INVALID_FIELD,
                f"the verdict is on {verdict.miner_key[:12]}, this is {self._miner_key[:12]}",
                hint="send each verdict to the miner it judges",
                field="verdict.body.miner_key",
                status=422,
            )
        text = canonical_bytes(statement.to_wire()).decode()
        kept = self._tracker.keep_verdict(KeptVerdict(caller_key, verdict.epoch, text, self._clock.wall_unix_ms()))
        if kept.statement != text:
            raise RequestRejected(
                ErrorCode.CONFLICT,
                f"another verdict of epoch {verdict.epoch} is kept",
                hint="a validator judges once per epoch",
                field="verdict",
                status=409,
            )
        logger.info(
            "verdict received",
            extra={
                "validator_key": caller_key,
                "epoch": verdict.epoch,
                "score": points(verdict.score.score_ppm),
                "reasons": [str(reason) for reason in verdict.score.reasons],
            },
        )


def verdict_wire(kept: KeptVerdict) -> dict[str, object]:
    """Return a kept verdict as JSON-ready values, with every lost point and its fix.

    Raises:
        SignatureInvalid: What is kept does not verify any more: the file was edited.
    """
    statement = decode_model(SignedStatement, kept.statement.encode())
    verdict = open_verdict(statement, validator_key=kept.validator_key)
    return {
        "validator_key": kept.validator_key,
        "epoch": kept.epoch,
        "received_at": iso_utc(kept.received_unix_ms),
        "score": points(verdict.score.score_ppm),
        "rules_version": verdict.score.rules_version,
        "undrawn_count": verdict.score.undrawn_count,
        "weight": weight_text(verdict.score),
        "evidence": f"{printable(verdict.evidence_url)}/evidence/{verdict.evidence}",
        "lost": [
            {
                "part": line.part,
                "points": lost_text(line.lost_ppm),
                "reasons": [str(reason) for reason in line.reasons],
                "message": printable(line.message),
                "fixes": list(line.fixes),
            }
            for line in lost_points(verdict.score)
        ],
    }
