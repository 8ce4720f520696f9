"""The agent, built on one screen: its own process, the only one that holds a node's log and signs for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from config.schema import Config
from neurons.agent.control import Control
from neurons.agent.cosigned import Cosigned
from neurons.agent.doors import Doors
from neurons.agent.sampling import Sampling, Signing
from neurons.agent.streams import Streams
from neurons.base.log_epochs import read_log_epochs, refuse_restored
from neurons.base.metrics import MetricsTracker
from neurons.base.node import BaseNode
from neurons.base.service import Service
from polarise.signing import Subkey
from telemetry.sampler import Sampler
from telemetry.thresholds import Limits, Thresholds
from tlog.cosignatures import Cosignatures
from utils.clock import Clock, SystemClock
from utils.gpu import GpuSampler

LOCK_SECONDS = 10.0
COSIGNATURES_FILE = "cosignatures.sqlite"


class AgentNode(BaseNode):
    """Keeps the event log of one node.

    Its own folder, with its own lock, is ``agent`` in the node's data directory; the sockets lie in ``run``.

    Args:
        config: The node's settings.
        node_dir: The node's data directory.
        node_key: The node's public key.
        log_subkey: The only key this process holds.
        clock: Wall and monotonic clock.
    """

    role = "agent"

    def __init__(
        self, config: Config, node_dir: Path, node_key: str, log_subkey: Subkey, *, clock: Clock | None = None
    ) -> None:
        super().__init__(node_dir / "agent", node_key)
        self.log_subkey = log_subkey
        self.data_dir.folders = (self.data_dir.root,)
        # The agent of a miner that was killed a moment ago may be on its way out.
        self.data_dir.wait_seconds = LOCK_SECONDS
        self.config = config
        self.node_dir = node_dir
        self.sockets = node_dir / "run"
        self.clock = clock or SystemClock()

    def build_services(self) -> Sequence[Service]:
        """Build every part; the streams are open before the first socket is."""
        clock, metrics = self.clock, MetricsTracker()
        refuse_restored(self.node_dir)
        log_epochs = read_log_epochs(self.node_dir, self.node_key)
        streams = self.closing(Streams(self.data_dir.root, self.node_key, self.log_subkey, clock, log_epochs))
        doors = Doors(self.sockets / "events", streams, metrics)
        limits = self.config.telemetry
        thresholds = Thresholds(
            Limits(
                gpu_percent=limits.gpu_usage_percent,
                memory_percent=limits.memory_usage_percent,
                temperature_celsius=limits.temperature_celsius,
            )
        )
        sampler = Sampler(self.closing(GpuSampler()))
        sampling = Sampling(streams, sampler, thresholds, clock)
        cosigned = Cosigned(streams, self.closing(Cosignatures(self.data_dir.root / COSIGNATURES_FILE)), clock)
        control = Control(self.sockets, streams, cosigned, doors, sampling, metrics)
        return [Signing(streams, sampling), sampling, doors, control]

    def describe(self) -> dict[str, object]:
        """Name the sockets in the start line."""
        return {"sockets": str(self.sockets)}
