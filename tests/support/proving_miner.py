"""A miner on loopback that only proves: the real HTTP stack, the real challenge handler, a real solver process."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from flask import Response

from neurons.base.access import Caller, Role, RoleTable, RouteAccess, Scope
from neurons.base.health import Health
from neurons.base.http_app import Gatekeeper, HttpApp, decode_body
from neurons.base.http_server import HttpService
from neurons.base.nonces import NonceStore
from neurons.base.tokens import TokenIssuer, TokenSecret
from neurons.miner.journal import Journal
from neurons.miner.orders import OrderBook
from neurons.miner.pow import ChallengeHandler
from neurons.miner.receipts import ReceiptWriter
from neurons.miner.rented import RentedDevices
from neurons.miner.solver import SolverProcess
from neurons.miner.validations import ValidationTracker
from neurons.validator.challenges import Challenge, ChallengeGenerator, EpochSecret
from polarise.block import block_hash
from polarise.clients import MinerClient
from polarise.decode import WireModel
from polarise.hardware import DeviceClaim, HardwareClaim
from polarise.messages import CommitAnswer, OpenAnswer, OpenRequest, PrepareRequest, StartRequest
from polarise.registry import STATEMENT_KIND, RegistryEntry
from polarise.signing import Certificate, Identity, Purpose, SigningKey
from polarise.statement import SignedStatement, sign_statement
from utils.clock import Clock, SystemClock

OWNER = SigningKey(b"o" * 32)
VALIDATOR = Identity(SigningKey(b"v" * 32))
OTHER_VALIDATOR = Identity(SigningKey(b"w" * 32))
MINER = Identity(SigningKey(b"m" * 32), Certificate.issue(OWNER, SigningKey(b"m" * 32).public_key, Purpose.NODE))
# 100 Mop/s for a second: n = 256 and three rounds, a few milliseconds on any machine.
# 50 kH/s for a second: 195 shares, some tens of milliseconds.
CPU = DeviceClaim(
    uuid="cpu",
    kind="cpu",
    name="a processor",
    memory_bytes=1 << 30,
    matmul_ops_per_second=100_000_000,
    pow_hashes_per_second=50_000,
)
# 1 MiB of memory read at 10 MB/s for a second: 16 blocks and 10 passes, a few milliseconds; filled in some tens.
CPU_WITH_MEMORY = CPU.model_copy(update={"memory_bytes": 1 << 20, "memory_bytes_per_second": 10_000_000})
# No ledger signed it: whoever checks one proof alone needs a block's hash and not its signature.
BEACON_BLOCK = "ledger.polarise/test\n0\n" + "A" * 43 + "=\n\n\u2014 nobody " + "A" * 92 + "\n"
BEACON = bytes.fromhex(block_hash(BEACON_BLOCK.encode()))
CPU_MILLI = 2000
PROVE_ONLY = RouteAccess({Role.VALIDATOR: Scope.OWN}, needs_signature=True)
TABLE = {
    ("POST", "/challenge/prepare"): PROVE_ONLY,
    ("POST", "/challenge/start"): PROVE_ONLY,
    ("POST", "/challenge/open"): PROVE_ONLY,
    ("GET", "/healthz"): RouteAccess(is_public=True),
}

# One core and small stretches; a cheat replaces one of the backends.
_SOLVER = """
from neurons.miner import solver
from challenges.matmul_messages import MatmulParams
from challenges.memory_backends import NumpyMemoryBackend
from challenges.memory_messages import MemoryParams
from challenges.pow_solver import NumpyPowBackend
from challenges.proofs import MatmulProver, MemoryProver, PowProver
from challenges.solver import NumpyBackend

def provers(matmul=NumpyBackend, pow=lambda: NumpyPowBackend(lanes=4096, calls=1), memory=NumpyMemoryBackend):
    def open_prover(params, device):
        if isinstance(params, MatmulParams):
            return MatmulProver(params, matmul())
        return MemoryProver(params, memory()) if isinstance(params, MemoryParams) else PowProver(params, pow())
    return open_prover
