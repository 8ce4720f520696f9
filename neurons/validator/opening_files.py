"""Commitments, openings and excuses on their way from the wave that got them to the bundle that keeps them: a file each, no memory.

Rules:
- A window of 1,000 devices has 300 MB of openings, tiles and blocks together, which nobody needs but the checker of each
  and, once, its bundle. Only those that are just coming in are in memory, 256 at most.
- An excuse has some kilobytes, decoded twenty times as many, and each device of a miner that wants to fill this memory can
  show one per kind of proof, that holds or not.
- A commitment takes up to half a megabyte of memory, by sizes that follow from a claim: 17 devices of 1,000 miners, 9 GB.
- A file holds the canonical bytes whose SHA-256 the bundle names. It is written whole and read by the checker itself.
- Nothing here outlives its round: a new round, and a new start, begin with an empty folder. What is kept is the bundle.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polarise.canonical import canonical_bytes
from polarise.excuse import Excuse
from polarise.statement import SignedStatement

Openings = tuple[dict[str, object], ...]


@dataclass(frozen=True, slots=True)
class OpeningFile:
    """The openings of one proof.

    Attributes:
        path: Where they are, while the round lasts.
        digest: SHA-256 of the file, as `polarise.evidence.openings_digest` makes it.
    """

    path: Path
    digest: str

    def read(self) -> Openings:
        """Return them.

        Raises:
            OSError: The file is gone.
        """
        return tuple(json.loads(self.path.read_bytes()))


@dataclass(frozen=True, slots=True)
class ExcuseFile:
    """What a device showed instead of a proof.

    Attributes:
        path: Where it is, while the round lasts.
    """

    path: Path


@dataclass(frozen=True, slots=True)
class CommitmentFile:
    """The signed commitment of one proof.

    Attributes:
        path: Where it is, while the round lasts.
    """

    path: Path

    def read(self) -> SignedStatement:
        """Return it.

        Raises:
            OSError: The file is gone.
        """
        return SignedStatement.model_validate_json(self.path.read_bytes(), strict=True)


class OpeningFolder:
    """The files of one validator's round.

    Args:
        folder: Its own; whatever is in it is removed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.clear()

    def clear(self) -> None:
        """Begin a round."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def keep(self, challenge_id: str, openings: Sequence[dict[str, object]]) -> OpeningFile:
        """Write the openings of one proof.

        Raises:
            ValueError: They have no canonical form.
            OSError: They cannot be written.
        """
        raw = canonical_bytes(list(openings))  # type: ignore[arg-type]  # came through JSON, so it is JSON
        path = self._path(challenge_id)
        path.write_bytes(raw)
        return OpeningFile(path, hashlib.sha256(raw).hexdigest())

    def read(self, challenge_id: str, digest: str) -> Openings:
        """Return the openings of one proof.

        Raises:
            OSError: They are not there, or are others: the disk lost them, and no bundle can keep them.
        """
        raw = self._path(challenge_id).read_bytes()
        if hashlib.sha256(raw).hexdigest() != digest:
            raise OSError(f"the openings in {self._path(challenge_id)} are not those that were written")
        return tuple(json.loads(raw))

    def keep_commitment(self, challenge_id: str, raw: bytes) -> CommitmentFile:
        """Write a signed commitment, in canonical form.

        Raises:
            OSError: It cannot be written.
        """
        kept = CommitmentFile(self._commitment_path(challenge_id))
        kept.path.write_bytes(raw)
        return kept

    def read_commitment(self, challenge_id: str) -> SignedStatement:
        """Return a commitment.

        Raises:
            OSError: It is not there: the disk lost it, and no bundle can keep it.
        """
        return CommitmentFile(self._commitment_path(challenge_id)).read()

    def keep_excuse(self, challenge_id: str, raw: bytes) -> ExcuseFile:
        """Write what a device showed, in canonical form.

        Raises:
            OSError: It cannot be written.
        """
        path = self._excuse_path(challenge_id)
        path.write_bytes(raw)
        return ExcuseFile(path)

    def read_excuse(self, challenge_id: str) -> Excuse:
        """Return what a device showed.

        Raises:
            OSError: It is not there: the disk lost it, and no bundle can keep it.
        """
        return Excuse.model_validate_json(self._excuse_path(challenge_id).read_bytes(), strict=True)

    def drop(self, challenge_id: str) -> None:
        """Remove what is here of one proof, whose bundle is written."""
        self._path(challenge_id).unlink(missing_ok=True)
        self._excuse_path(challenge_id).unlink(missing_ok=True)
        self._commitment_path(challenge_id).unlink(missing_ok=True)

    def _commitment_path(self, challenge_id: str) -> Path:
        return self._folder / f"{challenge_id}.commitment.json"

    def _excuse_path(self, challenge_id: str) -> Path:
        return self._folder / f"{challenge_id}.excuse.json"

    def _path(self, challenge_id: str) -> Path:
        return self._folder / f"{challenge_id}.json"
