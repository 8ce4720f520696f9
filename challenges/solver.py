"""The miner's side of the matmul proof: run all rounds on a backend, commit, and open what is asked.

Rules:
- The backend does arithmetic only; seeds, trees and the chain are here, the same for every device.
- Round r + 1 is started before round r is finished (`challenges.matmul` says why the chain allows it), so that a GPU
  computes while the host hashes.
- Between rounds the solver asks whether to stop, so that a lease or SIGTERM waits for one round at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from challenges import digest, prng
from challenges.matmul import MatmulCommitment, MatmulParams, TileOpening, TilePosition, next_round_seed
from polarise import merkle
from polarise.errors import SubnetError

PendingRound = Callable[[], prng.UInt32Array]


class SolveStopped(SubnetError):
    """The caller asked the solver to stop; there is no work to open and nothing went wrong."""


class MatmulBackend(Protocol):
    """One device's arithmetic. Both implementations give equal bits."""

    def prepare(self, params: MatmulParams) -> None:
        """Allocate and warm up for these sizes; not timed by the validator."""

    def start_round(self, params: MatmulParams, keys: prng.RoundKeys) -> PendingRound:
        """Queue one round and return a call that waits for its digests, [tiles, tiles, 2] uint32."""


@dataclass(frozen=True, slots=True)
class MatmulWork:
    """All rounds done: the roots to send now and the digests to open later.

    Args:
        params: Sizes of the proof.
        roots: Merkle root per round.
        digests: Tile digests per round, [tiles, tiles, 2] uint32 each; `params.retained_bytes` together.
    """

    params: MatmulParams
    roots: tuple[bytes, ...]
    digests: tuple[prng.UInt32Array, ...]

    @property
    def commitment(self) -> MatmulCommitment:
        """The message that stops the validator's clock."""
        return MatmulCommitment(self.roots)

    def open(self, positions: Sequence[Sequence[int]]) -> list[TileOpening]:
        """Answer the validator's positions in their order.

        Raises:
            ValueError: A position is outside the proof; the request was wrong.
        """
        return [self._open_one(TilePosition(*position)) for position in positions]

    def _open_one(self, position: TilePosition) -> TileOpening:
        if not all(0 <= number < bound for number, bound in zip(position, self.params.bounds, strict=True)):
            raise ValueError(f"position {tuple(position)} is outside {self.params.bounds}")
        leaves = round_leaves(self.digests[position.round_index])
        path = merkle.inclusion_proof([merkle.leaf_hash(leaf) for leaf in leaves], position.tile_row)
        return TileOpening(position, leaves[position.tile_row], tuple(path))


def solve(
    params: MatmulParams,
    seed: bytes,
    backend: MatmulBackend,
    *,
    on_progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> MatmulWork:
    """Do the whole proof; call `backend.prepare(params)` before the clock runs.

    Args:
        params: Sizes of the proof.
        seed: Seed of the challenge, 32 bytes.
        backend: The device.
        on_progress: Called with the number of finished rounds after each.
        should_stop: Asked before each round.

    Raises:
        SolveStopped: `should_stop` said so.
    """
    seeds: list[bytes] = []
    roots: list[bytes] = []
    digests: list[prng.UInt32Array] = []
    pending: PendingRound | None = None

    def finish(waiting: PendingRound) -> None:
        digests.append(waiting())
        roots.append(merkle.root(round_leaves(digests[-1])))
        if on_progress is not None:
            on_progress(len(roots))

    for index in range(params.rounds):
        if should_stop is not None and should_stop():
            raise SolveStopped(f"stopped after {len(roots)} of {params.rounds} rounds")
        seeds.append(next_round_seed(seed, seeds, roots))
        started = backend.start_round(params, prng.round_keys(seeds[index], params.n))
        if pending is not None:
            finish(pending)
        pending = started
    if pending is not None:
        finish(pending)
    return MatmulWork(params, tuple(roots), tuple(digests))


def round_leaves(digests: prng.UInt32Array) -> list[bytes]:
    """Return the leaves of one round's tree: each row of tiles as little-endian bytes, lane 0 before lane 1."""
    return [row.astype("<u4").tobytes() for row in digests]


class NumpyBackend:
    """The reference on the CPU, for machines without torch; subclasses may replace `multiply` to cheat in tests."""

    def prepare(self, params: MatmulParams) -> None:
        """Need nothing: numpy allocates as it goes, 16 * n**2 bytes at most."""

    def start_round(self, params: MatmulParams, keys: prng.RoundKeys) -> PendingRound:
        """Compute one round at once; what is returned only hands it over."""
        a = prng.a_rows(keys, 0, params.n)
        b = prng.b_columns_transposed(keys, 0, params.n).T
        lanes = digest.tile_digests(self.multiply(a, b), keys.digest_row, keys.digest_column, params.tile)
        return lambda: lanes

    def multiply(self, a: prng.Float32Array, b: prng.Float32Array) -> prng.Float32Array:
        """Return the product of [n, n] and [n, n] float32, exact for keyed operands."""
        product: prng.Float32Array = np.matmul(a, b)
        return product


def open_backend(device: str) -> MatmulBackend:
    """Return the backend of "cpu" or "cuda:N"; torch where it is installed, numpy for "cpu" where it is not.

    Raises:
        ValueError: An unknown device name.
        ImportError: A GPU without torch.
        Unavailable: No such GPU.
    """
    if device != "cpu" and not (device.startswith("cuda:") and device[5:].isdecimal()):
        raise ValueError(f"device is {device!r}, expected 'cpu' or 'cuda:N'")
    try:
        # Imported here only: a validator has no torch and imports all the rest.
        from challenges.torch_backend import TorchBackend
    except ImportError:
        if device != "cpu":
            raise
        return NumpyBackend()
    return TorchBackend(device)
