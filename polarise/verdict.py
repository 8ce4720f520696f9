"""The signed verdict: what a validator tells a miner after each epoch, and where the points went.

Rules:
- The validator signs it and names itself and the miner in the body; a verdict of another is refused, whoever brings it.
- It holds the whole score, so that the miner's operator sees each lost point without asking anybody. What stands of an
  earlier round is said in words, and what earlier measurements give is a line of its own, below 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from polarise.decode import WireModel
from polarise.errors import RejectReason
from polarise.evidence import WINDOWS_SINCE_RULES, Count, DeviceScore, Hash, KindRate, PartScore, ScoreRecord
from polarise.fixes import FIXES
from polarise.signing import KEY_PATTERN, Identity, SignatureInvalid
from polarise.statement import SignedStatement, sign_statement

STATEMENT_KIND = "verdict"
PPM = 1_000_000


class Verdict(WireModel):
    """Body of a verdict statement.

    Attributes:
        v: Version of the format.
        epoch: The validator's epoch number.
        validator_key: Who judged; the statement's signer.
        miner_key: Who was judged.
        score: Score, raw score, parts, reasons and the version of the rules.
        evidence: Name of the evidence bundle, which the validator serves at ``/evidence/<name>``.
        evidence_url: Base URL of that API.
    """

    v: Literal[1] = 1
    epoch: Count
    validator_key: str = Field(pattern=KEY_PATTERN)
    miner_key: str = Field(pattern=KEY_PATTERN)
    score: ScoreRecord
    evidence: Hash
    evidence_url: str = Field(max_length=300)


@dataclass(frozen=True, slots=True)
class LostPoints:
    """Where points went.

    Attributes:
        part: A part of the score, or ``smoothing`` and ``gate``.
        lost_ppm: Points lost to it, in millionths of the whole score; below 0 what smoothing gave.
        reasons: Reason codes.
        message: What happened, in the validator's words.
        fixes: What to do, in the order of the reasons.
    """

    part: str
    lost_ppm: int
    reasons: tuple[RejectReason, ...]
    message: str
    fixes: tuple[str, ...]


def sign_verdict(identity: Identity, verdict: Verdict) -> SignedStatement:
    """Sign a verdict with the validator's statement subkey."""
    return sign_statement(identity, STATEMENT_KIND, verdict)


def open_verdict(statement: SignedStatement, *, validator_key: str) -> Verdict:
    """Verify that a validator signed a verdict of its own.

    Raises:
        SignatureInvalid: Another kind, signer or shape, or the body names another validator.
    """
    verdict = statement.open(STATEMENT_KIND, Verdict, signer=validator_key)
    if verdict.validator_key != validator_key:
        raise SignatureInvalid(f"the verdict of {verdict.validator_key[:12]} is signed by {validator_key[:12]}")
    return verdict


def lost_points(score: ScoreRecord) -> list[LostPoints]:
    """Return one line for every part, the smoothing or the gate that moved points; empty for a full score."""
    total = sum(part.weight_ppm for part in score.parts if part.value_ppm is not None)
    lines = [
        _of_part(score, part, total) for part in score.parts if part.value_ppm is not None and part.value_ppm < PPM
    ]
    if score.raw_ppm is not None and score.smoothed_ppm != score.raw_ppm:
        lost_ppm = score.raw_ppm - score.smoothed_ppm
        lines.append(LostPoints("smoothing", lost_ppm, (), smoothing_text(score), ()))
    if score.gate == 0:
        lines.append(LostPoints("gate", score.smoothed_ppm, (), gate_text(score), ()))
    return lines


def message_of(score: ScoreRecord, part: PartScore) -> str:
    """Return in words why a part is not full: what fell short, what the validator says, what stands of earlier rounds."""
    short = [f"{name}: {_share(rate)} of the claimed {rate.kind} rate" for name, rate in _short_rates(part)]
    return "; ".join(text for text in (*short, part.message, standing_text(score, part)) if text)


