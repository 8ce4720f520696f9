"""The validator, built on one screen: who exists, who talks to whom, what starts in which order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from challenges.hardware import HardwareTable
from config.schema import Config
from neurons.base.ledger_access import ledger_client
from neurons.base.node import BaseNode
from neurons.base.outbox import Outbox
from neurons.base.service import Service
from neurons.validator.chain import Chain
from neurons.validator.challenges import ChallengeGenerator
from neurons.validator.epoch import EpochService
from neurons.validator.examination import Examiner
from neurons.validator.inspection import Inspector
from neurons.validator.metrics import FILE_NAME, MetricsHandler
from neurons.validator.proof_round import ProofRound
from neurons.validator.records import EpochRecorder, RecordFacts
from neurons.validator.scoring import ScoringSystem
from neurons.validator.verification import VerificationEngine
from polarise.canonical import digest_hex
from polarise.clients import MinerClient
from polarise.quantities import parse_size
from polarise.registry import RegistryEntry
from polarise.signing import Identity
from utils.clock import Clock, SystemClock

OUTBOX_FILE = "outbox.sqlite"
REQUEST_SECONDS = 10.0


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
        """Build every part."""
        settings, files, key = self.config.validator, self.data_dir, self.identity.public_key
        client = ledger_client(self.config, files.root)
        outbox = self.closing(Outbox(files.root / OUTBOX_FILE, self.identity, client, self.clock))
        chain = Chain(client, outbox, key)
        metrics = self.closing(MetricsHandler(files.root / FILE_NAME))
        engine = self.closing(VerificationEngine(HardwareTable.load()))
        generator = ChallengeGenerator(key, target_seconds=settings.proof_target_seconds, openings=settings.openings)
        inspector = Inspector(
            key,
            memory_bytes=parse_size(settings.inspect_memory),
            cpu_milli=round(settings.inspect_cpu_count * 1000),
            allow_private=settings.allow_private_endpoints,
        )
        examiner = Examiner(
            key,
            generator,
            ProofRound(),
            engine,
            inspector if settings.inspect else None,
            ScoringSystem(),
            metrics,
            files.evidence,
            self.client,
            self.clock,
        )
        facts = RecordFacts(config_hash=self.config_hash(), uri=f"http://{self.config.network.host}")
        epochs = EpochService(
            chain,
            generator,
            examiner,
            EpochRecorder(self.identity, chain, metrics, facts, self.clock),
            metrics,
            files.evidence,
            self.clock,
            epoch_seconds=settings.epoch_seconds,
            retention_hours=settings.evidence_retention_hours,
        )
        return [outbox, epochs]

    def client(self, entry: RegistryEntry) -> MinerClient:
        """Return how a miner is called."""
        return MinerClient(
            entry.endpoint,
            entry.node_key,
            self.identity,
            allow_private=self.config.validator.allow_private_endpoints,
            timeout_seconds=REQUEST_SECONDS,
        )

    def config_hash(self) -> str:
        """Return the hash of the settings that decide an examination; it stands in every epoch record."""
        deciding = ("proof_target_seconds", "openings", "inspect", "inspect_memory", "inspect_cpu_count")
        return digest_hex(self.config.validator.model_dump(mode="json", include=set(deciding)))

    def describe(self) -> dict[str, object]:
        """Name the ledger and the rhythm in the start line."""
        return {"ledger": self.config.ledger.endpoint, "epoch_seconds": self.config.validator.epoch_seconds}
