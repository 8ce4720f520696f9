"""Every kernel against hashlib and numpy, bit for bit, on the device that POLARISE_KERNELS_DEVICE names.

`test_kernels` runs this file in a process of its own, because Triton decides at its import whether it compiles for a GPU
or interprets on the CPU; pytest does not collect it by itself.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from benchmarks._gpu_exact import NotExact, measure_exactness
from challenges import digest, matmul_kernels, memory_kernels, prng, sha256_kernel
from challenges.cuda_memory import CudaMemoryBackend
from challenges.cuda_pow import CudaPowBackend
from challenges.device_keys import upload
from challenges.fused_mixes import FusedMixes, open_fused_mixes
from challenges.matmul import MatmulParams, TilePosition, check_openings
from challenges.memory import MemoryParams, check_block_openings, unit_message
from challenges.memory_backends import NumpyMemoryBackend
from challenges.memory_digest import BlockDigester, PassKeys, key_words
from challenges.memory_messages import BlockPosition
from challenges.memory_solver import MemoryProver, PassTree, solve_memory
from challenges.pow import PowParams, check_shares, share_prefix, share_value
from challenges.pow_solver import NumpyPowBackend, solve_pow
from challenges.proofs import MatmulProver, PowProver
from challenges.solver import NumpyBackend, solve
from challenges.torch_backend import TorchBackend
from polarise import merkle
from polarise.errors import Unavailable

# Of one program of the fill: on a card what is launched there.
UNITS_EACH = {"cpu": 1 << 16, "cuda": memory_kernels.UNITS_PER_PROGRAM}

NAME = os.environ["POLARISE_KERNELS_DEVICE"]
DEVICE = torch.device(NAME)
SEED = bytes(range(32))
SEEDS = (SEED, bytes(32), hashlib.sha256(b"another").digest())
TYPES = (torch.bfloat16, torch.float16, torch.float32)
# Sides beside powers of two and beside the blocks of the kernels, with every tile there is.
SIZES = ((64, 16), (80, 16), (96, 32), (192, 64), (256, 128), (384, 128))


def fused_mixes() -> FusedMixes:
    return FusedMixes(DEVICE, matmul_kernels)


def last_words(prefix: bytes, nonces: range) -> list[int]:
    hashes = (hashlib.sha256(prefix + nonce.to_bytes(8, "big")).digest() for nonce in nonces)
    return [int.from_bytes(value[28:], "big") for value in hashes]


def candidates(prefix: bytes, start: int, last_word_max: int, *, programs: int, steps: int, capacity: int) -> list[int]:
    """Run the bare kernel; all it counted, of which the buffer holds the first."""
    found = torch.zeros(1 + capacity, dtype=torch.int32, device=DEVICE)
    sha256_kernel.search_shares[(programs,)](
        *sha256_kernel.shared_words(prefix, start >> 32),
        sha256_kernel.signed(start % (1 << 32)),
        sha256_kernel.signed(last_word_max),
        found[:1],
        found[1:],
        capacity,
        steps=steps,
        num_warps=sha256_kernel.WARPS,
    )
    words = found.cpu().numpy().view(np.uint32)
    assert words[0] <= capacity
    return sorted((start >> 32 << 32) + low for low in words[1 : 1 + int(words[0])].tolist())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("start", "programs", "steps"),
    [(0, 2, 2), (1 << 48, 3, 1), ((1 << 64) - 1024, 1, 4), ((1 << 31) - 512, 2, 2), ((7 << 32) - 256, 1, 1)],
)
def test_the_search_finds_what_hashlib_finds(seed: bytes, start: int, programs: int, steps: int) -> None:
    """Words of every sign, nonces at both ends of a word and of the slots."""
    prefix = hashlib.sha512(seed).digest()[:44]
    nonces = range(start, start + programs * steps * sha256_kernel.NONCES_PER_STEP)
    words = last_words(prefix, nonces)
    limit = sorted(words)[len(words) // 8]
    expected = [nonce for nonce, word in zip(nonces, words, strict=True) if word <= limit]
    ours = candidates(prefix, start, limit, programs=programs, steps=steps, capacity=len(nonces))
    assert ours == expected
    assert len(expected) == len(words) // 8 + 1


def test_the_largest_last_word_that_counts_is_the_limit_itself() -> None:
    """One less, and the nonce at the limit is gone: the comparison is unsigned and takes equals."""
    prefix = hashlib.sha512(b"limit").digest()[:44]
    words = last_words(prefix, range(256))
    for limit in (max(words), min(words), (1 << 32) - 1, (1 << 31) - 1, 1 << 31):
        for last_word_max in (limit, limit - 1):
            ours = candidates(prefix, 0, last_word_max, programs=1, steps=1, capacity=256)
            assert ours == [nonce for nonce, word in enumerate(words) if word <= last_word_max]


def test_candidates_beyond_the_buffer_are_counted_and_touch_nothing() -> None:
    found = torch.full((1 + 256,), -1, dtype=torch.int32, device=DEVICE)
    found[0] = 0
    words = sha256_kernel.shared_words(bytes(44), 0)
    sha256_kernel.search_shares[(1,)](*words, 0, -1, found[:1], found[1:], 100, steps=1, num_warps=sha256_kernel.WARPS)
    assert int(found[0]) == 256
    assert bool((found[101:] == -1).all())
    assert len(set(found[1:101].tolist())) == 100


def pow_backend(**lengths: int) -> CudaPowBackend:
    return CudaPowBackend(DEVICE, sha256_kernel, **lengths)


@pytest.mark.parametrize("lengths", [{"steps": 1, "stretch_nonces_min": 256}, {"steps": 2, "stretch_nonces_min": 512}])
@pytest.mark.parametrize("seed", SEEDS[:2])
def test_a_proof_of_work_has_the_shares_of_the_reference(seed: bytes, lengths: dict[str, int]) -> None:
    params = PowParams(shares=16, difficulty=30, slot=65535)
    prover = PowProver(params, pow_backend(**lengths))
    prover.prepare()
    work = prover.solve(seed)
    check_shares(params, seed, work.commitment)
    assert work == solve_pow(params, seed, NumpyPowBackend(lanes=1024, calls=1))


def test_a_stretch_with_more_shares_than_the_buffer_holds_loses_none() -> None:
    """Difficulty 1: every nonce is a share, and two programs find more than fit."""
    backend = pow_backend(steps=1, stretch_nonces_min=512)
    backend._capacity = 256
    params = PowParams(shares=600, difficulty=1)
    assert solve_pow(params, SEED, backend).nonces == tuple(range(600))


def test_the_word_before_the_last_decides_where_the_last_is_equal() -> None:
    params = PowParams(16, 100)
    prefix, backend = share_prefix(params, SEED), pow_backend(steps=1, stretch_nonces_min=256)
    reference = NumpyPowBackend(lanes=256, calls=1)
    (best, *_others) = reference.scan(prefix, params.target, 0)
    value = share_value(prefix, best)
    assert best in backend.start_scan(prefix, value, 0)()
    assert best not in backend.start_scan(prefix, value - 1, 0)()


@pytest.mark.parametrize("operand_type", TYPES)
@pytest.mark.parametrize(("n", "tile"), SIZES)
def test_operands_and_digests_equal_numpy(n: int, tile: int, operand_type: torch.dtype) -> None:
    mixes, seed = fused_mixes(), hashlib.sha256(f"{n}".encode()).digest()
    keys = prng.round_keys(seed, n)
    device_keys, whole = upload(keys, DEVICE), slice(0, n)
    a = torch.full((n, n), 300, dtype=operand_type, device=DEVICE)
    b = torch.full_like(a, 300)
    mixes.fill(device_keys, a, b, whole)
    expected_a, expected_b = prng.a_rows(keys, 0, n), prng.b_columns_transposed(keys, 0, n).T
    assert np.array_equal(a.float().cpu().numpy(), expected_a)
    assert np.array_equal(b.float().cpu().numpy(), expected_b)
    product = expected_a @ expected_b
    lanes = torch.zeros((n // tile, n // tile, digest.LANES), dtype=torch.int32, device=DEVICE)
    mixes.digest(device_keys, torch.from_numpy(product).to(DEVICE), whole, tile, lanes)
    expected = digest.tile_digests(product, keys.digest_row, keys.digest_column, tile)
    assert np.array_equal(lanes.cpu().numpy().view(np.uint32), expected)


def test_the_digest_takes_every_exact_integer() -> None:
    """The ends of fp32's exact integers and both zeros; one more in one element changes its tile and no other."""
    n = tile = 64
    keys = prng.round_keys(SEED, n)
    product = np.arange(n * n, dtype=np.float32).reshape(n, n)
    product[0, :4] = ((1 << 24) - 1, -(1 << 24) + 1, 0.0, -0.0)
    lanes = torch.zeros((1, 1, digest.LANES), dtype=torch.int32, device=DEVICE)
    seen = []
    for _ in range(2):
        fused_mixes().digest(upload(keys, DEVICE), torch.from_numpy(product).to(DEVICE), slice(0, n), tile, lanes)
        seen.append(lanes.cpu().numpy().view(np.uint32).copy())
        assert np.array_equal(seen[-1], digest.tile_digests(product, keys.digest_row, keys.digest_column, tile))
        product[63, 63] += 1
    assert (seen[0] != seen[1]).all()


