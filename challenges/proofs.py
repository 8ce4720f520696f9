"""All kinds of proof behind one door for the miner's solver: a kind and its sizes in, a device made ready, an answer out.

Rules:
- Whoever serves proofs names no kind: `read_params`, `open_prover`, `prepare`, `solve`, `to_wire`, `open` are all it
  calls, and a new kind of proof is a class here and a row in `_PARAMS`.
- A prover is one device and one proof's sizes. Cheats and tests build one with a backend of their own.
- Sizes are plain numbers by name, as they travel in requests and evidence; what they mean, and their bounds, is the
  business of the parameters' own class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from challenges.draw import ChallengeKind
from challenges.matmul_messages import MatmulParams
from challenges.memory_backends import open_memory_backend
from challenges.memory_messages import MemoryParams
from challenges.memory_solver import MemoryProver
from challenges.pow_messages import PowParams
from challenges.pow_solver import PowBackend, PowWork, open_pow_backend, solve_pow
from challenges.solver import MatmulBackend, MatmulWork, open_backend, solve

ProofParams = MatmulParams | PowParams | MemoryParams

_PARAMS: Mapping[ChallengeKind, type[ProofParams]] = MappingProxyType(
    {ChallengeKind.MATMUL: MatmulParams, ChallengeKind.POW: PowParams, ChallengeKind.MEMORY: MemoryParams}
)
_WARM_UP_N = 256
_WARM_UP_SEED = bytes(32)


class WireMessage(Protocol):
    """A commitment or an opening of any kind of proof."""

    def to_wire(self) -> dict[str, object]:
        """Return the message as it travels in JSON."""


class Work(Protocol):
    """A finished proof of any kind."""

    @property
    def commitment(self) -> WireMessage:
        """The message that stops the validator's clock."""

    def open(self, positions: Sequence[Sequence[int]]) -> Sequence[WireMessage]:
        """Answer the validator's positions in their order; ValueError for one the proof does not have."""


class Prover(Protocol):
    """One device, ready or to be made ready for one proof."""

    def prepare(self, fill_seed: bytes = b"") -> None:
        """Start, allocate and warm up; not timed by the validator.

        Args:
            fill_seed: What a memory proof fills the memory from, 32 bytes; no other kind reads it.
        """

    def solve(
        self,
        seed: bytes,
        *,
        on_progress: Callable[[int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Work:
        """Do the proof; SolveStopped when `should_stop` says so."""


class MatmulProver:
    """The matmul proof on one backend."""

    def __init__(self, params: MatmulParams, backend: MatmulBackend) -> None:
        self._params = params
        self._backend = backend

    def prepare(self, fill_seed: bytes = b"") -> None:
        """Allocate for the sizes, with a small proof before, so that threads, kernels and clocks are up."""
        self._backend.prepare(self._params)
        small = MatmulParams(max(self._params.tile, _WARM_UP_N), rounds=2, tile=self._params.tile, openings=1)
        solve(small, _WARM_UP_SEED, self._backend)
        self._backend.prepare(self._params)

    def solve(
        self,
        seed: bytes,
        *,
        on_progress: Callable[[int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> MatmulWork:
        """Do all rounds; progress counts rounds."""
        return solve(self._params, seed, self._backend, on_progress=on_progress, should_stop=should_stop)


class PowProver:
    """The proof of work on one backend."""

    def __init__(self, params: PowParams, backend: PowBackend) -> None:
        self._params = params
        self._backend = backend

    def prepare(self, fill_seed: bytes = b"") -> None:
        """Start and warm up the backend."""
        self._backend.prepare(self._params)

    def solve(
        self,
        seed: bytes,
        *,
        on_progress: Callable[[int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> PowWork:
        """Find all shares; progress counts shares."""
        return solve_pow(self._params, seed, self._backend, on_progress=on_progress, should_stop=should_stop)


def open_prover(params: ProofParams, device: str, *, pow_library: Path | None = None) -> Prover:
    """Return the prover of these sizes on "cpu" or "cuda:N"; its `prepare` comes before `solve`.

    Args:
        params: Kind and sizes.
        device: Where it works.
        pow_library: Compiled code for the proof of work on "cpu", if there is any.

    Raises:
        ValueError: An unknown device name.
        ImportError: A GPU without torch.
        Unavailable: No such GPU, or it cannot run the proof; the message says why.
    """
    match params:
        case MemoryParams():
            return MemoryProver(params, open_memory_backend(device))
        case MatmulParams():
            return MatmulProver(params, open_backend(device))
        case PowParams():
            return PowProver(params, open_pow_backend(device, pow_library))


def bounds_of(params: ProofParams) -> tuple[int, ...]:
    """Return the exclusive bounds of the positions to open; empty where the commitment is the whole proof."""
    return () if isinstance(params, PowParams) else params.bounds


def kind_of(params: ProofParams) -> ChallengeKind:
    """Return the kind of proof these are the sizes of."""
    return next(kind for kind, params_type in _PARAMS.items() if isinstance(params, params_type))


def sizes_of(params: ProofParams) -> dict[str, int]:
    """Return the sizes by name, as `read_params` takes them."""
    return dataclasses.asdict(params)


def read_params(kind: ChallengeKind, sizes: Mapping[str, object]) -> ProofParams:
    """Build parameters from a kind and numbers by name.

    Raises:
        ValueError: Names that differ from the kind's own, a value that is no int, or a
            size out of range.
    """
    params_type = _PARAMS[kind]
    names = [field.name for field in dataclasses.fields(params_type)]
    numbers = {name: size for name, size in sizes.items() if type(size) is int}
    if sizes.keys() != set(names) or len(numbers) != len(sizes):
        raise ValueError(f"sizes differ, expected whole numbers {', '.join(names)}")
    return params_type(**numbers)
