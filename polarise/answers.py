"""What a peer's answer is worth: a refusal becomes the error it was, a receipt is opened and compared.

Texts of a peer lose their control characters before they can reach a log or a terminal.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TypeVar

from pydantic import BaseModel

from polarise.decode import decode_json, decode_model
from polarise.errors import AnswerInvalid, ErrorCode, RequestRejected, Unavailable
from polarise.http_client import Response
from polarise.receipt import STATEMENT_KIND, Receipt
from polarise.signing import SignatureInvalid
from polarise.ssh_keys import fingerprint, parse_public_key
from polarise.statement import SignedStatement

MAX_ANSWER_BYTES = 1024 * 1024
MAX_REFUSAL_BYTES = 64 * 1024
RETRY_AFTER_SECONDS_MAX = 3600

AnswerT = TypeVar("AnswerT", bound=BaseModel)


def open_receipt(statement: SignedStatement, *, node_key: str, renter_key: str) -> Receipt:
    """Check that ``node_key`` signed a receipt for ``renter_key`` with a usable host key.

    Raises:
        AnswerInvalid: It did not, or the host key's fingerprint is another key's.
    """
    try:
        receipt = statement.open(STATEMENT_KIND, Receipt, signer=node_key)
        host_key = parse_public_key(receipt.host_key)
    except (SignatureInvalid, RequestRejected) as err:
        raise AnswerInvalid(f"the receipt does not hold: {err}") from err
    compare("node_key", receipt.node_key, node_key)
    compare("renter_key", receipt.renter_key, renter_key)
    compare("host_key", receipt.host_key, host_key)
    compare("host_key_fingerprint", receipt.host_key_fingerprint, fingerprint(host_key))
    return receipt


def refusal_of(status: int, retry_after: str | None, body: bytes) -> RequestRejected | Unavailable:
    """Turn an answer of 400 and above into the error it stands for; a code we do not know becomes INTERNAL."""
    try:
        decoded = decode_json(body, max_bytes=MAX_REFUSAL_BYTES)
    except RequestRejected:
        decoded = None
    parts = {str(key): value for key, value in decoded.items()} if isinstance(decoded, dict) else {}
    message = printable(parts.get("message")) or f"HTTP {status} without a reason"
    name = str(parts.get("code"))
    if status >= 500:
        return Unavailable(
            f"the miner answered {status}: {message}",
            retry_after_seconds=_retry_after(retry_after),
            code=ErrorCode(name) if name in ErrorCode.__members__ else ErrorCode.UNAVAILABLE,
        )
    code = ErrorCode(name) if name in ErrorCode.__members__ else ErrorCode.INTERNAL
    return RequestRejected(
        code,
        message,
        hint=printable(parts.get("hint")),
        field=printable(parts.get("field")) or None,
        status=status,
        retry_after_seconds=None if retry_after is None else _retry_after(retry_after),
    )


def decoded(model: type[AnswerT], response: Response) -> AnswerT:
    """Return the answer as a typed value.

    Raises:
        RequestRejected: The peer refused.
        Unavailable: The peer cannot answer now.
        AnswerInvalid: It answered with another shape.
    """
    raise_for_status(response)
    try:
        return decode_model(model, response.body, max_bytes=MAX_ANSWER_BYTES)
    except RequestRejected as err:
        raise AnswerInvalid(f"the answer is no {model.__name__}: {printable(err.message)}") from err


def raise_for_status(response: Response) -> None:
    """Raise what an answer of 400 and above stands for."""
    if response.status >= 400:
        raise refusal_of(response.status, response.headers.get("retry-after"), response.body)


def compare(name: str, got: object, expected: object) -> None:
    """Raise `AnswerInvalid` when an answer and its receipt disagree."""
    if got != expected:
        raise AnswerInvalid(f"{name} differs from the receipt: {printable(got)}, expected {printable(expected)}")


def unix_ms(text: str) -> int | None:
    """Return the instant an answer names, None when it names none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else round(moment.timestamp() * 1000)


def _retry_after(header: str | None) -> int:
    seconds = int(header) if header and re.fullmatch(r"\d{1,6}", header) else 5
    return max(1, min(seconds, RETRY_AFTER_SECONDS_MAX))


def printable(value: object, max_chars: int = 500) -> str:
    """Return a peer's text cut to so many characters, with ``?`` for everything that could steer a terminal."""
    text = "" if value is None else str(value)
    return "".join(character if character.isprintable() else "?" for character in text[:max_chars])