"""
HONEST = f"{_SOLVER}solver.main(provers())\n"
# Sleeps between its stretches, and finds what it has to.
SLOW_HASHING = f"""{_SOLVER}
import time
class Slow(NumpyPowBackend):
    def scan(self, prefix, target, start):
        time.sleep(0.2)
        return super().scan(prefix, target, start)
solver.main(provers(pow=lambda: Slow(lanes=4096, calls=1)))
"""
# Every 16th nonce, whatever its hash is.
FORGING = f"""{_SOLVER}
class Forging(NumpyPowBackend):
    def scan(self, prefix, target, start):
        return list(range(start, start + self.scan_nonces, 16))
solver.main(provers(pow=lambda: Forging(lanes=4096, calls=1)))
"""
SKIPPING = f"""{_SOLVER}
class Skipping(NumpyBackend):
    def multiply(self, a, b):
        product = super().multiply(a, b)
        side = len(product) // 64
        for tile in range(0, side * side, 5):
            row, column = divmod(tile, side)
            product[row * 64:(row + 1) * 64, column * 64:(column + 1) * 64] = 0
        return product
solver.main(provers(matmul=Skipping))
"""
# Fills from another seed than it is told, as one that kept the memory of another proof would.
KEEPING = f"""{_SOLVER}
class Keeping(NumpyMemoryBackend):
    def fill(self, params, fill_seed):
        super().fill(params, bytes(32))
solver.main(provers(memory=Keeping))
"""

View = Callable[[Caller, bytes], WireModel | Response]


@dataclass
class ProvingMiner:
    """Its endpoint and what a test may change: the solver's program, and the views by path."""

    endpoint: str
    handler: ChallengeHandler
    views: dict[str, View]
    identity: Identity
    journal: Journal
    rented: RentedDevices
    clock: Clock

    def client(self, who: Identity = VALIDATOR, *, timeout_seconds: float = 10.0) -> MinerClient:
        """Return a validator's end."""
        return MinerClient(self.endpoint, self.identity.public_key, who, timeout_seconds=timeout_seconds)


@contextlib.contextmanager
def proving_miner(
    folder: Path,
    *,
    program: str = HONEST,
    start_solver: Callable[[], SolverProcess] | None = None,
    devices: tuple[DeviceClaim, ...] = (CPU,),
    identity: Identity = MINER,
    validators: Collection[str] | None = None,
    duty_percent: float = 100,
    clock: Clock | None = None,
) -> Iterator[ProvingMiner]:
    """Serve on a free port until the block ends.

    Args:
        folder: For its three small databases.
        program: What the solver's process runs.
        start_solver: Instead of a process with that program.
        devices: What it says it has.
        identity: Who it is; `OWNER` owns it, whoever it is.
        validators: Keys of the ledger's validators; None for a miner that knows no ledger.
        duty_percent: How much of an hour a device proves.
        clock: Of the proofs and leases; requests are judged by the system's.
    """
    clock = clock or SystemClock()
    tracker = ValidationTracker(folder / "validations.sqlite")
    journal = Journal(folder / "journal.sqlite")
    rented = RentedDevices(
        journal,
        ReceiptWriter(identity, "127.0.0.1"),
        miner_key=identity.public_key,
        owner_key=OWNER.public_key,
        clock=clock,
        cpu_milli=CPU_MILLI,
    )
    handler = ChallengeHandler(
        identity,
        devices,
        tracker,
        OrderBook(identity.public_key, tracker, validators),
        rented,
        clock,
        proof_seconds_max=60,
        duty_percent=duty_percent,
        start_solver=start_solver or (lambda: SolverProcess((sys.executable, "-c", program))),
    )
    nonces = NonceStore(folder / "nonces.sqlite")
    gatekeeper = Gatekeeper(
        identity.public_key,
        RoleTable(OWNER.public_key, validators=[VALIDATOR.public_key, OTHER_VALIDATOR.public_key]),
        TABLE,
        nonces,
        TokenIssuer([TokenSecret("s" * 32)], 60, identity.public_key),
        SystemClock(),
    )
    app = HttpApp("proving miner", gatekeeper, streams_max=1)
    views = _views(handler)
    for path in list(views):
        method = "GET" if path == "/healthz" else "POST"
        app.route(method, path, lambda caller, body, path=path: views[path](caller, body))
    service = HttpService(app.flask, "127.0.0.1", 0, threads=4 + len(devices), max_body_bytes=65536, idle_seconds=5)
    service.prepare()
    endpoint = f"http://127.0.0.1:{service.port}"
    stop = threading.Event()
    thread = threading.Thread(target=service.run, args=(stop,), name="proving miner")
    thread.start()
    try:
        yield ProvingMiner(endpoint, handler, views, identity, journal, rented, clock)
    finally:
        stop.set()
        thread.join()
        handler.close()
        tracker.close()
        journal.close()
        nonces.close()


