"""The check of our clients' exchanges finds what the document does not announce, by the least that can differ."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema_rs
import pytest

from neurons.base.openapi_routes import document_text
from neurons.openapi import DOCUMENTS
from tests.api.recorder import DocumentCheck, Recorded

CHECK = DocumentCheck(json.loads(document_text(DOCUMENTS["ledger"]())))
ANSWER = {"status": "success", "old": 1, "new": 2, "hashes": []}
SOUND = Recorded("GET", "/consistency?old=1&new=2", {}, b"", 200, "application/json", json.dumps(ANSWER).encode())


def test_sound_exchange_passes() -> None:
    CHECK.check(SOUND)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(SOUND, target="/consistence?old=1&new=2"),
        replace(SOUND, method="POST"),
        replace(SOUND, target="/consistency?new=2"),
        replace(SOUND, target="/consistency?old=1&new=2&most=3"),
        replace(SOUND, target="/consistency?old=-1&new=2"),
        replace(SOUND, headers={"Idempotency-Key": "a"}),
        replace(SOUND, method="POST", target="/submit", headers={"Content-Type": "application/json"}, body=b"{}"),
        replace(SOUND, method="POST", target="/submit"),
        replace(SOUND, target="/metrics"),
        replace(SOUND, status=418),
        replace(SOUND, content_type="text/html"),
        replace(SOUND, answer=json.dumps({**ANSWER, "more": 1}).encode()),
        replace(SOUND, answer=json.dumps({**ANSWER, "new": "2"}).encode()),
        replace(SOUND, status=400),
    ],
    ids=str,
)
def test_exchange_that_is_not_announced_is_found(wrong: Recorded) -> None:
    with pytest.raises((AssertionError, KeyError, jsonschema_rs.ValidationError)):
        CHECK.check(wrong)
