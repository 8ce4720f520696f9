"""Bearer tokens for plain HTTP clients: given for a signed request, valid for a while, signed by rotatable secrets.

Rules:
- The secrets lie in one file, newest first: the first signs, all of them verify. Adding a line on top rotates.
- A token carries the consent it was asked for with, so that nothing has to be kept until it is used.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer

from polarise.decode import decode_model
from polarise.errors import ErrorCode, RequestRejected
from polarise.statement import SignedStatement
from utils.crypto import new_secret, read_secret_file, write_secret_file

_SALT = "polarise/token/2"


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says.

    Attributes:
        key: Whom it was given to.
        consent: The ``lease_consent`` statement that the request for it brought; see `polarise.rented`.
    """

    key: str
    consent: SignedStatement | None = None


class TokenIssuer:
    """Gives and checks tokens; a token names the caller's key, its role is looked up when it is used.

    Args:
        secrets: Newest first; at least one.
        expiry_seconds: Life of a token.
        node_key: The node that gives it; where an owner sets one secret for several nodes, a token opens one of them.
    """

    def __init__(self, secrets: list[str], expiry_seconds: int, node_key: str) -> None:
        # itsdangerous signs with the last of a list and verifies with any.
        self._serializer = URLSafeTimedSerializer(list(reversed(secrets)), salt=f"{_SALT}/{node_key}")
        self.expiry_seconds = expiry_seconds

    def issue(self, caller: str, consent: SignedStatement | None = None) -> str:
        """Return a token for the holder of a public key."""
        carried = {} if consent is None else {"consent": consent.to_wire()}
        return str(self._serializer.dumps({"key": caller, **carried}))

    def check(self, token: str) -> Token:
        """Return what a token of ours says.

        Raises:
            RequestRejected: TOKEN_EXPIRED or TOKEN_INVALID (401).
        """
        try:
            content = self._serializer.loads(token, max_age=self.expiry_seconds)
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
        if (consent := content.get("consent")) is None:
            return Token(content["key"])
        try:
            return Token(content["key"], decode_model(SignedStatement, json.dumps(consent).encode()))
        except RequestRejected as err:
            raise _invalid() from err


def load_token_secrets(path: Path, configured: str | None) -> list[str]:
    """Return the signing secrets, newest first; makes the file on the first start.

    Args:
        path: File of the node's own secrets, mode 0600.
        configured: ``security.secret_key``; put first when it is set.

    Raises:
        ConfigError: The file is readable by others.
    """
    if not path.exists():
        write_secret_file(path, new_secret())
    stored = [line for line in read_secret_file(path).decode("utf-8").splitlines() if line]
    return [configured, *stored] if configured else stored


def _invalid() -> RequestRejected:
    return RequestRejected(
        ErrorCode.TOKEN_INVALID,
        "the token was not given by this node, or its secret was rotated out",
        hint="get a new one: python main.py renter token",
        field="Authorization",
        status=401,
    )
