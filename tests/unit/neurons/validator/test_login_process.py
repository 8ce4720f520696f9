"""What the login process printed is read like a stranger's words."""

from __future__ import annotations

import pytest

from neurons.validator.login_process import MAX_MESSAGE_BYTES, STARTED, LoginAnswer, decode_answer
from polarise.errors import ProofRejected, RejectReason
from polarise.evidence import VerdictRecord


def printed(output: str) -> bytes:
    return STARTED + LoginAnswer(login_ms=5, output=output, verdict=VerdictRecord()).model_dump_json().encode()


def test_an_answer_is_read() -> None:
    assert decode_answer(printed("AAEC"), "it ended").output == "AAEC"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", RejectReason.NOT_MEASURED),
        (b"Traceback", RejectReason.NOT_MEASURED),
        (STARTED, RejectReason.SSH_FAILED),
        (STARTED + b"{}", RejectReason.SSH_FAILED),
        (printed("AAE"), RejectReason.SSH_FAILED),
        (printed("é"), RejectReason.SSH_FAILED),
        (printed("A" * MAX_MESSAGE_BYTES), RejectReason.SSH_FAILED),
    ],
)
def test_anything_else_is_a_verdict(raw: bytes, reason: RejectReason) -> None:
    with pytest.raises(ProofRejected, match="it ended") as caught:
        decode_answer(raw, "it ended")
    assert caught.value.reason is reason
