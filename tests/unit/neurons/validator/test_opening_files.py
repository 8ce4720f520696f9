"""Openings between a wave and their bundle lie in files: the same bytes, the same name, and nothing of the round before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from challenges.hardware import HardwareTable
from neurons.validator.opening_files import CommitmentFile, OpeningFile, OpeningFolder
from neurons.validator.proof_trace import signed_bytes
from neurons.validator.rounds import proof_evidence
from neurons.validator.stamper import Stamper
from neurons.validator.verification import VerificationEngine
from neurons.validator.wave import Ask, Wave
from polarise.evidence import openings_digest
from polarise.registry import STATEMENT_KIND as ENTRY_KIND
from polarise.registry import RegistryEntry
from tests.support.proving_miner import CPU_WITH_MEMORY, entry_of, memory_challenge_of, proving_miner

OPENINGS: tuple[dict[str, object], ...] = ({"at": [0, 1], "leaf": "AAAA", "path": ""},)


@pytest.fixture
def folder(tmp_path: Path) -> OpeningFolder:
    return OpeningFolder(tmp_path / "openings")


def test_what_is_kept_is_read_under_the_digest_of_the_bundle(folder: OpeningFolder) -> None:
    kept = folder.keep("0" * 32, OPENINGS)
    assert kept.digest == openings_digest(OPENINGS) == hashlib.sha256(kept.path.read_bytes()).hexdigest()
    assert kept.read() == folder.read("0" * 32, kept.digest) == OPENINGS


@pytest.mark.parametrize("change", [b"", b"[]"])
def test_what_the_disk_changed_is_not_taken_for_evidence(folder: OpeningFolder, change: bytes) -> None:
    kept = folder.keep("0" * 32, OPENINGS)
    kept.path.write_bytes(change)
    with pytest.raises(OSError, match="not those that were written"):
        folder.read("0" * 32, kept.digest)


def test_a_round_begins_with_nothing_of_the_one_before(folder: OpeningFolder, tmp_path: Path) -> None:
    kept = folder.keep("0" * 32, OPENINGS)
    folder.clear()
    assert not kept.path.exists()
    folder.keep("1" * 32, OPENINGS)
    assert list((tmp_path / "openings").iterdir())
    OpeningFolder(tmp_path / "openings")
    assert not list((tmp_path / "openings").iterdir())


def test_openings_without_a_canonical_form_are_not_kept(folder: OpeningFolder) -> None:
    with pytest.raises(ValueError, match=r"integer|2\^53|canonical"):
        folder.keep("0" * 32, ({"at": [2**60]},))


@pytest.fixture
def engine() -> Iterator[VerificationEngine]:
    with VerificationEngine(HardwareTable.load()) as engine:
        yield engine


def test_the_checker_reads_the_file_and_the_proof_names_it(
    folder: OpeningFolder, engine: VerificationEngine, tmp_path: Path
) -> None:
    """Over HTTP; the daemon holds a path and a digest, and the bundle gets the openings when it is written."""
    _, challenge = memory_challenge_of(entry_of(devices=(CPU_WITH_MEMORY,)))
    with Stamper() as stamper, proving_miner(tmp_path, devices=(CPU_WITH_MEMORY,)) as miner:
        entry = entry_of(miner.endpoint, devices=(CPU_WITH_MEMORY,)).open(ENTRY_KIND, RegistryEntry)
        ask = Ask(entry, miner.client(timeout_seconds=60), challenge)
        Wave(stamper, openings=folder).run([ask])
    assert isinstance(ask.trace.openings, OpeningFile)
    assert isinstance(ask.trace.commitment, CommitmentFile)
    verdict = engine.verify_resources(challenge, ask.trace)
    assert verdict.reason is None
    proof = proof_evidence(challenge, ask.trace, verdict)
    assert (proof.openings, proof.openings_digest) == (None, ask.trace.openings.digest)
    assert proof.commitment is None
    assert ask.trace.positions == challenge.positions(signed_bytes(folder.read_commitment(proof.challenge_id)))
    assert openings_digest(folder.read(proof.challenge_id, ask.trace.openings.digest)) == proof.openings_digest
