"""The miner, built on one screen: who exists, who talks to whom, what starts in which order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from config.schema import Config
from neurons.base.access import RoleTable
from neurons.base.agent_client import AgentClient
from neurons.base.anchor import Anchor
from neurons.base.audit_sinks import AgentSink
from neurons.base.audit_spool import AuditSpool
from neurons.base.audit_trail import AuditTrail, about_node
from neurons.base.health import Health
from neurons.base.http_app import Gatekeeper, HttpApp
from neurons.base.http_server import HttpService
from neurons.base.key_rotation import publish
from neurons.base.key_watch import GENERATIONS_FILE, KeyWatch
from neurons.base.ledger_access import ledger_client
from neurons.base.log_epochs import renew_log_epochs
from neurons.base.metrics import MetricsTracker
from neurons.base.node import BaseNode
from neurons.base.nonces import NonceStore
from neurons.base.openapi_routes import OpenApiRoutes
from neurons.base.outbox import OUTBOX_FILE, Outbox
from neurons.base.rate_limits import RateLimits, rate_limits
from neurons.base.service import Service
from neurons.base.staked import StakedValidators
from neurons.base.tls import server_tls
from neurons.base.tokens import TokenIssuer, load_token_secrets
from neurons.miner import settings
from neurons.miner.access_table import MINER_ACCESS
from neurons.miner.admission import Admission
from neurons.miner.agent_process import AgentProcess
from neurons.miner.allocate import ResourceAllocator
from neurons.miner.bandwidth_cap import BandwidthCap
from neurons.miner.container import ContainerManager
from neurons.miner.disk import LeaseDisks
from neurons.miner.disk_offer import DiskOffer
from neurons.miner.drain import Drain
from neurons.miner.engine import EngineWatch
from neurons.miner.firewall import Firewall
from neurons.miner.hardware import detect_devices
from neurons.miner.http_server import MinerRoutes
from neurons.miner.image_tree import ImageTrees
from neurons.miner.journal import Journal
from neurons.miner.keeper import LeaseKeeper
from neurons.miner.lease_events import LeaseEvents
from neurons.miner.metering import Metering
from neurons.miner.monitor import ResourceMonitor
from neurons.miner.netlink_watch import NetlinkWatch
from neurons.miner.network import NodeNetwork
from neurons.miner.operations import miner_document
from neurons.miner.orders import OrderBook
from neurons.miner.pow import ChallengeHandler
from neurons.miner.receipts import ReceiptWriter
from neurons.miner.reconcile import Reconciler
from neurons.miner.release import DeviceRelease
from neurons.miner.rented import RentedDevices
from neurons.miner.running import RunningLeases
from neurons.miner.slot_keeper import SlotKeeper
from neurons.miner.solver import SolverProcess
from neurons.miner.telemetry_routes import TelemetryRoutes
from neurons.miner.usage_book import UsageBook
from neurons.miner.validations import ValidationTracker
from neurons.miner.verdicts import VerdictBook
from polarise.generations import Generations
from polarise.signing import Identity
from polarise.stream import AUDIT, SYSTEM
from utils.clock import Clock, SystemClock
from utils.docker_utils import check_engine, connect


class MinerNode(BaseNode):
    """Rents out ssh containers and proves the hardware under them.

    Args:
        config: The node's settings.
        data_dir: Folder of this node.
        identity: The node's key.
        clock: Wall, boot and monotonic clock.
        reach: Called with the name of each step of allocate and terminate; crash tests end the process there.
    """

    role = "miner"

    def __init__(
        self,
        config: Config,
        data_dir: Path,
        identity: Identity,
        *,
        clock: Clock | None = None,
        reach: Callable[[str], None] = lambda _step: None,
    ) -> None:
        super().__init__(data_dir, identity.public_key)
        self.identity = identity
        self.config = config
        self.clock = clock or SystemClock()
        self.reach = reach

    def build_services(self) -> Sequence[Service]:
        """Build every part; the engine and the port come first, so that what is missing is said at once."""
        config, clock, files = self.config, self.clock, self.data_dir
        client = connect(config.docker.host)
        self.closing(contextlib.closing(client))
        container_settings = settings.container_settings(config, self.node_id, files)
        agent = AgentClient(files.root)
        anchoring, staked = self.build_ledger_parts(agent)
        roles = settings.role_table(config, self.identity, staked.keys if staked else frozenset)
        journal = self.closing(Journal(files.journal))
        book = UsageBook(journal, self.identity)
        events = LeaseEvents(agent, anchoring[1].request if anchoring else lambda _lease_id: None, book.final)
        self.firewall = Firewall(
            self.node_id,
            config.network.firewall,
            files.firewall,
            on_change=lambda cause: events.tell_firewall(journal.all(), cause),
        )
        cap = BandwidthCap(config.network.lease_upload_bits_per_second, config.network.lease_download_bits_per_second)
        network = NodeNetwork(
            self.node_id, settings.ssh_ports(config, self.node_id), self.firewall, cap, journal.private_numbers
        )
        disk_folder = config.docker.disk_folder or files.root / "disks"
        trees = ImageTrees(client, disk_folder / "images", self.node_id)
        disks = LeaseDisks(disk_folder, self.node_id, trees, self.reach)
        defaults = settings.allocation_defaults(config)
        offered_images = sorted({defaults.image, *defaults.allowed_images})
        self.disk_offer = DiskOffer(client, disks, settings.disk_settings(config), offered_images)
        manager = self.build_manager(
            ContainerManager(client, container_settings, network, events.mount, disks, self.reach)
        )
        metering = Metering(journal, book, manager, clock)
        drain = Drain(files.root)
        admission = Admission(defaults, self.disk_offer, network.private.why_none)
        leases = RunningLeases(manager, journal, admission, events, metering, clock, self.reach)
        receipts = ReceiptWriter(self.identity, config.network.advertised_host)
        inventory = settings.inventory(config, self.node_id, self.disk_offer.capacity_bytes)
        rented = RentedDevices(
            journal,
            receipts,
            miner_key=self.node_key,
            owner_key=settings.owner_key(self.identity),
            clock=clock,
            cpu_milli=inventory.cpu_milli,
        )
        tracker = self.closing(ValidationTracker(files.root / "validations.sqlite"))
        devices = detect_devices(claim_cpu=config.miner.claim_cpu)
        self.solver_command, self.solver_user = settings.solver_program(config, self.node_id, files.root, devices)
        release = DeviceRelease()
        challenges = self.closing(
            ChallengeHandler(
                self.identity,
                devices,
                tracker,
                OrderBook(self.node_key, tracker, settings.known_validators(config)),
                rented,
                clock,
                proof_seconds_max=config.miner.max_proof_seconds,
                duty_percent=config.miner.proof_duty_percent,
                start_solver=self.start_solver,
                release=release,
            )
        )

        def check_open() -> None:
            drain.check()
            check_engine(client)

        self.allocator = ResourceAllocator(
            leases,
            inventory,
            admission,
            clock,
            self.reach,
            challenges.proving,
            check_open,
            release.check,
            settings.open_quota(config, roles),
        )
        tokens = TokenIssuer(
            load_token_secrets(files.token_secrets, config.security.secret_key),
            config.security.token_expiry,
            self.identity.public_key,
        )
        limits = rate_limits(config.requests, clock)
        self.audit = self.build_audit(agent)
        app = self.build_app(roles, tokens, limits, self.audit)
        engine = EngineWatch(
            client,
            network,
            container_settings.label,
            settings.base_image(config),
            used_ports=lambda: [lease.ssh_port for lease in journal.all()],
        )
        MinerRoutes(
            self.identity.public_key,
            self.allocator,
            challenges,
            VerdictBook(self.identity.public_key, tracker, clock),
            receipts,
            rented,
            ResourceMonitor(client, disks),
            tokens,
            Health({"engine": engine.check, "firewall": self.firewall.check, "services": self.check_services}),
            MetricsTracker(),
            clock,
            drain,
        ).register(app)
        TelemetryRoutes(agent).register(app)
        OpenApiRoutes(miner_document).register(app)
        self.http = HttpService(
            app.flask,
            config.network.host,
            config.network.port,
            # A proof holds a thread as long as it takes, and each device can have one.
            threads=config.network.threads + len(devices),
            max_body_bytes=config.network.max_body_bytes,
            idle_seconds=config.network.request_timeout_seconds,
            connections_max=config.network.max_connections,
            limits=limits,
            tls=server_tls(config.network, self.identity, clock),
        )
        self.reconciler = Reconciler(self.allocator, clock)
        # Stopped in reverse: the engine's watch takes the bridges away, then the filter goes with the last of them.
        services: list[Service] = [
            self.firewall,
            engine,
            self.disk_offer,
            self.reconciler,
            LeaseKeeper(leases, clock),
            metering,
            NetlinkWatch(leases),
            SlotKeeper(self.allocator, admission, self.node_key, clock, count=config.docker.warm_slots),
            self.audit,
            self.http,
        ]
        if config.telemetry.start_agent:
            services.insert(0, AgentProcess(config, files.root, self.identity, agent))
        return [*services, *(anchoring or ()), *([staked] if staked else ())]

    def build_app(self, roles: RoleTable, tokens: TokenIssuer, limits: RateLimits, audit: AuditTrail) -> HttpApp:
        """Build what decides who gets in."""
        gatekeeper = Gatekeeper(
            self.node_key,
            roles,
            MINER_ACCESS,
            self.closing(NonceStore(self.data_dir.nonces)),
            tokens,
            self.clock,
            limits,
            self.generations,
        )
        return HttpApp(
            "miner",
            gatekeeper,
            streams_max=self.config.network.threads // 2,
            stream_seconds_max=self.config.requests.stream_seconds,
            audit=audit,
        )

    def build_ledger_parts(
        self, agent: AgentClient
    ) -> tuple[tuple[Outbox, Anchor, KeyWatch] | None, StakedValidators | None]:
        """Build what puts checkpoints on the ledger, and what reads its validators and whose subkeys were replaced.

        None where the node knows no ledger.
        """
        self.generations = Generations(self.data_dir.root / GENERATIONS_FILE)
        if self.config.ledger.genesis is None:
            return None, None
        client, stake_min = ledger_client(self.config, self.data_dir.root), self.config.access.min_validator_stake
        outbox = self.closing(Outbox(self.data_dir.root / OUTBOX_FILE, self.identity, client, self.clock))
        publish(outbox, self.identity)
        renew_log_epochs(self.data_dir.root, self.identity)
        staked = None if stake_min is None else StakedValidators(client, stake_min)

        def latest(stream_id: str) -> bytes | None:
            note = agent.checkpoint(agent.epochs().system if stream_id == SYSTEM else stream_id).note
            return None if note is None else note.encode()

        anchor = Anchor(self.node_key, latest, outbox, (SYSTEM, AUDIT))
        return (outbox, anchor, KeyWatch(client, self.generations)), staked

    def build_audit(self, agent: AgentClient) -> AuditTrail:
        """Build what tells the agent's audit log who did what."""
        spool = self.closing(AuditSpool(self.data_dir.root))
        about = about_node(self.role, self.config, image=settings.base_image(self.config))
        return AuditTrail(spool, AgentSink(agent), about)

    def build_manager(self, manager: ContainerManager) -> ContainerManager:
        """Return the container manager; a cheating miner replaces it."""
        return manager

    def start_solver(self) -> SolverProcess:
        """Start one solver process; a cheating miner starts another program."""
        return SolverProcess(self.solver_command, self.solver_user)

    def describe(self) -> dict[str, object]:
        """Name the port and the limits in the start line."""
        return {
            "url": self.http.url,
            "image": settings.base_image(self.config),
            "leases_max": self.config.docker.max_leases,
            "disk": self.disk_offer.describe(),
        }
