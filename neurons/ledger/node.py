"""The ledger, built on one screen: the only process that holds its file and its log key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from config.schema import Config
from ledger.admission import Admission
from ledger.embedded import EmbeddedLedger
from neurons.base.access import RoleTable
from neurons.base.health import Health
from neurons.base.http_app import Gatekeeper, HttpApp
from neurons.base.http_server import HttpService
from neurons.base.metrics import MetricsTracker
from neurons.base.node import BaseNode
from neurons.base.nonces import NonceStore
from neurons.base.openapi_routes import OpenApiRoutes
from neurons.base.rate_limits import rate_limits
from neurons.base.service import Service
from neurons.base.tls import server_tls
from neurons.base.tokens import TokenIssuer, load_token_secrets
from neurons.ledger.access_table import LEDGER_ACCESS
from neurons.ledger.block_maker import BlockMaker
from neurons.ledger.http_server import LedgerRoutes
from neurons.ledger.operations import ledger_document
from neurons.ledger.state_routes import StateRoutes
from polarise.genesis import Genesis, read_genesis
from polarise.signing import Identity, Purpose
from utils.clock import Clock, SystemClock

LEDGER_FILE = "ledger.sqlite"
GENESIS_FILE = "genesis.json"


class LedgerNode(BaseNode):
    """Takes signed transactions, makes blocks, answers questions about both.

    Args:
        config: The node's settings.
        data_dir: Folder of this node; holds the genesis.
        identity: The node's key; its log subkey signs blocks.
        clock: Wall and monotonic clock.
    """

    role = "ledger"

    def __init__(self, config: Config, data_dir: Path, identity: Identity, *, clock: Clock | None = None) -> None:
        super().__init__(data_dir, identity.public_key)
        self.identity = identity
        self.config = config
        self.clock = clock or SystemClock()

    def build_services(self) -> Sequence[Service]:
        """Build every part; the first block is made before the port opens to anybody."""
        config, clock, files = self.config, self.clock, self.data_dir
        genesis = self.read_genesis()
        validators = [member.key for member in genesis.validators]
        self.ledger = self.closing(
            EmbeddedLedger(
                files.root / LEDGER_FILE,
                genesis,
                self.identity.subkey(Purpose.LOG).key,
                clock,
                block_transactions_max=config.ledger.max_block_transactions,
                admission=Admission(validators, senders_max=config.ledger.max_nodes),
            )
        )
        blocks = BlockMaker(self.ledger, clock)
        owner = self.identity.owner_certificate
        limits = rate_limits(config.requests, clock)
        gatekeeper = Gatekeeper(
            self.identity.public_key,
            RoleTable(owner.issuer if owner else None),
            LEDGER_ACCESS,
            self.closing(NonceStore(files.nonces)),
            TokenIssuer(
                load_token_secrets(files.token_secrets, config.security.secret_key),
                config.security.token_expiry,
                self.identity.public_key,
            ),
            clock,
            limits,
        )
        app = HttpApp(
            "ledger",
            gatekeeper,
            streams_max=config.network.threads // 2,
            stream_seconds_max=config.requests.stream_seconds,
        )
        metrics = MetricsTracker()
        metrics.gauge("polarise_ledger_leaves", lambda: float(self.ledger.log.size))
        metrics.gauge("polarise_ledger_height", lambda: float(self.ledger.last_block.block.height))
        health = Health({"blocks": blocks.check})
        LedgerRoutes(self.identity.public_key, self.ledger, health, metrics, limits).register(app)
        StateRoutes(self.ledger).register(app)
        OpenApiRoutes(ledger_document).register(app)
        self.http = HttpService(
            app.flask,
            config.network.host,
            config.network.port,
            threads=config.network.threads,
            max_body_bytes=config.network.max_body_bytes,
            idle_seconds=config.network.request_timeout_seconds,
            connections_max=config.network.max_connections,
            limits=limits,
            tls=server_tls(config.network, self.identity, clock),
        )
        return [self.http, blocks]

    def read_genesis(self) -> Genesis:
        """Read the genesis that `ledger init` wrote, or the one the settings name."""
        return read_genesis(self.config.ledger.genesis or self.data_dir.root / GENESIS_FILE)

    def describe(self) -> dict[str, object]:
        """Name the port and the ledger in the start line."""
        block = self.ledger.last_block.block
        return {
            "url": self.http.url,
            "net": self.ledger.genesis.net,
            "height": block.height,
            "size": block.size,
        }
