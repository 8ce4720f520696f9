"""Targets: commitments and openings from the wire, what the probe printed, and bundles of evidence."""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from challenges.draw import ChallengeKind
from challenges.hardware import HardwareTable
from challenges.matmul_messages import (
    LEAF_BYTES_MAX,
    MatmulCommitment,
    MatmulParams,
    TileOpening,
    TilePosition,
    openings_from_wire,
)
from challenges.pow_messages import PowCommitment, PowParams
from challenges.pow_solver import NumpyPowBackend
from challenges.proofs import MatmulProver, PowProver, Work, read_params
from challenges.solver import NumpyBackend
from challenges.wire import decode_base64, fields_of, list_of
from neurons.validator.challenges import Challenge
from neurons.validator.findings import MAX_OUTPUT_BYTES, check_findings, decode_findings
from neurons.validator.proof_trace import ProofTrace, check_commitment, signed_bytes
from neurons.validator.replay import replay
from neurons.validator.rounds import proof_evidence
from neurons.validator.scoring import ScoringSystem
from neurons.validator.verification import check_answer, judge
from polarise.answers import MAX_ANSWER_BYTES
from polarise.canonical import canonical_bytes
from polarise.decode import MAX_BODY_BYTES, decode_json, decode_model
from polarise.errors import ProofRejected, RequestRejected, SubnetError
from polarise.evidence import (
    MAX_BUNDLE_BYTES,
    DrawEvidence,
    EvidenceBundle,
    InspectionEvidence,
    ProofEvidence,
    RoundEvidence,
    VerdictRecord,
    read_bundle,
)
from polarise.messages import CommitmentBody
from polarise.openings import GoneReason, thrown_away
from polarise.statement import SignedStatement, sign_statement
from tests.fuzz.target import MEMORY_BASE_BYTES, Call, Target, plain, text_of
from tests.support.evidence import LIMITS, findings_wire, receipt, receipt_statement
from tests.support.proving_miner import BEACON_BLOCK, MINER, VALIDATOR, challenges_of, entry_of

PARAMS = MatmulParams(n=256, rounds=2, tile=64, openings=2)
RECEIPT = receipt()
EVERYBODY = DrawEvidence(proof_every=1, inspect_every=1, is_proven=True, is_inspected=True, is_common=True)
OPENING = TileOpening(TilePosition(0, 1, 2), bytes(32), (bytes(32), bytes(32)))


@functools.cache
def challenge(kind: ChallengeKind) -> Challenge:
    """What the miner's only device is asked."""
    _, pow_challenge, matmul_challenge = challenges_of(entry_of())
    return pow_challenge if kind is ChallengeKind.POW else matmul_challenge


@functools.cache
def work(kind: ChallengeKind) -> Work:
    """What an honest device answers."""
    asked = challenge(kind)
    if isinstance(asked.params, MatmulParams):
        matmul = MatmulProver(asked.params, NumpyBackend())
        matmul.prepare()
        return matmul.solve(asked.seed)
    assert isinstance(asked.params, PowParams)
    pow_prover = PowProver(asked.params, NumpyPowBackend(lanes=4096, calls=1))
    pow_prover.prepare()
    return pow_prover.solve(asked.seed)


@functools.cache
def commitment(kind: ChallengeKind) -> SignedStatement:
    """The miner's signed commitment."""
    asked = challenge(kind)
    proof = work(kind).commitment.to_wire()
    body = CommitmentBody(challenge_id=asked.challenge_id, device="cpu", seed=asked.seed.hex(), proof=proof)
    return sign_statement(MINER, "commitment", body)


@functools.cache
def openings() -> list[dict[str, object]]:
    """The openings of the matmul proof."""
    asked = challenge(ChallengeKind.MATMUL)
    positions = asked.positions(signed_bytes(commitment(ChallengeKind.MATMUL)))
    return [opening.to_wire() for opening in work(ChallengeKind.MATMUL).open(positions)]


