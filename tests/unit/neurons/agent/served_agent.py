"""A real agent behind the miner's real event routes, and everybody who asks there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
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
from polarise.signing import Identity, SigningKey
from polarise.telemetry_client import TelemetryClient
from tests.unit.neurons.agent.agent_process import NODE_KEY, AgentProcess
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
