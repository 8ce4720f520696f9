"""Bearer tokens for plain HTTP clients: given for a signed request, valid for a while, signed by rotatable secrets.

Rules:
- The secrets lie in one file, newest first: the first signs. One that was replaced verifies until the last token it signed has
  expired, then no more, also in a process that runs on: who stole it signs nothing with it afterwards.
- A token carries the consent it was asked for with, so that nothing has to be kept until it is used.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer

from polarise.decode import decode_model
from polarise.errors import ConfigError, ErrorCode, RequestRejected
from polarise.statement import SignedStatement
from utils.crypto import new_secret, read_secret_file, write_secret_file

_SALT = "polarise/token/2"


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says.

    Attributes:
        key: Whom it was given to.
        consent: The ``lease_consent`` statement that the request for it brought; see `polarise.rented`.
        counter: Generation of the request subkey that asked for it: the token is worth nothing once that is revoked.
    """

    key: str
    consent: SignedStatement | None = None
    counter: int = 0


@dataclass(frozen=True, slots=True)
class TokenSecret:
    """One line of the file.

    Attributes:
        text: The secret.
        until_unix_s: When it stops to verify; None for one that was not replaced.
    """

    text: str = field(repr=False)
    until_unix_s: int | None = None


class TokenIssuer:
    """Gives and checks tokens; a token names the caller's key, its role is looked up when it is used.

    Args:
        secrets: Newest first; at least one.
        expiry_seconds: Life of a token.
        node_key: The node that gives it; where an owner sets one secret for several nodes, a token opens one of them.
    """

    def __init__(self, secrets: Sequence[TokenSecret], expiry_seconds: int, node_key: str) -> None:
        salt = f"{_SALT}/{node_key}"
        self._serializers = [
            (URLSafeTimedSerializer(secret.text, salt=salt), secret.until_unix_s) for secret in secrets
        ]
        self.expiry_seconds = expiry_seconds

    def issue(self, caller: str, consent: SignedStatement | None = None, counter: int = 0) -> str:
        """Return a token for the holder of a public key, who asked with its request subkey of this generation."""
        carried = {} if consent is None else {"consent": consent.to_wire()}
        return str(self._serializers[0][0].dumps({"key": caller, "counter": counter, **carried}))

    def check(self, token: str) -> Token:
        """Return what a token of ours says.

        Raises:
            RequestRejected: TOKEN_EXPIRED or TOKEN_INVALID (401).
        """
        try:
            content = self._loaded(token)
        except SignatureExpired as err:
            raise RequestRejected(
                ErrorCode.TOKEN_EXPIRED,
                f"the token is older than {self.expiry_seconds} s",
                hint="get a new one: python main.py renter token",
                field="Authorization",
                status=401,
            ) from err
        except BadSignature as err:
            raise _invalid() from err
        if not isinstance(content, dict) or not isinstance(content.get("key"), str):
            raise _invalid()
        counter = content.get("counter", 0)
        if type(counter) is not int:
            raise _invalid()
        if (consent := content.get("consent")) is None:
            return Token(content["key"], counter=counter)
        try:
            return Token(content["key"], decode_model(SignedStatement, json.dumps(consent).encode()), counter)
        except RequestRejected as err:
            raise _invalid() from err

    def _loaded(self, token: str) -> object:
        for serializer, until_unix_s in self._serializers:
            if until_unix_s is None or time.time() < until_unix_s:
                try:
                    return serializer.loads(token, max_age=self.expiry_seconds)
                except SignatureExpired:
                    raise
                except BadSignature:
                    continue
        raise BadSignature("no secret of this node signed it")


def load_token_secrets(path: Path, configured: str | None) -> list[TokenSecret]:
    """Return the signing secrets, newest first; makes the file on the first start.

    Args:
        path: File of the node's own secrets, mode 0600.
        configured: ``security.secret_key``; put first when it is set.

    Raises:
        ConfigError: The file is readable by others, or holds something else.
    """
    if not path.exists():
        write_secret_file(path, new_secret())
    stored = _stored(path)
    return [TokenSecret(configured), *stored] if configured else stored


def rotate_token_secret(path: Path, now_unix_s: int, expiry_seconds: int, *, keep_old: bool = True) -> None:
    """Put a new secret on top; the others verify until what they signed has expired, and those that have go.

    The file is replaced in one step: whatever ends the process, the old one or the new one is there, whole.

    Raises:
        ConfigError: As `load_token_secrets`.
    """
    stored = _stored(path) if path.exists() and keep_old else []
    ends = [secret.until_unix_s or now_unix_s + expiry_seconds for secret in stored]
    kept = [f"{secret.text} {end}" for secret, end in zip(stored, ends, strict=True) if end > now_unix_s]
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    write_secret_file(temporary, "\n".join([new_secret(), *kept]))
    temporary.replace(path)


def _stored(path: Path) -> list[TokenSecret]:
    found = []
    for line in read_secret_file(path).decode("utf-8").splitlines():
        text, _, end = line.partition(" ")
        if end and not re.fullmatch(r"[0-9]{1,12}", end):
            raise ConfigError(
                "a line is no secret",
                origin=str(path),
                allowed="a secret, then a space and the time it ends; or remove the file, and tokens with it",
            )
        if text:
            found.append(TokenSecret(text, int(end) if end else None))
    return found


def _invalid() -> RequestRejected:
    return RequestRejected(
        ErrorCode.TOKEN_INVALID,
        "the token was not given by this node, or its secret was rotated out",
        hint="get a new one: python main.py renter token",
        field="Authorization",
        status=401,
    )
