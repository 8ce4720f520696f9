"""Nonces of signed requests, spent once and remembered across restarts for as long as a replay could pass.

Requests that come together are written together: sixteen devices that are told to start at one moment must not wait for
sixteen flushes of the disk one after another.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neurons.base.database import Database
from polarise.errors import ErrorCode, RequestRejected
from polarise.http_signatures import WINDOW_SECONDS, VerifiedRequest
from tlog.group_commit import GroupCommit

_SCHEMA = """
CREATE TABLE nonce (caller TEXT NOT NULL, nonce TEXT NOT NULL, created_unix_s INTEGER NOT NULL,
                    PRIMARY KEY (caller, nonce)) WITHOUT ROWID;
CREATE INDEX nonce_age ON nonce (created_unix_s)
"""


@dataclass(frozen=True, slots=True)
class _Spent:
    request: VerifiedRequest
    now_unix_s: int


class NonceStore(Database):
    """The spent nonces of one node."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA, version=1)
        self._commit: GroupCommit[_Spent, None] = GroupCommit(self._write)

    def spend(self, request: VerifiedRequest, now_unix_s: int) -> None:
        """Spend the nonce of a verified request, durably, and forget those too old to pass the clock check.

        Raises:
            RequestRejected: NONCE_REUSED (401); nothing was changed.
        """
        self._commit.submit(_Spent(request, now_unix_s))

    def _write(self, batch: Sequence[_Spent]) -> list[Exception | None]:
        oldest_unix_s = min(spent.now_unix_s for spent in batch) - 2 * WINDOW_SECONDS
        with self.transaction() as connection:
            connection.execute("DELETE FROM nonce WHERE created_unix_s < ?", (oldest_unix_s,))
            return [_insert(connection, spent.request) for spent in batch]


def _insert(connection: sqlite3.Connection, request: VerifiedRequest) -> RequestRejected | None:
    values = (request.caller, request.nonce, request.created_unix_s)
    try:
        connection.execute("INSERT INTO nonce VALUES (?, ?, ?)", values)
    except sqlite3.IntegrityError:
        return RequestRejected(
            ErrorCode.NONCE_REUSED,
            "this signed request was seen before",
            hint="sign every request anew, with a fresh nonce",
            field="Signature-Input",
            status=401,
        )
    return None
