"""A real agent behind the miner's real event routes, and everybody who asks there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flask import Flask

from neurons.base.access import RoleTable
from neurons.base.agent_client import AgentClient
from neurons.base.http_app import Gatekeeper, HttpApp
from neurons.base.http_server import HttpService
from neurons.base.nonces import NonceStore
from neurons.base.service import Supervisor
from neurons.base.tokens import TokenIssuer, TokenSecret
from neurons.miner.telemetry_routes import TELEMETRY_ACCESS, TelemetryRoutes
from neurons.validator.cosigning import Cosigner
from neurons.validator.telemetry import TelemetryReader
from polarise.cosignature import witness_name
from polarise.evidence import TelemetryEvidence
from polarise.generations import Generations
from polarise.registry import STATEMENT_KIND, RegistryEntry
from polarise.signing import Identity, Purpose, SigningKey
from polarise.telemetry_client import TelemetryClient
from telemetry.archive import Archive
from tests.support.proving_miner import entry_of
from tests.unit.neurons.agent.agent_process import NODE_KEY, AgentProcess
from tlog.witness import Witness
from utils.clock import SystemClock

VALIDATOR, AUDITOR, RENTER_ID, OTHER, OWNER = (Identity(SigningKey(bytes([number]) * 32)) for number in range(11, 16))
SECOND_VALIDATOR, THIRD_VALIDATOR = (Identity(SigningKey(bytes([number]) * 32)) for number in (16, 17))


@dataclass
class Market:
    """A miner's HTTP server in front of an agent."""

    agent: AgentProcess
    url: str

    def reader(self, who: Identity) -> TelemetryClient:
        """Return the event routes as ``who`` sees them."""
        return TelemetryClient(self.url, NODE_KEY, who)


def serve(flask: Flask) -> tuple[Supervisor, str]:
    """Serve an application on a free port; returns its URL and what stops it."""
    http = HttpService(flask, "127.0.0.1", 0, threads=8, max_body_bytes=65536, idle_seconds=5)
    http.prepare()
    url = f"http://127.0.0.1:{http.port}"
    supervisor = Supervisor(http)
    supervisor.start()
    return supervisor, url


@contextlib.contextmanager
def served(agent: AgentProcess, folder: Path) -> Iterator[Market]:
    """Serve the event routes of an agent until the block ends."""
    roles = RoleTable(
        OWNER.public_key,
        validators=[who.public_key for who in (VALIDATOR, SECOND_VALIDATOR, THIRD_VALIDATOR)],
        renters=[RENTER_ID.public_key, OTHER.public_key],
        auditors=[AUDITOR.public_key],
    )
    with NonceStore(folder / "nonces.sqlite") as nonces:
        gatekeeper = Gatekeeper(
            NODE_KEY,
            roles,
            TELEMETRY_ACCESS,
            nonces,
            TokenIssuer([TokenSecret("x" * 32)], 3600, NODE_KEY),
            SystemClock(),
        )
        app = HttpApp("miner", gatekeeper, streams_max=4)
        TelemetryRoutes(AgentClient(agent.node_dir)).register(app)
        supervisor, url = serve(app.flask)
        yield Market(agent, url)
        assert supervisor.stop(15)


@dataclass
class ReadingValidator:
    """The part of a validator that reads logs and cosigns them."""

    identity: Identity
    witness: Witness
    archive: Archive
    url: str
    generations: Generations = field(default_factory=Generations)

    @property
    def vkey(self) -> str:
        return self.witness.verifier.vkey

    def read(self) -> TelemetryEvidence:
        entry = entry_of(self.url).open(STATEMENT_KIND, RegistryEntry).model_copy(update={"node_key": NODE_KEY})
        cosigner = Cosigner(self.witness, self.identity.subkey(Purpose.WITNESS).certificate, SystemClock())
        return TelemetryReader(
            self.archive,
            lambda _entry: TelemetryClient(self.url, NODE_KEY, self.identity),
            is_pace_judged=False,
            cosigner=cosigner,
            generations=self.generations,
        ).read(entry)


@contextlib.contextmanager
def reading(folder: Path, url: str, who: Identity = VALIDATOR) -> Iterator[ReadingValidator]:
    name = who.public_key[:8]
    subkey = who.subkey(Purpose.WITNESS)
    with (
        Archive(folder / f"{name}-telemetry.sqlite") as archive,
        Witness(folder / f"{name}-witness.sqlite", witness_name(who.public_key), subkey.key, []) as witness,
    ):
        yield ReadingValidator(who, witness, archive, url)