@functools.cache
def bundle() -> EvidenceBundle:
    """An honest proof of each kind and one kept promise."""
    statement = entry_of()
    secret, *_ = challenges_of(statement)
    proofs = tuple(_evidence(kind) for kind in (ChallengeKind.POW, ChallengeKind.MATMUL))
    inspection = InspectionEvidence(
        asked_memory_bytes=LIMITS.memory_bytes,
        asked_cpu_milli=LIMITS.cpu_milli,
        receipt=receipt_statement(),
        findings=decode_findings(json.dumps(findings_wire()).encode()).model_dump(mode="json"),
        verdict=VerdictRecord(),
    )
    return EvidenceBundle(
        epoch=secret.epoch,
        examined_unix_ms=1,
        validator_key=VALIDATOR.public_key,
        miner_key=MINER.public_key,
        registry=statement,
        target_seconds=1,
        opening_key=secret.opening_key.hex(),
        miner_set_root=secret.miner_set_root.hex(),
        challenge_commit=secret.commit.hex(),
        beacon_block=BEACON_BLOCK,
        proofs=proofs,
        inspection=inspection,
        previous=None,
        score=ScoringSystem().calculate_score(proofs, inspection, None, draw=EVERYBODY),
        draw=EVERYBODY,
        round=RoundEvidence(attempt=0, devices_count=1, missing_count=0),
        retention_hours=48,
    )


@functools.cache
def bundles() -> list[bytes]:
    """A bundle with its openings, and one that lost them before their time."""
    lost = thrown_away(VALIDATOR, bundle(), GoneReason.ROOM, 1)
    return [canonical_bytes(made.to_wire()) for made in (bundle(), lost)]


def _evidence(kind: ChallengeKind) -> ProofEvidence:
    asked, statement = challenge(kind), commitment(kind)
    positions = asked.positions(signed_bytes(statement)) if kind is ChallengeKind.MATMUL else ()
    shown = tuple(openings()) if positions else None
    trace = ProofTrace(1_000_000, 200_000_000, 201_000_000, statement, positions, shown)
    return proof_evidence(asked, trace, judge(asked, HardwareTable.load(), trace))


