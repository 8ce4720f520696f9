"""Many miners in one process for `benchmarks.validator_scale`: real HTTP, real signatures, right answers, no work.

Rules:
- Each miner has an address of its own in 127.0.0.0/8, a key, a registry entry and a log; a validator cannot tell it from
  a process of its own but for its speed.
- A simulated miner is told the opening key, the beacon and the sizes of the epoch, so that it can compute its whole answer:
  the tiles and the blocks of memory that will be opened, and the shares of a small proof of work. All of them do so before
  the validator goes on, since a thousand real miners would not share its two cores. Between start and answer each only
  waits, as long as its claim says. Positions must not depend on the commitment for that; `validator_scale` says how.
- It notes when the start came and when it wrote its answer: what the validator's stamps are compared with.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from challenges import draw, prng
from challenges.digest import tile_digest_bytes
from challenges.draw import ChallengeKind, SeedInputs
from challenges.matmul import next_round_seed
from challenges.matmul_messages import MatmulCommitment, MatmulParams, TileOpening, TilePosition
from challenges.memory import block_words, first_pass_key, next_pass_key
from challenges.memory_digest import DIGEST_BYTES, BlockDigester, PassKeys, digest_bytes
from challenges.memory_messages import LEAF_BLOCKS, BlockOpening, BlockPosition, MemoryCommitment, MemoryParams
from challenges.pow_messages import PowParams
from challenges.pow_native import NativePowBackend, NativeScan, NativeUnavailable
from challenges.pow_solver import NumpyPowBackend, solve_pow
from challenges.proofs import read_params
from challenges.tile_recomputer import TileRecomputer
from neurons.miner.pow_library import ensure_library
from polarise import merkle
from polarise.canonical import canonical_bytes
from polarise.checkpoint import Checkpoint, sign_checkpoint
from polarise.decode import decode_model
from polarise.frontier import Frontier
from polarise.hardware import DeviceClaim, HardwareClaim
from polarise.messages import CommitmentBody, OpenRequest
from polarise.registry import STATEMENT_KIND, RegistryEntry
from polarise.signing import Certificate, Identity, Purpose, SigningKey
from polarise.sse import MEDIA_TYPE, Frame
from polarise.statement import SignedStatement, sign_statement
from polarise.stream import SYSTEM, origin_of

OWNER = SigningKey(b"O" * 32)
# A card of the spec table at half its expected rate gives n = 16384; the hash rate is small, so that its shares can be found
# here: checking 2,000 of them costs the validator the same whatever the difficulty. Its memory is filled with k = 12.
CARD = "NVIDIA H100 80GB HBM3"
MATMUL_RATE = 400_000_000_000_000
POW_RATE = 180_000
MEMORY_RATE = 2_700_000_000_000
LINES_PER_EPOCH = 60
LINE = (
    b'{"container":null,"kind":"sample","payload":{"cpu_percent":%d,"gpu":[{"memory_percent":41,"usage_percent":97}]}}'
)


def identity_of(number: int) -> Identity:
    """Return the key of one simulated miner, the same in every run."""
    key = SigningKey(hashlib.sha256(b"simulated miner %d" % number).digest())
    return Identity(key, Certificate.issue(OWNER, key.public_key, Purpose.NODE))


def address_of(number: int) -> str:
    """Return its address: 127.1.0.1 and upwards, 250 to a block."""
    return f"127.{1 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"


def device_of(number: int) -> str:
    """Return the UUID of its card."""
    return f"GPU-{number:032x}"


def entry_of(number: int, port: int) -> SignedStatement:
    """Return its signed registry entry."""
    identity = identity_of(number)
    certificate = identity.owner_certificate
    if certificate is None:
        raise ValueError("a simulated miner has an owner")
    device = DeviceClaim(
        uuid=device_of(number),
        kind="gpu",
        name=CARD,
        memory_bytes=80 << 30,
        matmul_ops_per_second=MATMUL_RATE,
        pow_hashes_per_second=POW_RATE,
        memory_bytes_per_second=MEMORY_RATE,
    )
    hardware = HardwareClaim(cpu_model="simulated", cpu_milli=2000, memory_bytes=1 << 30, devices=(device,))
    entry = RegistryEntry(
        node_key=identity.public_key,
        owner_key=OWNER.public_key,
        owner_certificate=certificate,
        endpoint=f"http://{address_of(number)}:{port}",
        advertised_host=address_of(number),
        hardware=hardware,
        price_micros_per_hour=0,
        created_unix_ms=1,
    )
    return sign_statement(identity, STATEMENT_KIND, entry)


@dataclass
class _Answer:
    commitment: bytes
    seconds: float
    openings: dict[tuple[int, ...], dict[str, object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Proven:
    """A proof that nobody has asked for yet."""

    seed: bytes
    proof: dict[str, object]
    seconds: float
    openings: dict[tuple[int, ...], dict[str, object]]


@dataclass
class _Miner:
    number: int
    identity: Identity
    proven: dict[str, _Proven] = field(default_factory=dict)
    answers: dict[str, _Answer] = field(default_factory=dict)
    tree: Frontier = field(default_factory=Frontier)
    note: bytes | None = None


class Simulation:
    """All of them.

    Args:
        count: How many.
        validator_key: Who will ask.
        control: File with the running epoch's number, opening key, beacon and sizes by kind.
    """

    def __init__(self, count: int, validator_key: str, control: Path) -> None:
        self._validator_key = bytes.fromhex(validator_key)
        self._control = control
        self._miners = {address_of(number): _Miner(number, identity_of(number)) for number in range(count)}
        self._stamps: list[tuple[str, int, int]] = []
        self._random = random.Random(7)
        self._work = ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"))

    async def serve(self, port: int) -> None:
        """Listen on every miner's address and say on stdout that it does; runs until it is killed."""
        server = await asyncio.start_server(self._connection, list(self._miners), port, backlog=128)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        async with server:
            await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            arrived_ns = time.monotonic_ns()
            method, target, _ = head.split(b" ", 2)
            body = await reader.readexactly(_length_of(head))
            miner = self._miners[writer.get_extra_info("sockname")[0]]
            await self._route(miner, f"{method.decode()} {target.decode()}", body, arrived_ns, writer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def _route(
        self, miner: _Miner, target: str, body: bytes, arrived_ns: int, writer: asyncio.StreamWriter
    ) -> None:
        if target == "POST /prove-all":
            await self._prove_all()
            _write(writer, b'{"status":"success"}')
        elif target == "POST /challenge/prepare":
            self._prepare(miner, json.loads(body))
            _write(writer, b'{"status":"success"}')
        elif target == "POST /challenge/start":
            challenge_id = json.loads(body)["challenge_id"]
            answer = miner.answers[challenge_id]
            await asyncio.sleep(answer.seconds - (time.monotonic_ns() - arrived_ns) / 1e9)
            _write(writer, answer.commitment)
            self._stamps.append((challenge_id, arrived_ns, time.monotonic_ns()))
        elif target == "POST /challenge/open":
            _write(writer, _opened(miner, decode_model(OpenRequest, body)))
        elif target.startswith("GET /telemetry/stream"):
            _write(writer, self._stream(miner), MEDIA_TYPE)
        elif target == "GET /stamps":
            _write(writer, json.dumps(self._stamps).encode())
        else:  # pings, verdicts, cosignatures
            _write(writer, b'{"status":"success"}')

    async def _prove_all(self) -> None:
        """Have every proof of the epoch made, on all cores."""
        told = json.loads(self._control.read_text())
        loop = asyncio.get_running_loop()

        async def one(miner: _Miner, kind: str) -> None:
            arguments = (miner.number, self._validator_key, told, kind)
            miner.proven[kind] = await loop.run_in_executor(self._work, _prove, *arguments)

        await asyncio.gather(*(one(miner, kind) for miner in self._miners.values() for kind in told["sizes"]))

    def _prepare(self, miner: _Miner, request: dict[str, object]) -> None:
        """Sign what was made for this challenge; its name was not known before."""
        found = miner.proven.pop(str(request["kind"]))
        challenge_id, device = str(request["challenge_id"]), str(request["device"])
        body = CommitmentBody(challenge_id=challenge_id, device=device, seed=found.seed.hex(), proof=found.proof)
        statement = sign_statement(miner.identity, "commitment", body)
        raw = canonical_bytes({"status": "success", "commitment": statement.to_wire()})
        # Claims are met with a little room, as `join` sees to; no two answers are due at the same moment.
        miner.answers[challenge_id] = _Answer(raw, found.seconds * self._random.uniform(0.75, 0.95), found.openings)

    def _stream(self, miner: _Miner) -> bytes:
        """Return an epoch's lines, with the checkpoint before and the one that covers them."""
        subkey = miner.identity.subkey(Purpose.LOG)
        frames = [Frame("certificate", canonical_bytes(subkey.certificate.to_wire()))]
        if miner.note is not None:
            frames.append(Frame("checkpoint", miner.note))
        for _ in range(LINES_PER_EPOCH):
            line = LINE % (miner.tree.size % 100)
            frames.append(Frame("line", line, str(miner.tree.size)))
            miner.tree.add(merkle.leaf_hash(line))
        checkpoint = Checkpoint(origin_of(miner.identity.public_key, SYSTEM), miner.tree.size, miner.tree.root())
        miner.note = sign_checkpoint(checkpoint, subkey.key).raw
        frames.append(Frame("checkpoint", miner.note))
        return b"".join(frame.encode() for frame in frames)


def _prove(number: int, validator_key: bytes, told: dict[str, Any], kind_name: str) -> _Proven:
    """Compute the whole answer to a challenge, by what the validator told of its epoch."""
    identity, kind, device = identity_of(number), ChallengeKind(kind_name), device_of(number)
    opening_key, beacon = bytes.fromhex(told["opening_key"]), bytes.fromhex(told["beacon"])
    params = read_params(kind, told["sizes"][kind_name])
    inputs = SeedInputs(
        kind=kind,
        params=params.encode(),
        epoch=int(told["epoch"]),
        beacon=beacon,
        validator_key=validator_key,
        nonce=draw.nonce(opening_key, beacon, device, kind),
        miner_key=bytes.fromhex(identity.public_key),
        device_uuid=device,
        device_index=0,
    )
    seed = draw.seed(inputs)
    openings: Sequence[TileOpening | BlockOpening] = ()
    positions: Sequence[Sequence[int]] = ()
    if not isinstance(params, PowParams):
        positions = draw.draw_positions(opening_key, device, kind, b"", bounds=params.bounds, count=params.openings)
    match params:
        case PowParams():
            proof, seconds = _search(params, seed), params.operations / POW_RATE
        case MatmulParams():
            commitment, openings = _forge(params, seed, positions)
            proof, seconds = commitment.to_wire(), params.operations / MATMUL_RATE
        case MemoryParams():
            fill_seed = draw.fill_seed(replace(inputs, nonce=draw.fill_nonce(opening_key, beacon, device)))
            roots, openings = _forge_memory(params, fill_seed, seed, positions)
            proof, seconds = roots.to_wire(), params.operations / MEMORY_RATE
    return _Proven(seed, proof, seconds, {tuple(opening.position): opening.to_wire() for opening in openings})


def _forge(
    params: MatmulParams, seed: bytes, positions: Sequence[Sequence[int]]
) -> tuple[MatmulCommitment, list[TileOpening]]:
    """Commit to a product of which only the tiles at the positions are computed."""
    of_round: dict[int, list[TilePosition]] = {}
    for position in positions:
        asked = TilePosition(*position)
        of_round.setdefault(asked.round_index, []).append(asked)
    recomputer, blank = TileRecomputer(params), bytes(params.leaf_bytes)
    blank_hash = merkle.leaf_hash(blank)
    seeds: list[bytes] = []
    roots: list[bytes] = []
    openings: dict[TilePosition, TileOpening] = {}
    for index in range(params.rounds):
        seeds.append(next_round_seed(seed, seeds, roots))
        if index not in of_round:
            roots.append(hashlib.sha256(seeds[-1]).digest())
            continue
        keys = prng.round_keys(seeds[index], params.n)
        leaves: dict[int, bytearray] = {}
        for asked in of_round[index]:
            row, column = asked.tile_row * params.tile, asked.tile_column * params.tile
            digest = tile_digest_bytes(recomputer.product(keys, asked), keys, row, column)
            leaf = leaves.setdefault(asked.tile_row, bytearray(blank))
            leaf[asked.tile_column * len(digest) : (asked.tile_column + 1) * len(digest)] = digest
        hashes = [
            merkle.leaf_hash(bytes(leaves[row])) if row in leaves else blank_hash
            for row in range(params.tiles_per_side)
        ]
        roots.append(merkle.root_of_hashes(hashes))
        for asked in of_round[index]:
            path = tuple(merkle.inclusion_proof(hashes, asked.tile_row))
            openings[asked] = TileOpening(asked, bytes(leaves[asked.tile_row]), path)
    return MatmulCommitment(tuple(roots)), [openings[TilePosition(*position)] for position in positions]


def _forge_memory(
    params: MemoryParams, fill_seed: bytes, seed: bytes, positions: Sequence[Sequence[int]]
) -> tuple[MemoryCommitment, list[BlockOpening]]:
    """Commit to passes of which only the blocks at the positions are digested."""
    of_pass: dict[int, list[BlockPosition]] = {}
    for position in positions:
        asked = BlockPosition(*position)
        of_pass.setdefault(asked.pass_index, []).append(asked)
    digester = BlockDigester()
    roots: list[bytes] = []
    openings: dict[BlockPosition, BlockOpening] = {}
    key = first_pass_key(fill_seed, seed)
    blank = [bytes(len(params.leaf_blocks(leaf)) * DIGEST_BYTES) for leaf in range(params.leaves_count)]
    blank_hashes = [merkle.leaf_hash(leaf) for leaf in blank]
    blank_root = merkle.root_of_hashes(blank_hashes)
    for index in range(params.passes):
        root = blank_root
        if index in of_pass:
            keys, leaves, hashes = PassKeys.of(key), dict[int, bytearray](), list(blank_hashes)
            for asked in of_pass[index]:
                lanes = digester.digests(block_words(params, fill_seed, asked.block)[None, :], keys)
                number, place = divmod(asked.block, LEAF_BLOCKS)
                leaf = leaves.setdefault(number, bytearray(blank[number]))
                leaf[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES] = digest_bytes(lanes)
            for number, leaf in leaves.items():
                hashes[number] = merkle.leaf_hash(bytes(leaf))
            root = merkle.root_of_hashes(hashes)
            for asked in of_pass[index]:
                number = asked.block // LEAF_BLOCKS
                path = tuple(merkle.inclusion_proof(hashes, number))
                openings[asked] = BlockOpening(asked, bytes(leaves[number]), path)
        roots.append(root)
        key = next_pass_key(key, root)
    return MemoryCommitment(tuple(roots)), [openings[BlockPosition(*position)] for position in positions]


def _search(params: PowParams, seed: bytes) -> dict[str, object]:
    scan = _compiled_scan()
    backend = NumpyPowBackend(lanes=8192, calls=4) if scan is None else NativePowBackend(scan, 1)
    backend.prepare(params)
    return solve_pow(params, seed, backend).commitment.to_wire()


@functools.cache
def _compiled_scan() -> NativeScan | None:
    """Return the scan in compiled code, thirty times as fast as numpy's; None where there is no compiler."""
    try:
        return NativeScan(ensure_library(Path(tempfile.mkdtemp(prefix="polarise-scale-"))))
    except NativeUnavailable:
        return None


def _opened(miner: _Miner, request: OpenRequest) -> bytes:
    answer = miner.answers.pop(request.challenge_id)
    openings = [answer.openings[position.numbers] for position in request.positions]
    return json.dumps({"status": "success", "openings": openings}).encode()


def _length_of(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _write(writer: asyncio.StreamWriter, body: bytes, media_type: str = "application/json") -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)


def main() -> None:
    """Serve: count, port, the validator's key, the control file."""
    count, port, validator_key, control = sys.argv[1:]
    asyncio.run(Simulation(int(count), validator_key, Path(control)).serve(int(port)))


if __name__ == "__main__":
    main()
