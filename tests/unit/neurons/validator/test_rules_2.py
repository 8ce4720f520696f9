"""What was scored by rules 2 keeps its name, its form and its score: a market of three epochs, made by the software of then.

It was made by `tests.support.audited_market.make_market` at commit f06694e with ``proof_every=1000``, so that the miner is
proven in the first epoch only, and downloaded with `audit --download`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from neurons.cli import main
from neurons.validator.replay import replay
from neurons.validator.scoring import recompute_score, version_2, version_3
from neurons.validator.scoring.version_3 import without_windows
from polarise.canonical import canonical_bytes
from polarise.errors import RejectReason
from polarise.evidence import DrawEvidence, ProofEvidence, ScoreRecord, read_bundle
from tests.support.evidence import CLAIM, inspection, proof

MARKET = Path(__file__).parents[3] / "fixtures" / "rules_2"
BUNDLES = sorted((MARKET / "evidence").iterdir())
# What rules 2 and 3 judge alike.
REASONS = (None, *sorted(set(RejectReason) - {RejectReason.DECLINED, RejectReason.OCCUPIED}))


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: str(path.stem[:8]))
def test_bundle_keeps_its_bytes_its_name_and_its_score(path: Path) -> None:
    bundle = read_bundle(path)
    assert bundle.version == bundle.score.rules_version == 2
    assert canonical_bytes(bundle.to_wire()) == path.read_bytes()
    assert bundle.digest() == path.stem
    assert bundle.without_openings().digest() == path.stem
    assert False not in [finding.holds for finding in replay(bundle)]
    assert all(found.verdict.is_passed for found in bundle.proofs)


def test_whole_market_audits_clean(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["audit", "--offline", str(MARKET), "--genesis", str(MARKET / "genesis.json")]
    assert main([*arguments, "-o", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {step["name"]: step["holds"] for step in answer["steps"]}["evidence"] is True
    assert answer["failures"] == []


@pytest.mark.parametrize(("version", "rules_version"), [(3, 2), (2, 3), (2, 1), (2, 4)])
def test_rules_go_with_the_form_of_their_bundle(version: int, rules_version: int) -> None:
    bundle = read_bundle(BUNDLES[0])
    score = bundle.score.model_copy(update={"rules_version": rules_version})
    findings = replay(bundle.model_copy(update={"version": version, "score": score}))
    assert "rules of this form" in [finding.what for finding in findings if finding.holds is False]


def test_rules_2_excuse_a_decline_and_rules_3_do_not() -> None:
    """The difference an auditor has to keep apart; only rules 3 have a name for it."""
    values = {}
    for rules, reason in ((2, RejectReason.NOT_MEASURED), (3, RejectReason.DECLINED)):
        first = recompute_score(rules, (proof(),), inspection(), None, None, None)
        declined = recompute_score(rules, (proof(reason, measured=0),), inspection(), first, None, None)
        values[rules] = (declined.part("compute").value_ppm, declined.gate)
    assert values == {2: (1_000_000, 1), 3: (0, 1)}


@pytest.mark.parametrize("seed", range(20))
def test_rules_3_go_on_like_rules_2_where_nobody_declines(seed: int) -> None:
    """Whatever happens in whatever order: draws, leases, silence, cheats, claims not met, containers that fail."""
    rng = random.Random(seed)
    old = new = None
    for epoch in range(40):
        proofs, draw = _proofs(rng), _draw(rng) if epoch else None
        looked = inspection(rng.choice(REASONS))
        old = version_2.ScoringSystem().calculate_score(proofs, looked, old, draw=draw)
        new = version_3.ScoringSystem().calculate_score(proofs, looked, new, draw=draw)
        assert _plain(new) == _plain(old)


def _proofs(rng: random.Random) -> tuple[ProofEvidence, ...]:
    return tuple(
        proof(rng.choice(REASONS), measured=rng.randint(0, CLAIM), device=device, kind=kind)
        for device in ("GPU-0", "GPU-1")[: rng.randint(1, 2)]
        for kind in ("pow", "matmul")
    )


def _draw(rng: random.Random) -> DrawEvidence:
    return DrawEvidence(proof_every=12, inspect_every=12, is_proven=rng.random() < 0.7, is_inspected=rng.random() < 0.7)


def _plain(score: ScoreRecord) -> ScoreRecord:
    """Leave out what differs: whose rules they are, in which words no memory was measured, and what only rules 3 keep."""
    parts = tuple(part.model_copy(update={"message": ""}) if part.name == "memory" else part for part in score.parts)
    plain = without_windows(score.model_copy(update={"rules_version": 0, "parts": parts}))
    assert plain is not None
    return plain