def _json(raw: bytes) -> object:
    """Return what a frozen model would hand on; numbers that only Python writes are let through here."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return text_of(raw)


def _wire(raw: bytes) -> None:
    value = _json(raw)
    for decode in (
        lambda: fields_of(value, ("at", "leaf")),
        lambda: list_of("list", value),
        lambda: decode_base64("text", value, 4096),
    ):
        with contextlib.suppress(ProofRejected):
            decode()


def _params(raw: bytes) -> None:
    value = _json(raw)
    if isinstance(value, Mapping):
        for kind in (ChallengeKind.POW, ChallengeKind.MATMUL):
            with contextlib.suppress(ValueError):
                read_params(kind, cast(Mapping[str, object], value))


def _answer(raw: bytes) -> None:
    """Check openings as the checker process does; what they are is anything the wire can carry."""
    asked, statement = challenge(ChallengeKind.MATMUL), commitment(ChallengeKind.MATMUL)
    roots = check_commitment(asked, statement)
    check_answer(asked.params, asked.seed, roots, asked.positions(signed_bytes(statement)), _json(raw))


def _commitment(raw: bytes) -> None:
    """Sign any proof as a miner that cheats would, and check the commitment and the shares."""
    proof = decode_json(raw, max_bytes=MAX_ANSWER_BYTES)
    if not isinstance(proof, dict):
        return
    for kind in (ChallengeKind.POW, ChallengeKind.MATMUL):
        asked = challenge(kind)
        try:
            body = CommitmentBody(challenge_id=asked.challenge_id, device="cpu", seed=asked.seed.hex(), proof=proof)
            statement = sign_statement(MINER, "commitment", body)
        except (ValueError, SubnetError):
            continue  # nobody can sign it
        with contextlib.suppress(ProofRejected):
            checked = check_commitment(asked, statement)
            if kind is ChallengeKind.POW:
                check_answer(asked.params, asked.seed, checked, (), None)


def _findings(raw: bytes) -> object:
    found = decode_findings(raw)
    with contextlib.suppress(ProofRejected):
        check_findings(found.model_copy(update={"chain": _chain()}), RECEIPT)
    return found


@functools.cache
def _chain() -> str:
    return str(findings_wire()["chain"])


def _replayed(raw: bytes) -> None:
    # What an audit answers for a bundle that cannot be recomputed; see `neurons.validator.audit.bundles`.
    with contextlib.suppress(ArithmeticError, LookupError, ValueError, SubnetError):
        replay(decode_model(EvidenceBundle, raw, max_bytes=MAX_BUNDLE_BYTES))


@contextlib.contextmanager
def _bundle_file() -> Iterator[Call]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle.json"

        def call(raw: bytes) -> object:
            path.write_bytes(raw)
            return read_bundle(path)

        yield call


def _wired(value: object) -> bytes:
    return json.dumps(value).encode()


TARGETS = (
    Target(
        "challenges.matmul_messages.MatmulCommitment.from_wire",
        plain(lambda raw: MatmulCommitment.from_wire(_json(raw))),
        lambda: [_wired(MatmulCommitment((bytes(32), b"\xff" * 32)).to_wire())],
        (ProofRejected,),
        MAX_ANSWER_BYTES,
        encode=lambda value: _wired(cast(MatmulCommitment, value).to_wire()),
    ),
    Target(
        "challenges.matmul_messages.TileOpening.from_wire",
        plain(lambda raw: TileOpening.from_wire(_json(raw))),
        lambda: [_wired(OPENING.to_wire())],
        (ProofRejected,),
        2 * LEAF_BYTES_MAX,
        encode=lambda value: _wired(cast(TileOpening, value).to_wire()),
    ),
    Target(
        "challenges.matmul_messages.openings_from_wire",
        plain(lambda raw: openings_from_wire(PARAMS, _json(raw))),
        lambda: [_wired([OPENING.to_wire()] * 2)],
        (ProofRejected,),
        MAX_ANSWER_BYTES,
        encode=lambda value: _wired([opening.to_wire() for opening in cast(tuple[TileOpening, ...], value)]),
    ),
    Target(
        "challenges.pow_messages.PowCommitment.from_wire",
        plain(lambda raw: PowCommitment.from_wire(_json(raw))),
        lambda: [_wired(PowCommitment((1, 2, 2**64 - 1)).to_wire())],
        (ProofRejected,),
        MAX_ANSWER_BYTES,
        encode=lambda value: _wired(cast(PowCommitment, value).to_wire()),
    ),
    Target(
        "challenges.wire.fields_of",
        plain(_wire),
        lambda: [b'{"at":[],"leaf":""}', b'"AAEC"', b"[1]"],
        (),
        MAX_ANSWER_BYTES,
        covers=("challenges.wire.list_of", "challenges.wire.decode_base64"),
    ),
    Target(
        "challenges.proofs.read_params",
        plain(_params),
        lambda: [b'{"n":256,"rounds":1,"tile":64,"openings":1}', b'{"shares":16,"difficulty":1,"slot":0}'],
        (),
        MAX_BODY_BYTES,
    ),
    Target(
        "neurons.validator.proof_trace.check_commitment",
        plain(_commitment),
        lambda: [_wired(work(kind).commitment.to_wire()) for kind in (ChallengeKind.POW, ChallengeKind.MATMUL)],
        (RequestRejected,),
        MAX_ANSWER_BYTES,
        weight=4,
    ),
    Target(
        "neurons.validator.verification.check_answer",
        plain(_answer),
        lambda: [_wired(openings())],
        (),
        MAX_ANSWER_BYTES,
        memory_base_bytes=8 * 1024 * 1024,
        calls_base=200_000,
        weight=8,
    ),
    Target(
        "neurons.validator.findings.decode_findings",
        plain(_findings),
        lambda: [_wired(findings_wire()), _wired(findings_wire(memory=None, swap_bytes=None, cgroup_version=2))],
        (ProofRejected,),
        MAX_OUTPUT_BYTES,
        covers=("neurons.validator.findings.check_findings",),
        calls_base=500_000,
        weight=8,
    ),
    Target(
        "polarise.evidence.read_bundle",
        _bundle_file,
        bundles,
        (RequestRejected,),
        MAX_BUNDLE_BYTES,
        covers=("polarise.evidence.openings_digest",),
        # The file is read into a buffer as large as any.
        memory_base_bytes=MAX_BUNDLE_BYTES + MEMORY_BASE_BYTES,
        weight=8,
    ),
    Target(
        "neurons.validator.replay.replay",
        plain(_replayed),
        bundles,
        (RequestRejected,),
        MAX_BUNDLE_BYTES,
        covers=("polarise.openings.word_of",),
        memory_base_bytes=8 * 1024 * 1024,
        calls_base=400_000,
        weight=25,
    ),
)
