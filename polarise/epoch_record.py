"""What a validator puts on the ledger for an epoch: the commitment before, the scores and the record after it.

Rules:
- The record is small and holds roots; the scores stand beside it on the ledger, the evidence lies with the validator.
- The scores of one epoch fill as many pages as they need, each a value of its own that the ledger can take; the pages are
  written in order and before the record. Until rules 2 there was one sheet of 200 lines, and miners beyond it were left
  out; such epochs are read as they are.
- ``scores_root`` is the RFC 9162 root over the canonical bytes of the score lines, ``challenge_root`` the one over the
  hashes of the evidence bundles, both in the order of the lines: sorted by miner key.
- A root over nothing is the hash of the empty string, so that "none" and "not said" are not the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from polarise import merkle
from polarise.canonical import canonical_bytes
from polarise.decode import WireModel
from polarise.errors import RejectReason
from polarise.signing import KEY_PATTERN

STATEMENT_KIND = "epoch_record"
EPOCH_DIGITS = 10
LINES_MAX = 200
PAGE_DIGITS = 2
PAGES_MAX = 10**PAGE_DIGITS
# What is left of a transaction of 65,535 bytes when sender, certificate, signature and path have their part.
PAGE_BYTES_MAX = 60_000

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Ppm = Annotated[int, Field(ge=0, le=1_000_000)]


class ScoreLine(WireModel):
    """One miner's score in one epoch.

    Attributes:
        miner_key: Who was scored.
        score_ppm: Smoothed score after the gate; 1,000,000 is 100 points.
        raw_ppm: Before smoothing; None when nothing was measured.
        reasons: Why points are missing.
        evidence: Name of the evidence bundle.
        telemetry: SHA-256 of the newest signed checkpoint of the miner's log; None when none was read.
    """

    miner_key: str = Field(pattern=KEY_PATTERN)
    score_ppm: Ppm
    raw_ppm: Ppm | None
    reasons: tuple[RejectReason, ...]
    evidence: Hash
    telemetry: Hash | None = None


class WeighedLine(ScoreLine):
    """One miner's score and what it counts for; from rules 2 on.

    Attributes:
        worth_ppb: What its devices count for, in billionths of the reference card; see `neurons.validator.prices`.
        weight_ppm: Its share of the market in this epoch; all lines together have 1,000,000, or 0.
    """

    worth_ppb: Count
    weight_ppm: Ppm


class ScoreSheet(WireModel):
    """Value of ``/scores/<validator>/<epoch>``: all scores of one epoch by rules 1.

    Attributes:
        v: Version of the format.
        rules_version: Rules the scores were computed by.
        lines: Sorted by miner key, each once.
    """

    v: Literal[1] = 1
    rules_version: Count
    lines: tuple[ScoreLine, ...] = Field(max_length=LINES_MAX)


class ScorePage(WireModel):
    """Value of ``/scores/<validator>/<epoch>/<page>``.

    Attributes:
        v: Version of the format.
        rules_version: Rules the scores were computed by, the same on all pages.
        page: Its number, from 0; also the end of its path.
        lines: Sorted by miner key, each once, over all pages.
    """

    v: Literal[2] = 2
    rules_version: Count
    page: int = Field(ge=0, lt=PAGES_MAX)
    lines: tuple[WeighedLine, ...] = Field(max_length=LINES_MAX)


@dataclass(frozen=True, slots=True)
class EpochScores:
    """All scores of one epoch, however they stand on the ledger.

    Attributes:
        rules_version: Rules they were computed by.
        lines: Sorted by miner key, each once.
    """

    rules_version: int
    lines: tuple[ScoreLine, ...]

    @classmethod
    def of_pages(cls, pages: Sequence[ScorePage]) -> EpochScores:
        """Put the pages of an epoch together, in the order given.

        Raises:
            ValueError: There is none, they are not numbered from 0 on, or they name different rules.
        """
        numbers, rules = [page.page for page in pages], {page.rules_version for page in pages}
        if not pages or numbers != list(range(len(pages))):
            raise ValueError(f"the pages are {numbers}, expected 0 and those that follow it")
        if len(rules) > 1:
            raise ValueError(f"the pages are by different rules: {sorted(rules)}")
        return cls(rules.pop(), tuple(line for page in pages for line in page.lines))

    def root(self) -> str:
        """Return the scores root, 64 hex digits."""
        return merkle.root([canonical_bytes(line.to_wire()) for line in self.lines]).hex()


def pages_of(rules_version: int, lines: Iterable[WeighedLine]) -> tuple[ScorePage, ...]:
    """Spread lines over pages, each as full as the ledger takes it; one empty page where there are none.

    Raises:
        ValueError: They need more than 100 pages.
    """
    pages: list[list[WeighedLine]] = [[]]
    room = PAGE_BYTES_MAX
    for line in lines:
        size = len(canonical_bytes(line.to_wire())) + 1
        if size > room or len(pages[-1]) == LINES_MAX:
            pages.append([])
            room = PAGE_BYTES_MAX
        pages[-1].append(line)
        room -= size
    if len(pages) > PAGES_MAX:
        raise ValueError(f"the scores need {len(pages)} pages, an epoch has {PAGES_MAX} at most")
    return tuple(
        ScorePage(rules_version=rules_version, page=number, lines=tuple(page)) for number, page in enumerate(pages)
    )


class EpochCommit(WireModel):
    """Value of ``/epochs/<validator>/<epoch>/commit``, before any challenge leaves.

    Attributes:
        v: Version of the format.
        challenge_commit: Hash over epoch, opening key and miner set; see `challenges.draw`.
        miner_set_root: Root over the digests of the registry entries that will be examined, by node key.
        miners_count: How many they are.
        started_unix_ms: The validator's wall clock.
        proof_every: One epoch of about so many has a common window; bound here, before the beacon that draws. None until
            rules 3.
        inspect_every: A host is inspected in about one epoch of so many; 0 where nobody is. None until rules 3.
    """

    v: Literal[1] = 1
    challenge_commit: Hash
    miner_set_root: Hash
    miners_count: Count
    started_unix_ms: Count
    proof_every: int | None = Field(default=None, ge=1, le=1000)
    inspect_every: int | None = Field(default=None, ge=0, le=1000)


class EpochRecord(WireModel):
    """Body of the ``epoch_record`` statement that stands on ``/epochs/<validator>/<epoch>/record``.

    Attributes:
        v: Version of the format.
        net: Net id of the ledger.
        epoch: The validator's epoch number.
        validator_key: Who speaks; the statement's signer.
        status: Whether every miner of the set was examined, or the epoch was broken off.
        prev: Digest of the validator's record before; None for its first.
        started_unix_ms: As in the commit.
        finished_unix_ms: When the last miner was scored.
        miners_count: Miners that were scored.
        challenge_commit: As committed.
        beacon: Hash of the first block after the commit; None when none came.
        beacon_height: Its height.
        opening_key: What the commit hid; from now on everybody can recompute every draw.
        scores_root: Root of the score lines.
        challenge_root: Root of the hashes of the evidence bundles.
        telemetry_root: Root over the checkpoint hashes of the lines that have one.
        rules_version: Rules the scores were computed by.
        software: Version of the software.
        config_hash: SHA-256 of the validator's settings that decide an examination.
        uri: Where the evidence can be fetched.
    """

    v: Literal[1] = 1
    net: str = Field(max_length=64)
    epoch: Count
    validator_key: str = Field(pattern=KEY_PATTERN)
    status: Literal["complete", "broken_off"]
    prev: Hash | None
    started_unix_ms: Count
    finished_unix_ms: Count
    miners_count: Count
    challenge_commit: Hash
    beacon: Hash | None
    beacon_height: Count | None
    opening_key: Hash
    scores_root: Hash
    challenge_root: Hash
    telemetry_root: Hash
    rules_version: Count
    software: str = Field(max_length=40)
    config_hash: Hash
    uri: str = Field(max_length=300)


def evidence_root(names: Sequence[str]) -> str:
    """Return the root over hashes: names of evidence bundles, or of checkpoints; 64 hex digits."""
    return merkle.root([bytes.fromhex(name) for name in names]).hex()


def commit_path(validator_key: str, epoch: int) -> str:
    """Return where an epoch's commitment stands."""
    return f"/epochs/{validator_key}/{epoch_name(epoch)}/commit"


def record_path(validator_key: str, epoch: int) -> str:
    """Return where an epoch's record stands."""
    return f"/epochs/{validator_key}/{epoch_name(epoch)}/record"


def scores_path(validator_key: str, epoch: int) -> str:
    """Return where an epoch's only sheet of scores stood until rules 2; its pages stand below it."""
    return f"/scores/{validator_key}/{epoch_name(epoch)}"


def page_path(validator_key: str, epoch: int, page: int) -> str:
    """Return where one page of an epoch's scores stands."""
    return f"{scores_path(validator_key, epoch)}/{page:0{PAGE_DIGITS}d}"


def epoch_name(epoch: int) -> str:
    """Return an epoch as a path segment of fixed width, so that names sort as numbers do."""
    return f"{epoch:0{EPOCH_DIGITS}d}"
