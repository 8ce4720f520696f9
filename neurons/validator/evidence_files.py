"""Hands out evidence bundles by name: their exact bytes, and not before their epoch is finished.

Rules:
- A bundle holds the epoch's opening key, which would tell every miner its questions in advance; until the epoch is
  recorded it is refused, with the way to know when.
- Only names that a score rests on are served; a name never reaches the file system otherwise.
- A name is the SHA-256 of the bundle without its openings and without what was said of them, so bytes whose hash is the
  name hold neither.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from neurons.validator.metrics import MetricsHandler
from polarise.decode import decode_model
from polarise.errors import ErrorCode, RequestRejected, Unavailable
from polarise.evidence import MAX_BUNDLE_BYTES, EvidenceBundle

NAME_PATTERN = r"[0-9a-f]{64}"


class Openings(StrEnum):
    """What became of a bundle's openings."""

    PRESENT = "present"
    PRUNED = "pruned"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class ServedBundle:
    """One bundle.

    Attributes:
        raw: Its bytes as they lie on disk, canonical JSON.
        openings: Whether it holds openings, lost them after their retention, or never had any.
    """

    raw: bytes
    openings: Openings


class EvidenceFiles:
    """The bundles of one validator.

    Args:
        folder: Where they lie.
        metrics: Which of them belong to a finished epoch.
    """

    def __init__(self, folder: Path, metrics: MetricsHandler) -> None:
        self._folder = folder
        self._metrics = metrics

    def read(self, name: str) -> ServedBundle:
        """Return a bundle.

        Raises:
            RequestRejected: NOT_FOUND (404), no score rests on it; CONFLICT (409), its epoch is not finished.
            Unavailable: The file is gone or too large: this node's own fault.
        """
        kept = self._metrics.evidence(name) if re.fullmatch(NAME_PATTERN, name) else None
        if kept is None:
            raise RequestRejected(
                ErrorCode.NOT_FOUND,
                f"there is no evidence {name[:80]!r}",
                hint="GET /scores names the evidence of each score",
                field="name",
                status=404,
            )
        if not kept.is_finished:
            raise RequestRejected(
                ErrorCode.CONFLICT,
                f"epoch {kept.epoch} is not finished, and its evidence reveals the opening key",
                hint=f"ask again when GET /epochs shows epoch {kept.epoch} as finished",
                field="name",
                status=409,
            )
        raw = self._bytes(name)
        if hashlib.sha256(raw).hexdigest() == name:
            return ServedBundle(raw, Openings.PRUNED if kept.is_pruned else Openings.NONE)
        return ServedBundle(raw, Openings.PRUNED if kept.is_pruned and _says_gone(raw) else Openings.PRESENT)

    def _bytes(self, name: str) -> bytes:
        try:
            with (self._folder / f"{name}.json").open("rb") as handle:
                raw = handle.read(MAX_BUNDLE_BYTES + 1)
        except OSError as err:
            raise Unavailable(f"evidence {name} cannot be read: {err.strerror}", retry_after_seconds=60) from err
        if len(raw) > MAX_BUNDLE_BYTES:
            raise Unavailable(f"evidence {name} is larger than any bundle", retry_after_seconds=3600)
        return raw


def _says_gone(raw: bytes) -> bool:
    """Whether a bundle holds the word that its openings went early; what is no bundle, its reader will find out."""
    try:
        return decode_model(EvidenceBundle, raw, max_bytes=MAX_BUNDLE_BYTES).openings_gone is not None
    except RequestRejected:
        return False
