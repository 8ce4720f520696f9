"""docs/ledger.md lists every route and every rule."""

from __future__ import annotations

import re

from config.loader import CHECKOUT
from ledger.rules import TABLE
from neurons.ledger.access_table import LEDGER_ACCESS

DOCUMENT = (CHECKOUT / "docs" / "ledger.md").read_text(encoding="utf-8")


def test_every_route_is_listed() -> None:
    rows = {f"{method} {re.sub(r'<[^>]+>', '{id}', rule)}" for method, rule in LEDGER_ACCESS}
    assert set(re.findall(r"`((?:GET|POST) /[^`]*)`", DOCUMENT)) == rows | {"GET /metrics"}


def test_every_rule_is_listed_with_what_it_asks() -> None:
    listed = dict(re.findall(r"^\| `(/[^`]+)` \| [^|]+ \| ([^|]+) \|$", DOCUMENT, re.MULTILINE))
    assert set(listed) == {rule.pattern for rule in TABLE}
    for rule in TABLE:
        text = listed[rule.pattern]
        assert text.startswith(rule.meaning)
        assert ("; once" in text, "epochs rise" in text) == (rule.is_once, rule.is_rising)
        assert rule.after is None or f"after {rule.after}" in text
