"""The validator, built on one screen: who exists, who talks to whom, what starts in which order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from challenges.hardware import HardwareTable
from config.schema import Config
from neurons.base.node import BaseNode
from neurons.base.service import Service
from neurons.validator.challenges import ChallengeGenerator
from neurons.validator.epoch import EpochService
from neurons.validator.examination import Examiner
from neurons.validator.inspection import Inspector
from neurons.validator.matmul_round import MatmulRound
from neurons.validator.metrics import FILE_NAME, MetricsHandler
from neurons.validator.scoring import ScoringSystem
from neurons.validator.verification import VerificationEngine
from polarise.clients import MinerClient
from polarise.quantities import parse_size
from polarise.registry import RegistryEntry
from polarise.signing import Identity
from utils.clock import Clock, SystemClock

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
        super().__init__(data_dir, identity)
        self.config = config
        self.clock = clock or SystemClock()

    def build_services(self) -> Sequence[Service]:
        """Build every part."""
        settings, files, key = self.config.validator, self.data_dir, self.identity.public_key
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
            MatmulRound(),
            engine,
            inspector if settings.inspect else None,
            ScoringSystem(),
            metrics,
            files.evidence,
            self.client,
            self.clock,
        )
        epochs = EpochService(
            settings.registry,
            generator,
            examiner,
            metrics,
            files.evidence,
            self.clock,
            epoch_seconds=settings.epoch_seconds,
            retention_hours=settings.evidence_retention_hours,
        )
        return [epochs]

    def client(self, entry: RegistryEntry) -> MinerClient:
        """Return how a miner is called."""
        return MinerClient(
            entry.endpoint,
            entry.node_key,
            self.identity,
            allow_private=self.config.validator.allow_private_endpoints,
            timeout_seconds=REQUEST_SECONDS,
        )

    def describe(self) -> dict[str, object]:
        """Name the registry and the rhythm in the start line."""
        settings = self.config.validator
        return {"registry": str(settings.registry), "epoch_seconds": settings.epoch_seconds}
