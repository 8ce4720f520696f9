"""Bearer tokens for plain HTTP clients: given for a signed request, valid for a while, signed by rotatable secrets.

The secrets lie in one file, newest first: the first signs, all of them verify. Adding a line on top rotates.
"""

from __future__ import annotations

from pathlib import Path

from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer

from polarise.errors import ErrorCode, RequestRejected
from utils.crypto import new_secret, read_secret_file, write_secret_file

_SALT = "polarise/token/2"


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

    def issue(self, caller: str) -> str:
        """Return a token for the holder of a public key."""
        return str(self._serializer.dumps({"key": caller}))

    def check(self, token: str) -> str:
        """Return the public key a token was given to.

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
        return str(content["key"])


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
