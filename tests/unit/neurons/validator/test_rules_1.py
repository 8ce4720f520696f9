"""What was scored by rules 1 keeps its name, its form and its score: a market of two epochs, made by the software of then.

It was made by `tests.support.audited_market.make_market` at commit 10581f7 and downloaded with `audit --download`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neurons.cli import main
from neurons.validator.replay import replay
from neurons.validator.scoring import KNOWN_VERSIONS, RulesUnknown, recompute_score
from polarise.canonical import canonical_bytes
from polarise.errors import RejectReason, RequestRejected
from polarise.evidence import read_bundle

MARKET = Path(__file__).parents[3] / "fixtures" / "rules_1"
BUNDLES = sorted((MARKET / "evidence").iterdir())
Wire = dict[str, Any]


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: str(path.stem[:8]))
def test_bundle_keeps_its_bytes_its_name_and_its_score(path: Path) -> None:
    bundle = read_bundle(path)
    assert bundle.version == bundle.score.rules_version == 1
    assert canonical_bytes(bundle.to_wire()) == path.read_bytes()
    assert bundle.digest() == path.stem
    assert bundle.without_openings().digest() == path.stem
    assert False not in [finding.holds for finding in replay(bundle)]
    assert all(proof.verdict.is_passed for proof in bundle.proofs)


def test_whole_market_audits_clean(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["audit", "--offline", str(MARKET), "--genesis", str(MARKET / "genesis.json")]
    assert main([*arguments, "-o", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {step["name"]: step["holds"] for step in answer["steps"]}["evidence"] is True
    assert answer["failures"] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("draw",), {"proof_every": 12, "inspect_every": 1, "is_proven": True, "is_inspected": True}),
        (("round",), {"attempt": 0, "devices_count": 1, "missing_count": 0}),
        (("proofs", 0, "attempt"), 1),
        (("proofs", 0, "started_after_ns"), 1),
        (("score", "undrawn_count"), 1),
        (("score", "uninspected_count"), 1),
        (("score", "parts", 0, "standing"), "MISSING"),
        (("score", "parts", 0, "smoothed_ppm"), 1),
        (("score", "parts", 0, "devices", 0, "standing"), "MISSING"),
        (("previous", "undrawn_count"), 1),
    ],
)
def test_old_bundle_that_says_what_only_a_newer_one_can_is_refused(
    path: tuple[str | int, ...], value: object, tmp_path: Path
) -> None:
    """Its name does not cover it, so anybody could write it there."""
    wire: Wire = next(wire for wire in map(_wire, BUNDLES) if wire["previous"] is not None)
    node: Any = wire
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    changed = tmp_path / "bundle.json"
    changed.write_text(json.dumps(wire))
    with pytest.raises(RequestRejected, match="version 1"):
        read_bundle(changed)


@pytest.mark.parametrize(("version", "rules_version"), [(2, 1), (3, 1), (1, 2), (1, 3), (1, 0)])
def test_rules_go_with_the_form_of_their_bundle(version: int, rules_version: int) -> None:
    bundle = read_bundle(BUNDLES[0])
    score = bundle.score.model_copy(update={"rules_version": rules_version})
    findings = replay(bundle.model_copy(update={"version": version, "score": score}))
    assert "rules of this form" in [finding.what for finding in findings if finding.holds is False]


def test_rules_that_nobody_knows_are_named() -> None:
    assert 4 not in KNOWN_VERSIONS
    with pytest.raises(RulesUnknown, match="by rules 4, this software has 1, 2, 3"):
        recompute_score(4, (), None, None, None, None)


def test_rules_1_let_a_caught_miner_go_after_one_epoch_and_later_ones_do_not() -> None:
    """The difference an auditor has to keep apart."""
    bundle = read_bundle(BUNDLES[0])
    caught = bundle.proofs[0].model_copy(
        update={"verdict": bundle.proofs[0].verdict.model_copy(update={"reason": RejectReason.SHARE_INVALID})}
    )
    busy = tuple(
        proof.model_copy(update={"verdict": proof.verdict.model_copy(update={"reason": RejectReason.NOT_MEASURED})})
        for proof in bundle.proofs
    )
    gates = {}
    for rules in KNOWN_VERSIONS:
        first = recompute_score(rules, (caught, bundle.proofs[1]), None, None, None, None)
        gates[rules] = (first.gate, recompute_score(rules, busy, None, first, None, None).gate)
    assert gates == {1: (0, 1), 2: (0, 0), 3: (0, 0)}


def _wire(path: Path) -> Wire:
    wire: Wire = json.loads(path.read_bytes())
    return wire