def _views(handler: ChallengeHandler) -> dict[str, View]:
    def prepare(caller: Caller, body: bytes) -> WireModel:
        return handler.prepare(decode_body(PrepareRequest, body), caller.key)

    def start(caller: Caller, body: bytes) -> WireModel:
        return CommitAnswer(commitment=handler.start(decode_body(StartRequest, body), caller.key))

    def show(caller: Caller, body: bytes) -> WireModel:
        return OpenAnswer(openings=tuple(handler.open(decode_body(OpenRequest, body), caller.key)))

    def healthz(_caller: Caller | None, _body: bytes) -> Response:
        return Health({}).healthz()

    return {
        "/challenge/prepare": prepare,
        "/challenge/start": start,
        "/challenge/open": show,
        "/healthz": healthz,
    }


def entry_of(endpoint: str = "http://127.0.0.1:1", *, devices: tuple[DeviceClaim, ...] = (CPU,)) -> SignedStatement:
    """Return a signed registry entry of the miner."""
    certificate = MINER.owner_certificate
    assert certificate is not None
    entry = RegistryEntry(
        node_key=MINER.public_key,
        owner_key=OWNER.public_key,
        owner_certificate=certificate,
        endpoint=endpoint,
        advertised_host="127.0.0.1",
        hardware=HardwareClaim(cpu_model="a processor", cpu_milli=2000, memory_bytes=1 << 30, devices=devices),
        price_micros_per_hour=0,
        created_unix_ms=1,
    )
    return sign_statement(MINER, STATEMENT_KIND, entry)


def challenges_of(statement: SignedStatement, *, epoch: int = 7) -> tuple[EpochSecret, Challenge, Challenge]:
    """Return an epoch, and the proof of work and the matmul proof of the miner's only device in it.

    Their beacon is the hash of `BEACON_BLOCK`.
    """
    generator = ChallengeGenerator(VALIDATOR.public_key, target_seconds=1, openings=32)
    secret = generator.begin_epoch(epoch, [statement])
    pow_challenge, matmul_challenge = generator.challenges(secret, BEACON, statement.signer, CPU, 0)
    return secret, pow_challenge, matmul_challenge


def memory_challenge_of(statement: SignedStatement, *, epoch: int = 7) -> tuple[EpochSecret, Challenge]:
    """Return an epoch and the memory proof of `CPU_WITH_MEMORY` in it."""
    generator = ChallengeGenerator(VALIDATOR.public_key, target_seconds=1, openings=32)
    secret = generator.begin_epoch(epoch, [statement])
    *_, challenge = generator.challenges(secret, BEACON, statement.signer, CPU_WITH_MEMORY, 0)
    return secret, challenge


def challenge_of(statement: SignedStatement, *, epoch: int = 7) -> tuple[EpochSecret, Challenge]:
    """Return an epoch and the matmul proof of the miner's only device in it."""
    secret, _, challenge = challenges_of(statement, epoch=epoch)
    return secret, challenge
