"""The cosignatures under the checkpoints of some logs, as the log's own side keeps them: bounded, the newest that count.

Rules:
- A witness goes forward: behind what it cosigned last nothing of it is taken, so that an old cosignature sent again
  changes nothing.
- Per log at most 16 witnesses and 32 checkpoints are kept. The witness that stayed behind furthest gives way, and the oldest
  checkpoint that a later one with as many cosignatures replaces: the newest of each strength always stays.
- What is kept here was verified by whoever hands it in.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from polarise.cosignature import MOST
from polarise.errors import ErrorCode, RequestRejected
from tlog.sqlite_file import connect, is_new

WITNESSES_MAX = 16
# More than the witnesses, so that there always is one to replace.
CHECKPOINTS_MAX = 32
VERSION = 1

_SCHEMA = """
CREATE TABLE cosignature (
    log TEXT, size INTEGER, witness TEXT, line TEXT NOT NULL, time_unix_s INTEGER NOT NULL,
    PRIMARY KEY (log, size, witness)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A cosignature that was verified.

    Attributes:
        size: Tree size of the checkpoint.
        line: The signature line with its line feed.
        time_unix_s: When it was made, by the witness's word.
    """

    size: int
    line: str
    time_unix_s: int


class Cosignatures:
    """The cosignatures of many logs in one file.

    Args:
        path: The file; made when missing.

    Raises:
        ConfigError: The file was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = connect(path)
        if is_new(self._connection, path, VERSION):
            self._connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._connection.close()

    def keep(self, log: str, witness: str, taken: Sequence[Cosignature]) -> None:
        """Keep what one witness cosigned, all or none; what is there already changes nothing.

        Raises:
            RequestRejected: STALE_CHECKPOINT (409), it goes back behind what this witness cosigned before.
        """
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for cosignature in taken:
                    self._keep(log, witness, cosignature)
                self._make_room(log)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def lines(self, log: str, size: int) -> list[str]:
        """Return the signature lines under one checkpoint, in the order of the witnesses."""
        rows = self._query("SELECT line FROM cosignature WHERE log = ? AND size = ? ORDER BY witness", log, size)
        return [line for (line,) in rows]

    def find(self, log: str, wanted: str, above: int = 0) -> int | None:
        """Return the size of a cosigned checkpoint, None when there is no such.

        Args:
            log: Which log.
            wanted: How many witnesses: the newest checkpoint with so many; `MOST` for the one with most, the newest of
                these.
            above: Only checkpoints larger than this.
        """
        counts = [(size, count) for size, count in self._counts(log) if size > above]
        if wanted == MOST:
            return max(counts, key=lambda item: (item[1], item[0]), default=(None, 0))[0]
        return max((size for size, count in counts if count >= int(wanted)), default=None)

    def newest(self, log: str) -> dict[str, Cosignature]:
        """Return the newest cosignature of each witness."""
        rows = self._query("SELECT witness, size, line, time_unix_s FROM cosignature WHERE log = ? ORDER BY size", log)
        return {witness: Cosignature(size, line, time_unix_s) for witness, size, line, time_unix_s in rows}

    def _keep(self, log: str, witness: str, new: Cosignature) -> None:
        newest = self._connection.execute(
            "SELECT size, time_unix_s FROM cosignature WHERE log = ? AND witness = ? ORDER BY size DESC LIMIT 1",
            (log, witness),
        ).fetchone()
        if newest is not None and (new.size, new.time_unix_s) < tuple(newest):
            raise RequestRejected(
                ErrorCode.STALE_CHECKPOINT,
                f"this witness cosigned size {newest[0]} before, got an older one of size {new.size}",
                hint="send the newest",
                field="cosignatures",
                status=409,
            )
        self._connection.execute(
            "INSERT OR REPLACE INTO cosignature VALUES (?, ?, ?, ?, ?)",
            (log, new.size, witness, new.line, new.time_unix_s),
        )

    def _make_room(self, log: str) -> None:
        witnesses = self._connection.execute(
            "SELECT witness FROM cosignature WHERE log = ? GROUP BY witness ORDER BY MAX(size) DESC, MAX(time_unix_s) DESC",
            (log,),
        ).fetchall()
        self._connection.executemany(
            "DELETE FROM cosignature WHERE log = ? AND witness = ?",
            [(log, witness) for (witness,) in witnesses[WITNESSES_MAX:]],
        )
        counts = self._connection.execute(
            "SELECT size, COUNT(*) FROM cosignature WHERE log = ? GROUP BY size ORDER BY size", (log,)
        ).fetchall()
        self._connection.executemany(
            "DELETE FROM cosignature WHERE log = ? AND size = ?", [(log, size) for size in replaced(counts)]
        )

    def _counts(self, log: str) -> list[tuple[int, int]]:
        rows = self._query("SELECT size, COUNT(*) FROM cosignature WHERE log = ? GROUP BY size ORDER BY size", log)
        return [(size, count) for size, count in rows]

    def _query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()


def replaced(counts: Sequence[tuple[int, int]]) -> list[int]:
    """Return the sizes to drop, oldest first, until `CHECKPOINTS_MAX` are left.

    Args:
        counts: (size, number of cosignatures) by rising size.
    """
    spare = [
        size for index, (size, count) in enumerate(counts) if any(later >= count for _, later in counts[index + 1 :])
    ]
    return spare[: max(len(counts) - CHECKPOINTS_MAX, 0)]
