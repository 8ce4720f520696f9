"""One door for all kinds of proof: what a solver process does with it, for each kind alike."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from challenges import matmul, memory, proofs
from challenges import pow as proof_of_work
from challenges.draw import ChallengeKind
from challenges.matmul import MatmulCommitment, MatmulParams
from challenges.memory import MemoryParams
from challenges.memory_backends import NumpyMemoryBackend
from challenges.memory_solver import MemoryProver
from challenges.pow import PowCommitment, PowParams
from challenges.pow_solver import NumpyPowBackend
from challenges.solver import NumpyBackend, SolveStopped

SEED = bytes(range(32))
MATMUL = MatmulParams(n=64, rounds=3, tile=64, openings=1)
POW = PowParams(shares=16, difficulty=100, slot=1)
MEMORY = MemoryParams(blocks=8, hashes=1, passes=2, openings=1)
FILL_SEED = bytes(32)


def _prover(params: proofs.ProofParams) -> proofs.Prover:
    if isinstance(params, MatmulParams):
        return proofs.MatmulProver(params, NumpyBackend())
    if isinstance(params, MemoryParams):
        return MemoryProver(params, NumpyMemoryBackend())
    return proofs.PowProver(params, NumpyPowBackend(lanes=1024, calls=1))


@pytest.mark.parametrize(
    ("params", "kind"), [(MATMUL, ChallengeKind.MATMUL), (POW, ChallengeKind.POW), (MEMORY, ChallengeKind.MEMORY)]
)
def test_sizes_survive_the_solver_processes_wire(params: proofs.ProofParams, kind: ChallengeKind) -> None:
    assert proofs.kind_of(params) is kind
    request = json.loads(json.dumps({"kind": proofs.kind_of(params), "sizes": proofs.sizes_of(params)}))
    assert proofs.read_params(ChallengeKind(request["kind"]), request["sizes"]) == params


@pytest.mark.parametrize("params", [MATMUL, POW, MEMORY])
def test_every_kind_is_served_by_the_same_lines(params: proofs.ProofParams) -> None:
    prover = _prover(params)
    prover.prepare(FILL_SEED)
    seen: list[int] = []
    work = prover.solve(SEED, on_progress=seen.append, should_stop=lambda: False)
    commitment = json.loads(json.dumps(work.commitment.to_wire()))
    if isinstance(params, MatmulParams):
        openings = matmul.openings_from_wire(params, [opening.to_wire() for opening in work.open([(2, 0, 0)])])
        matmul.check_openings(params, SEED, MatmulCommitment.from_wire(commitment), [(2, 0, 0)], openings)
    elif isinstance(params, MemoryParams):
        blocks = memory.block_openings_from_wire(params, [opening.to_wire() for opening in work.open([(1, 7)])])
        roots = memory.MemoryCommitment.from_wire(commitment)
        memory.check_block_openings(params, FILL_SEED, SEED, roots, [(1, 7)], blocks)
    else:
        proof_of_work.check_shares(params, SEED, PowCommitment.from_wire(commitment))
        assert not work.open([])
    assert seen


@pytest.mark.parametrize("params", [MATMUL, POW, MEMORY])
def test_every_kind_stops_when_asked(params: proofs.ProofParams) -> None:
    with pytest.raises(SolveStopped):
        _prover(params).solve(SEED, should_stop=lambda: True)


def test_the_cpu_proves_every_kind() -> None:
    assert isinstance(proofs.open_prover(MATMUL, "cpu"), proofs.MatmulProver)
    assert isinstance(proofs.open_prover(POW, "cpu"), proofs.PowProver)
    assert isinstance(proofs.open_prover(MEMORY, "cpu"), MemoryProver)


@pytest.mark.parametrize("params", [MATMUL, POW, MEMORY])
def test_an_unknown_device_is_refused(params: proofs.ProofParams) -> None:
    with pytest.raises(ValueError, match="device is 'tpu'"):
        proofs.open_prover(params, "tpu")


@pytest.mark.parametrize(
    ("kind", "sizes", "message"),
    [
        (ChallengeKind.MEMORY, {}, "whole numbers blocks, hashes, passes, openings"),
        (ChallengeKind.MEMORY, {"blocks": 8, "hashes": 1, "passes": 1025, "openings": 1}, "passes is 1025"),
        (ChallengeKind.POW, {}, "whole numbers shares, difficulty, slot"),
        (ChallengeKind.POW, {"shares": 16, "difficulty": 1}, "sizes differ"),
        (ChallengeKind.POW, {"shares": 16, "difficulty": 1, "slot": 0, "more": 1}, "sizes differ"),
        (ChallengeKind.POW, {"shares": 16, "difficulty": 1, "slot": True}, "sizes differ"),
        (ChallengeKind.POW, {"shares": 16.0, "difficulty": 1, "slot": 0}, "sizes differ"),
        (ChallengeKind.POW, {"shares": "16", "difficulty": 1, "slot": 0}, "sizes differ"),
        (ChallengeKind.POW, {"shares": 15, "difficulty": 1, "slot": 0}, "shares is 15"),
        (ChallengeKind.MATMUL, {"shares": 16, "difficulty": 1, "slot": 0}, "whole numbers n, rounds, tile, openings"),
    ],
)
def test_sizes_that_are_none_of_the_kind_are_refused(
    kind: ChallengeKind, sizes: Mapping[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        proofs.read_params(kind, sizes)