def matmul_backend() -> TorchBackend:
    """On the CPU the backend of a GPU, with kernels and whole rounds, but fp32 operands and no queue."""
    return TorchBackend(NAME, None if DEVICE.type == "cuda" else open_fused_mixes(DEVICE, torch.float32))


@pytest.mark.parametrize(("n", "tile"), [(64, 64), (96, 32), (192, 64)])
def test_a_matmul_proof_has_the_roots_of_the_reference_and_passes_the_check(n: int, tile: int) -> None:
    params = MatmulParams(n, rounds=3, tile=tile, openings=2)
    prover = MatmulProver(params, matmul_backend())
    prover.prepare()
    work = prover.solve(SEED)
    assert work.roots == solve(params, SEED, NumpyBackend()).roots
    positions = [TilePosition(2, 0, n // tile - 1), TilePosition(0, n // tile - 1, 0)]
    check_openings(params, SEED, work.commitment, positions, work.open(positions))


class RoundingBackend(TorchBackend):
    """A library that keeps eleven bits of a sum, as reduced precision does."""

    def multiply(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> None:
        super().multiply(a, b, c)
        c.copy_(c.to(torch.bfloat16))


def test_a_device_that_rounds_is_found_before_the_first_proof() -> None:
    fused = None if DEVICE.type == "cuda" else open_fused_mixes(DEVICE, torch.float32)
    with pytest.raises(Unavailable, match="not that of the exact product"):
        RoundingBackend(NAME, fused).prepare(MatmulParams(128, rounds=1))


def test_the_benchmark_finds_a_product_that_is_rounded() -> None:
    """The same comparison passes the exact one, at the smallest size where the two differ."""
    fused = None if DEVICE.type == "cuda" else open_fused_mixes(DEVICE, torch.float32)
    measure_exactness(matmul_backend(), 128, DEVICE, 64)
    with pytest.raises(NotExact, match=r"K = 128: \d+ of 16384 entries differ"):
        measure_exactness(RoundingBackend(NAME, fused), 128, DEVICE, 64)


def test_kernels_that_disagree_with_the_reference_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid that leaves the last rows out, as an error in its arithmetic would."""
    monkeypatch.setattr(matmul_kernels, "operand_grid", lambda n: (n // 64, n // 64))
    with pytest.raises(Unavailable, match="the kernels' A differ from the reference"):
        open_fused_mixes(DEVICE, torch.float32)


def test_a_search_that_misses_a_share_is_found_before_the_first_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = pow_backend(steps=1, stretch_nonces_min=256)
    honest = backend._launch

    def launch(prefix: bytes, last_word_max: int, start: int, nonces: int) -> Callable[[], npt.NDArray[np.int32]]:
        return honest(prefix, last_word_max - (1 << 24), start, nonces)

    monkeypatch.setattr(backend, "_launch", launch)
    with pytest.raises(Unavailable, match="finds other shares than the reference"):
        backend.prepare(PowParams(16, 100))


def on_device(words: npt.NDArray[np.uint32]) -> torch.Tensor:
    return torch.from_numpy(words.view(np.int32).copy()).to(DEVICE)


def from_device(words: torch.Tensor) -> npt.NDArray[np.uint32]:
    return words.cpu().numpy().view(np.uint32)


def hash_words(hashes: list[bytes]) -> npt.NDArray[np.uint32]:
    return np.frombuffer(b"".join(hashes), dtype=">u4").astype(np.uint32).reshape(-1, 8)


@pytest.mark.parametrize(
    ("first", "count", "hashes"),
    [(0, 1, 1), (5, 300, 3), ((7 << 32) - 257, 257, 1), ((1 << 31) - 256, 512, 2), (1 << 34, 64, 1)],
)
def test_units_are_those_of_hashlib(first: int, count: int, hashes: int) -> None:
    """Numbers of every length, both sides of a sign bit, a last program that is not full; and nothing behind the last unit."""
    out = torch.full((count + 3, 8), -1, dtype=torch.int32, device=DEVICE)
    message = struct.unpack(">8i", unit_message(SEED, first))
    memory_kernels.fill_units[(-(-count // 256),)](out, *message, count, hashes, units_each=256, num_warps=4)
    expected = []
    for unit in range(first, first + count):
        value = unit_message(SEED, unit)
        for _ in range(hashes):
            value = hashlib.sha256(value).digest()
        expected.append(value)
    assert np.array_equal(from_device(out[:count]), hash_words(expected))
    assert bool((out[count:] == -1).all())


def test_digests_of_blocks_are_those_of_numpy() -> None:
    """Random words, the ends of a word, and one bit more in one word, which changes its block and no other."""
    blocks = np.random.default_rng(7).integers(0, 1 << 32, (4, 16384), dtype=np.uint32)
    blocks[1], blocks[2] = 0, (1 << 32) - 1
    keys = on_device(key_words(SEED))
    seen = []
    for _ in range(2):
        lanes = torch.zeros((4, 2), dtype=torch.int32, device=DEVICE)
        memory_kernels.digest_blocks[(4,)](on_device(blocks), keys[:128], keys[128:], lanes, num_warps=8)
        seen.append(from_device(lanes))
        assert np.array_equal(seen[-1], BlockDigester().digests(blocks, PassKeys.of(SEED)))
        blocks[3, 16383] ^= 1
    assert [bool((one != other).any()) for one, other in zip(*seen, strict=True)] == [False, False, False, True]


@pytest.mark.parametrize(("leaves", "words"), [(33, 2), (1, 12), (1, 14), (1, 28), (1, 30)])
def test_leaves_are_hashed_as_the_tree_hashes_them(leaves: int, words: int) -> None:
    """Lengths at which the end of the message falls on both sides of a block's end."""
    digests = np.random.default_rng(words).integers(0, 1 << 32, (leaves, 1024), dtype=np.uint32)
    out = torch.full((leaves + 1, 8), -1, dtype=torch.int32, device=DEVICE)
    memory_kernels.hash_leaves[(-(-leaves // 32),)](
        on_device(digests), out, leaves, words, leaves_each=32, num_warps=memory_kernels.TREE_WARPS
    )
    expected = [merkle.leaf_hash(leaf[:words].astype("<u4").tobytes()) for leaf in digests]
    assert np.array_equal(from_device(out[:leaves]), hash_words(expected))
    assert bool((out[leaves] == -1).all())


@pytest.mark.parametrize("count", [1, 2, 3, 64, 65])
def test_a_level_of_nodes_is_that_of_the_tree(count: int) -> None:
    hashes = [hashlib.sha256(bytes([index])).digest() for index in range(count)]
    expected = [
        merkle.node_hash(*hashes[index : index + 2]) if index + 1 < count else hashes[index]
        for index in range(0, count, 2)
    ]
    out = torch.full((len(expected) + 1, 8), -1, dtype=torch.int32, device=DEVICE)
    memory_kernels.hash_nodes[(-(-len(expected) // 32),)](
        on_device(hash_words(hashes)), out, count, nodes_each=32, num_warps=memory_kernels.TREE_WARPS
    )
    assert np.array_equal(from_device(out[:-1]), hash_words(expected))
    assert bool((out[-1] == -1).all())


def memory_backend() -> CudaMemoryBackend:
    # Few programs, as the interpreter runs them one after another.
    return CudaMemoryBackend(DEVICE, memory_kernels, units_each=UNITS_EACH[DEVICE.type])


def test_full_leaves_and_a_short_one_are_hashed_as_the_reference_hashes_them() -> None:
    """Two leaves of 512 digests and one of three, which is a launch of its own."""
    lanes = np.random.default_rng(11).integers(0, 1 << 32, (2 * 512 + 3, 2), dtype=np.uint32)
    hashes = memory_backend()._hash_leaves(on_device(lanes))
    assert from_device(hashes).astype(">u4").tobytes() == PassTree.of(lanes).leaf_hashes


def test_a_memory_proof_has_the_roots_of_the_reference_and_passes_the_check() -> None:
    """Passes that wait for each other."""
    params = MemoryParams(blocks=9, hashes=2, passes=3, openings=3)
    backend, reference = memory_backend(), NumpyMemoryBackend()
    prover = MemoryProver(params, backend)
    prover.prepare(bytes(32))
    work = prover.solve(SEED)
    reference.fill(params, bytes(32))
    assert work.trees == solve_memory(params, bytes(32), SEED, reference).trees
    last = params.blocks - 1
    positions = [BlockPosition(params.passes - 1, last), BlockPosition(0, 0), BlockPosition(0, last - 1)]
    check_block_openings(params, bytes(32), SEED, work.commitment, positions, work.open(positions))


def test_what_was_filled_before_is_gone() -> None:
    backend, large, small = memory_backend(), MemoryParams(9, 1, 1), MemoryParams(8, 1, 1)
    backend.fill(large, bytes(32))
    work = solve_memory(large, bytes(32), SEED, backend)
    backend.fill(small, bytes(32))
    with pytest.raises(ValueError, match="8 blocks are filled"):
        work.open([(0, 0)])
    backend.fill(large, SEED)
    with pytest.raises(Unavailable, match="the memory has changed"):
        work.open([(0, 0)])


def test_a_tree_is_the_same_wherever_its_upper_levels_are_made() -> None:
    """All five levels on the device, three, and none."""
    digests = np.random.default_rng(9).integers(0, 1 << 32, (21, 8), dtype=np.uint32)
    hashes = [merkle.leaf_hash(leaf.tobytes()) for leaf in digests]
    expected = PassTree(merkle.root_of_hashes(hashes), b"".join(hashes))
    for nodes_on_host in (1, 3, 64):
        backend = CudaMemoryBackend(DEVICE, memory_kernels, nodes_on_host=nodes_on_host)
        assert backend.tree_over(on_device(hash_words(hashes))) == expected


def test_memory_that_differs_from_the_reference_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last word of the last block, as a card that errs or a launch that was left out would have it."""
    backend = memory_backend()
    honest = backend._fill

    def fill(params: MemoryParams, fill_seed: bytes, blocks: range) -> None:
        honest(params, fill_seed, blocks)
        backend._words[-1, -1] ^= 1

    monkeypatch.setattr(backend, "_fill", fill)
    with pytest.raises(Unavailable, match="block 7 differs from the reference"):
        backend.fill(MemoryParams(8, 1, 1), SEED)


def test_more_memory_than_there_is_names_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU torch itself refuses; on a card the driver does."""
    words = {"cpu": "can't allocate memory", "cuda": "no room on the device"}[DEVICE.type]
    params = MemoryParams(1 << 23, 1, 1)
    monkeypatch.setattr(memory_kernels, "fill_units", None)
    with pytest.raises(Exception, match=words) as caught:
        memory_backend().fill(params, SEED)
    assert isinstance(caught.value, Unavailable)
