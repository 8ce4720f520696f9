"""The validator's API without its epochs, in this process: a test makes those by hand, on a clock of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from config.schema import Config
from neurons.base.service import Supervisor
from neurons.validator.metrics import FILE_NAME, EpochEnd, MetricsHandler
from neurons.validator.node import ValidatorNode
from neurons.validator.scoring import RULES_VERSION
from tests.support.clock import ManualClock
from tests.support.http import Answer, send
from tests.support.identities import People, node_identity
from tests.support.small_ledger import SmallLedger


@dataclass(frozen=True)
class Served:
    """A validator whose API is up and whose epochs a test makes by hand."""

    node: ValidatorNode
    metrics: MetricsHandler
    clock: ManualClock

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.node.http.port}"

    @property
    def evidence(self) -> Path:
        return self.node.data_dir.evidence

    def get(self, target: str, **headers: str) -> Answer:
        return send(self.url, "GET", target, headers={name.replace("_", "-"): text for name, text in headers.items()})

    def finish(self, epoch: int) -> None:
        self.metrics.finish_epoch(epoch, self.clock.wall_unix_ms(), EpochEnd("d" * 64, "complete", RULES_VERSION))


@contextlib.contextmanager
def serving(folder: Path, ledger: SmallLedger, people: People, **ledger_settings: object) -> Iterator[Served]:
    clock = ManualClock()
    config = Config.model_validate(
        {"network": {"port": 0}, "ledger": {**ledger.settings(), **ledger_settings}, "validator": {"epoch_seconds": 60}}
    )
    node = ValidatorNode(config, folder / "node", node_identity("validator", people.owner), clock=clock)
    with node.data_dir, node._resources, MetricsHandler(folder / "node" / FILE_NAME) as metrics:
        http = node.build_services()[0]
        http.prepare()
        supervisor = Supervisor(http)
        supervisor.start()
        try:
            yield Served(node, metrics, clock)
        finally:
            assert supervisor.stop(10)
