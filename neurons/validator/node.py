"""The validator, built on one screen: who exists, who talks to whom, what starts in which order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import polarise
from challenges.hardware import HardwareTable
from config.schema import Config
from neurons.base.access import RoleTable
from neurons.base.anchor import Anchor
from neurons.base.audit_sinks import LocalSink
from neurons.base.audit_spool import AuditSpool
from neurons.base.audit_trail import AuditTrail, about_node
from neurons.base.health import Health
from neurons.base.http_app import Gatekeeper, HttpApp
from neurons.base.http_server import HttpService, reached_at
from neurons.base.key_rotation import publish
from neurons.base.key_watch import GENERATIONS_FILE
from neurons.base.ledger_access import ledger_client
from neurons.base.metrics import MetricsTracker
from neurons.base.node import BaseNode
from neurons.base.nonces import NonceStore
from neurons.base.openapi_routes import OpenApiRoutes
from neurons.base.outbox import OUTBOX_FILE, Outbox
from neurons.base.rate_limits import rate_limits
from neurons.base.service import Service
from neurons.base.tls import server_tls
from neurons.base.tokens import TokenIssuer, load_token_secrets
from neurons.validator.access_table import VALIDATOR_ACCESS
from neurons.validator.chain import Chain
from neurons.validator.challenges import ChallengeGenerator
from neurons.validator.cosigning import Cosigner, block_order
from neurons.validator.epoch import EpochService, Pace
from neurons.validator.evidence_files import EvidenceFiles
from neurons.validator.examination import Examiner
from neurons.validator.http_server import ValidatorRoutes
from neurons.validator.inspection import Inspector
from neurons.validator.metrics import FILE_NAME, MetricsHandler
from neurons.validator.opening_files import OpeningFolder
from neurons.validator.operations import validator_document
from neurons.validator.readiness import Readiness
from neurons.validator.records import EpochRecorder, RecordFacts
from neurons.validator.retention import Retention
from neurons.validator.rounds import ProofRounds
from neurons.validator.scoring import RULES_VERSION, ScoringSystem
from neurons.validator.stamper import Stamper
from neurons.validator.status_page import StatusPage
from neurons.validator.telemetry import TelemetryReader
from neurons.validator.verdicts import VerdictSender
from neurons.validator.verification import VerificationEngine
from neurons.validator.wave import Wave
from neurons.validator.witness_routes import WitnessRoutes
from polarise.canonical import digest_hex
from polarise.clients import MinerClient
from polarise.cosignature import witness_name
from polarise.generations import Generations
from polarise.ledger_client import LedgerClient
from polarise.quantities import parse_size
from polarise.registry import RegistryEntry
from polarise.signing import Identity, Purpose
from polarise.stream import AUDIT
from polarise.telemetry_client import TelemetryClient
from polarise.validator_messages import ValidatorStatus
from telemetry.archive import Archive
from tlog.witness import Witness, log_name
from utils.clock import Clock, SystemClock

ARCHIVE_FILE = "telemetry.sqlite"
# Agents sign their samples every five seconds; in shorter epochs a log may honestly stand still.
PACE_SECONDS = 15
OPENINGS_FOLDER = "openings"
WITNESS_FILE = "witness.sqlite"
REQUEST_SECONDS = 10.0
CHECKERS_MAX = 4


class ValidatorNode(BaseNode):
    """Finds out whether miners have what they claim and keep what they promise; needs no GPU and no torch.

    Args:
        config: The node's settings.
        data_dir: Folder of this node.
        identity: The node's key.
        clock: Wall and monotonic clock.
    """

    role = "validator"

    def __init__(self, config: Config, data_dir: Path, identity: Identity, *, clock: Clock | None = None) -> None:
        super().__init__(data_dir, identity.public_key)
        self.identity = identity
        self.config = config
        self.clock = clock or SystemClock()

    def build_services(self) -> Sequence[Service]:
        """Build every part; the port comes first, so that a taken one is said at once."""
        settings, files, key = self.config.validator, self.data_dir, self.identity.public_key
        client = ledger_client(self.config, files.root)
        outbox = self.closing(Outbox(files.root / OUTBOX_FILE, self.identity, client, self.clock))
        publish(outbox, self.identity)
        witness = self.build_witness(client)
        cosigner = Cosigner(witness, self.identity.subkey(Purpose.WITNESS).certificate, self.clock)
        generations = Generations(files.root / GENERATIONS_FILE)
        chain = Chain(client, outbox, key, cosigner.cosign_ledger, generations)
        metrics = self.closing(MetricsHandler(files.root / FILE_NAME))
        engine = self.closing(VerificationEngine(HardwareTable.load(), workers=min(os.cpu_count() or 1, CHECKERS_MAX)))
        generator = ChallengeGenerator(key, target_seconds=settings.proof_target_seconds, openings=settings.openings)
        inspector = Inspector(
            key,
            memory_bytes=parse_size(settings.inspect_memory),
            cpu_milli=round(settings.inspect_cpu_count * 1000),
            allow_private=settings.allow_private_endpoints,
            generations=generations,
        )
        openings = OpeningFolder(files.root / OPENINGS_FOLDER)
        validators = [member.key for member in client.genesis.validators]
        wave = Wave(self.closing(Stamper()), self.clock, validators, openings, generations)
        rounds = ProofRounds(generator, wave, engine, self.client, same_host=settings.same_host)
        examiner = Examiner(
            self.identity,
            generator,
            inspector if settings.inspect else None,
            self.telemetry_reader(cosigner, generations) if settings.read_telemetry else None,
            ScoringSystem(),
            metrics,
            files.evidence,
            self.client,
            self.clock,
            retention_hours=settings.evidence_retention_hours,
            openings=openings,
        )
        facts = RecordFacts(config_hash=self.config_hash(), uri=self.public_url)
        counters = MetricsTracker()
        verdicts = VerdictSender(self.identity, metrics, self.client, self.public_url, counters)
        epochs = EpochService(
            chain,
            generator,
            rounds,
            examiner,
            EpochRecorder(self.identity, chain, metrics, facts, self.clock),
            metrics,
            Retention(
                self.identity,
                metrics,
                files.evidence,
                self.clock,
                hours=settings.evidence_retention_hours,
                bytes_max=parse_size(settings.evidence_max_size),
            ),
            self.clock,
            Pace(
                epoch_seconds=settings.epoch_seconds,
                proof_every=settings.proof_every,
                inspect_every=settings.inspect_every if settings.inspect else 0,
                parallel=settings.parallel,
            ),
            verdicts=verdicts,
        )
        log = self.closing(LocalSink(files.root, self.identity, self.role, self.clock))
        spool = self.closing(AuditSpool(files.root))
        audit = AuditTrail(spool, log, about_node(self.role, self.config, rules=str(RULES_VERSION)))
        self.http = self.build_http(client, metrics, counters, witness, audit)
        anchor = Anchor(key, lambda _audit: log.latest(), outbox, (AUDIT,))
        return [self.http, audit, outbox, anchor, verdicts, epochs]

    def build_witness(self, client: LedgerClient) -> Witness:
        """Build what remembers how far each log was cosigned; it follows the ledger, and each miner's log once read."""
        log = client.genesis.log
        return self.closing(
            Witness(
                self.data_dir.root / WITNESS_FILE,
                witness_name(self.node_key),
                self.identity.subkey(Purpose.WITNESS).key,
                [log],
                {log.name: block_order(log)},
            )
        )

    def build_http(
        self,
        client: LedgerClient,
        metrics: MetricsHandler,
        counters: MetricsTracker,
        witness: Witness,
        audit: AuditTrail,
    ) -> HttpService:
        """Build the API and the page; nobody is called through it, so its only role is the owner's."""
        config, clock, files = self.config, self.clock, self.data_dir
        owner = self.identity.owner_certificate
        limits = rate_limits(config.requests, clock)
        gatekeeper = Gatekeeper(
            self.identity.public_key,
            RoleTable(owner.issuer if owner else None),
            VALIDATOR_ACCESS,
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
            "validator",
            gatekeeper,
            streams_max=config.network.threads // 2,
            stream_seconds_max=config.requests.stream_seconds,
            audit=audit,
        )

        def about() -> ValidatorStatus:
            ledger = witness.seen(log_name(client.genesis.origin))
            return ValidatorStatus(
                node_key=self.identity.public_key,
                version=polarise.__version__,
                net=client.genesis.net,
                ledger=client.endpoint,
                public_url=self.public_url(),
                epoch_seconds=config.validator.epoch_seconds,
                epoch=None,
                rules_version=RULES_VERSION,
                witness=witness.verifier.vkey,
                cosigned_ledger_size=None if ledger is None else ledger.size,
            )

        readiness = Readiness(client, metrics, clock, epoch_seconds=config.validator.epoch_seconds)
        ValidatorRoutes(
            about,
            metrics,
            EvidenceFiles(files.evidence, metrics),
            StatusPage(about, metrics, clock),
            Health({"ledger": readiness.ledger, "epochs": readiness.epochs}),
            counters,
        ).register(app)
        certificate = self.identity.subkey(Purpose.WITNESS).certificate
        WitnessRoutes(witness, certificate, counters, clock).register(app)
        OpenApiRoutes(validator_document).register(app)
        return HttpService(
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

    def telemetry_reader(self, cosigner: Cosigner, generations: Generations) -> TelemetryReader:
        """Return what reads the miners' logs."""
        allow_private = self.config.validator.allow_private_endpoints

        def clients(entry: RegistryEntry) -> TelemetryClient:
            return TelemetryClient(
                entry.endpoint,
                entry.node_key,
                self.identity,
                allow_private=allow_private,
                tls_public_key=entry.tls_public_key,
            )

        archive = self.closing(Archive(self.data_dir.root / ARCHIVE_FILE))
        is_pace_judged = self.config.validator.epoch_seconds >= PACE_SECONDS
        return TelemetryReader(
            archive, clients, is_pace_judged=is_pace_judged, cosigner=cosigner, generations=generations
        )

    def public_url(self) -> str:
        """Return where others reach this API; known once the port is bound."""
        return self.config.validator.public_url or reached_at(self.config.network, self.http.port)

    def client(self, entry: RegistryEntry) -> MinerClient:
        """Return how a miner is called."""
        return MinerClient(
            entry.endpoint,
            entry.node_key,
            self.identity,
            allow_private=self.config.validator.allow_private_endpoints,
            timeout_seconds=REQUEST_SECONDS,
            tls_public_key=entry.tls_public_key,
        )

    def config_hash(self) -> str:
        """Return the hash of the settings that decide an examination; it stands in every epoch record."""
        deciding = (
            "proof_target_seconds",
            "openings",
            "inspect",
            "inspect_memory",
            "inspect_cpu_count",
            "proof_every",
            "inspect_every",
            "same_host",
        )
        return digest_hex(self.config.validator.model_dump(mode="json", include=set(deciding)))

    def describe(self) -> dict[str, object]:
        """Name the port, the ledger and the rhythm in the start line."""
        return {
            "url": self.http.url,
            "ledger": self.config.ledger.endpoint,
            "epoch_seconds": self.config.validator.epoch_seconds,
        }