def fixes_of(part: PartScore) -> tuple[str, ...]:
    """Return what to do about a part, in the order of its reasons; a claim that is held in part is no reason and has a fix."""
    if not part.reasons and _short_rates(part):
        return (FIXES[RejectReason.CLAIM_NOT_MET],)
    return tuple(FIXES[reason] for reason in part.reasons)


def standing_text(score: ScoreRecord, part: PartScore) -> str:
    """Return in words what stands of earlier rounds in a part; empty where there is nothing."""
    left_out = {"compute": score.undrawn_count, "memory": score.undrawn_count, "service": score.uninspected_count}.get(
        part.name, 0
    )
    words = []
    if left_out:
        epochs = "1 epoch" if left_out == 1 else f"{left_out} epochs"
        words.append(f"not drawn for {epochs}, what was found before stands")
    standing = dict.fromkeys(reason for reason in (*(d.standing for d in part.devices), part.standing) if reason)
    if standing:
        words.append(f"{', '.join(standing)} stands until it is measured again")
    return "; ".join(words)


def smoothing_text(score: ScoreRecord) -> str:
    """Return in words why smoothed and raw score differ."""
    if score.raw_ppm is not None and score.smoothed_ppm > score.raw_ppm:
        return "earlier measurements were better and still count"
    return "earlier measurements were worse; it passes by itself"


def gate_text(score: ScoreRecord) -> str:
    """Return in words how long a closed gate stays closed."""
    until = "of its epoch" if score.rules_version == 1 else "until it is measured again"
    return f"a rejected proof or a broken promise takes all points {until}"


def weight_text(score: ScoreRecord) -> str:
    """Return in words what keeps a miner's devices from counting in weights; empty where nothing does, and by rules before 3."""
    if score.rules_version < WINDOWS_SINCE_RULES:
        return ""
    service, devices = score.part("service"), score.part("compute").devices
    words = []
    if service.last_ppm is None and service.declines_count:
        words.append("no weight until a container was inspected: keep room for one")
    measured: dict[str, list[DeviceScore]] = {device.device: [device] for device in devices if device.last_ppm}
    for memory in score.part("memory").devices:
        if memory.last_ppm and memory.device in measured:
            measured[memory.device].append(memory)
    shown = measured.values()
    if waiting_count := sum(any(part.window_ppm is None for part in parts) for parts in shown):
        words.append(f"{waiting_count} of {len(devices)} devices count from their next common window on")
    in_part = (any((part.window_ppm or 0) < (part.last_ppm or 0) for part in parts) for parts in shown)
    if halved_count := sum(in_part) - waiting_count:
        words.append(f"{halved_count} of {len(devices)} devices count in part until their next common window")
    return "; ".join(words)


def lost_text(lost_ppm: int) -> str:
    """Return lost millionths as points; what earlier measurements give stands with a minus."""
    return f"-{points(-lost_ppm)}" if lost_ppm < 0 else points(lost_ppm)


def points(score_ppm: int) -> str:
    """Return millionths as points with two decimals, rounded down, so that 69.999 never reads 70.00."""
    return f"{score_ppm // 10_000}.{score_ppm % 10_000 // 100:02d}"


def _of_part(score: ScoreRecord, part: PartScore, total_ppm: int) -> LostPoints:
    weight_ppm = part.weight_ppm * PPM // total_ppm if total_ppm else 0
    return LostPoints(
        part.name,
        weight_ppm * (PPM - (part.value_ppm or 0)) // PPM,
        part.reasons,
        message_of(score, part),
        fixes_of(part),
    )


def _short_rates(part: PartScore) -> list[tuple[str, KindRate]]:
    """Return the device and rate of each proof that passed below its claim; none where a reason tells what went wrong."""
    if part.reasons or part.value_ppm == PPM:
        return []
    rates = [(device.device, rate) for device in part.devices for rate in device.rates]
    return [(name, rate) for name, rate in rates if rate.measured_per_second < rate.claimed_per_second]


def _share(rate: KindRate) -> str:
    return f"{points(rate.measured_per_second * PPM // rate.claimed_per_second)} %"
