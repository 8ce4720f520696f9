"""Nonces of signed requests, spent once and remembered across restarts for as long as a replay could pass."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from neurons.base.database import Database
from polarise.errors import ErrorCode, RequestRejected
from polarise.http_signatures import WINDOW_SECONDS, VerifiedRequest

_SCHEMA = """
CREATE TABLE nonce (caller TEXT NOT NULL, nonce TEXT NOT NULL, created_unix_s INTEGER NOT NULL,
                    PRIMARY KEY (caller, nonce)) WITHOUT ROWID;
CREATE INDEX nonce_age ON nonce (created_unix_s)
"""


class NonceStore(Database):
    """The spent nonces of one node."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA, version=1)

    def spend(self, request: VerifiedRequest, now_unix_s: int) -> None:
        """Spend the nonce of a verified request, durably, and forget those too old to pass the clock check.

        Raises:
            RequestRejected: NONCE_REUSED (401); nothing was changed.
        """
        try:
            with self.transaction() as connection:
                connection.execute("DELETE FROM nonce WHERE created_unix_s < ?", (now_unix_s - 2 * WINDOW_SECONDS,))
                connection.execute(
                    "INSERT INTO nonce VALUES (?, ?, ?)", (request.caller, request.nonce, request.created_unix_s)
                )
        except sqlite3.IntegrityError as err:
            raise RequestRejected(
                ErrorCode.NONCE_REUSED,
                "this signed request was seen before",
                hint="sign every request anew, with a fresh nonce",
                field="Signature-Input",
                status=401,
            ) from err
