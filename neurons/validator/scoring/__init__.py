"""From evidence to a score, in integers, so that anyone computes it equal; design section 7.

Rules:
- A score names the version of the rules that made it. Scores are given by the newest; an auditor recomputes each by its
  own. A version that was ever in use stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from neurons.validator.scoring import version_1, version_2, version_3
from neurons.validator.scoring.standing import DECLINES_NEUTRAL, GATE_REASONS
from neurons.validator.scoring.version_3 import (
    ACCEPTABLE_PPM,
    ALPHA_PPM,
    RULES_VERSION,
    WEIGHTS_PPM,
    ScoringSystem,
    effective_weights,
    points,
)
from polarise.evidence import (
    DrawEvidence,
    InspectionEvidence,
    ProofEvidence,
    ScoreRecord,
    TelemetryEvidence,
)

# Version of the rules -> version of the bundles that carry what these rules look at.
KNOWN_VERSIONS = {version_1.RULES_VERSION: 1, version_2.RULES_VERSION: 2, version_3.RULES_VERSION: 3}


class RulesUnknown(ValueError):
    """A score names rules that this software does not have: it is too old, or there never were such rules."""

    def __init__(self, rules_version: int) -> None:
        known = ", ".join(map(str, KNOWN_VERSIONS))
        super().__init__(f"the score is by rules {rules_version}, this software has {known}")


def recompute_score(
    rules_version: int,
    proofs: Sequence[ProofEvidence],
    inspection: InspectionEvidence | None,
    previous: ScoreRecord | None,
    telemetry: TelemetryEvidence | None,
    draw: DrawEvidence | None,
) -> ScoreRecord:
    """Compute a score by the rules that it names; the arguments are those of `ScoringSystem.calculate_score`.

    Raises:
        RulesUnknown: This software does not have these rules.
    """
    if rules_version == version_1.RULES_VERSION:
        return version_1.ScoringSystem().calculate_score(proofs, inspection, previous, telemetry)
    if rules_version == version_2.RULES_VERSION:
        return version_2.ScoringSystem().calculate_score(proofs, inspection, previous, telemetry, draw=draw)
    if rules_version == version_3.RULES_VERSION:
        return version_3.ScoringSystem().calculate_score(proofs, inspection, previous, telemetry, draw=draw)
    raise RulesUnknown(rules_version)


__all__ = [
    "ACCEPTABLE_PPM",
    "ALPHA_PPM",
    "DECLINES_NEUTRAL",
    "GATE_REASONS",
    "KNOWN_VERSIONS",
    "RULES_VERSION",
    "WEIGHTS_PPM",
    "RulesUnknown",
    "ScoringSystem",
    "effective_weights",
    "points",
    "recompute_score",
]
