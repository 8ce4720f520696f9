"""The loop: who is examined, under which number, and what is kept; and that none of it needs torch."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from flask import Response

from config.schema import Config
from neurons.validator.epoch import EpochService
from neurons.validator.metrics import FILE_NAME, MetricsHandler
from neurons.validator.node import ValidatorNode
from polarise.errors import RejectReason
from polarise.evidence import read_bundle
from polarise.registry import write_entry
from polarise.signing import Purpose
from tests.support.proving_miner import MINER, VALIDATOR, challenge_of, entry_of, proving_miner
from utils.clock import SystemClock


class FixedClock(SystemClock):
    """A wall clock that a test sets."""

    def __init__(self, wall_unix_ms: int = 1_700_000_000_000) -> None:
        self.now_unix_ms = wall_unix_ms

    def wall_unix_ms(self) -> int:
        return self.now_unix_ms


def _config(folder: Path, **settings: object) -> Config:
    return Config.model_validate(
        {
            "validator": {
                "registry": folder / "registry",
                "allow_private_endpoints": True,
                "inspect": False,
                "proof_target_seconds": 1,
                **settings,
            }
        }
    )


def _epochs(node: ValidatorNode) -> EpochService:
    (service,) = node.build_services()
    assert isinstance(service, EpochService)
    return service


def test_round_over_a_registry_with_a_broken_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = FixedClock()
    node = ValidatorNode(_config(tmp_path), tmp_path / "node", VALIDATOR, clock=clock)
    with proving_miner(tmp_path) as miner, node.data_dir, node._resources, caplog.at_level(logging.INFO):
        write_entry(tmp_path / "registry" / "miner.json", entry_of(miner.endpoint))
        (tmp_path / "registry" / "broken.json").write_text("{")
        service = _epochs(node)
        service.run_epoch(threading.Event())
        service.run_epoch(threading.Event())
        clock.now_unix_ms += 49 * 3_600_000
        service.run_epoch(threading.Event())
    events = [record.message for record in caplog.records if record.name.startswith("neurons.validator")]
    assert (
        events
        == [
            *("registry entry refused", "epoch started", "proof sent", "proof answered", "proof verified"),
            *("miner scored", "epoch finished"),
        ]
        * 3
    )
    with MetricsHandler(tmp_path / "node" / FILE_NAME) as metrics:
        stored = metrics.newest(MINER.public_key)
        rows = metrics.query("SELECT epoch, evidence, is_pruned FROM score ORDER BY epoch")
    assert stored is not None
    assert stored.record.score_ppm == 1_000_000
    assert rows[1]["epoch"] == rows[0]["epoch"] + 1
    assert [row["is_pruned"] for row in rows] == [1, 1, 0]
    bundles = [read_bundle(tmp_path / "node" / "evidence" / f"{row['evidence']}.json") for row in rows]
    assert [bundle.proofs[0].openings is None for bundle in bundles] == [True, True, False]
    assert bundles[1].previous == bundles[0].score


def test_unreachable_miner_is_scored_in_its_own_epoch(tmp_path: Path) -> None:
    node = ValidatorNode(_config(tmp_path, inspect=True), tmp_path / "node", VALIDATOR)
    with node.data_dir, node._resources:
        write_entry(tmp_path / "registry" / "miner.json", entry_of("https://127.0.0.1:1"))
        _epochs(node).run_epoch(threading.Event())
    with MetricsHandler(tmp_path / "node" / FILE_NAME) as metrics:
        stored = metrics.newest(MINER.public_key)
    assert stored is not None
    assert stored.record.score_ppm == 0
    assert {RejectReason.MISSING, RejectReason.ALLOCATE_FAILED} <= set(stored.record.reasons)


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/challenge/open", f'{{"openings": [{{"at": {2**60}}}]}}', RejectReason.MALFORMED),
        ("/challenge/open", '{"openings": [{"at": 1e999}]}', RejectReason.MALFORMED),
        ("/challenge/start", '{"commitment": COMMITMENT}', RejectReason.BAD_SIGNATURE),
    ],
)
def test_answer_without_a_canonical_form_is_a_verdict_and_no_defect(
    tmp_path: Path, path: str, body: str, reason: RejectReason
) -> None:
    """Numbers beyond what a hash can be taken of must not end the round for everybody else."""
    statement = entry_of().to_wire()
    commitment = {
        **statement,
        "certificate": {**MINER.subkey(Purpose.STATEMENT).certificate.to_wire(), "counter": 2**60},
    }
    text = body.replace("COMMITMENT", json.dumps(commitment))
    node = ValidatorNode(_config(tmp_path), tmp_path / "node", VALIDATOR)
    with proving_miner(tmp_path) as miner, node.data_dir, node._resources:
        miner.views[path] = lambda _caller, _body: Response(text, mimetype="application/json")
        write_entry(tmp_path / "registry" / "miner.json", entry_of(miner.endpoint))
        _epochs(node).run_epoch(threading.Event())
    with MetricsHandler(tmp_path / "node" / FILE_NAME) as metrics:
        stored = metrics.newest(MINER.public_key)
    assert stored is not None
    assert stored.record.reasons[0] in {reason, RejectReason.MISSING}
    assert stored.record.score_ppm == 0


def test_private_endpoint_is_not_called_unless_allowed(tmp_path: Path) -> None:
    node = ValidatorNode(_config(tmp_path, allow_private_endpoints=False), tmp_path / "node", VALIDATOR)
    with proving_miner(tmp_path) as miner, node.data_dir, node._resources:
        write_entry(tmp_path / "registry" / "miner.json", entry_of(miner.endpoint))
        _epochs(node).run_epoch(threading.Event())
        assert miner.handler._tracker.newest(1) == []


def test_epoch_numbers_grow_whatever_the_clock_says(tmp_path: Path) -> None:
    with MetricsHandler(tmp_path / FILE_NAME) as metrics:
        assert metrics.next_epoch(10) == 10
        metrics.begin_epoch(challenge_of(entry_of(), epoch=10)[0], 1)
    with MetricsHandler(tmp_path / FILE_NAME) as metrics:
        assert metrics.next_epoch(10) == 11
        assert metrics.next_epoch(3) == 11
        assert metrics.next_epoch(12) == 12


def test_node_starts_at_once_and_ends_when_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = ValidatorNode(_config(tmp_path), tmp_path / "node", VALIDATOR)
    with caplog.at_level(logging.INFO):
        thread = threading.Thread(target=node.run)
        thread.start()
        for _ in range(500):
            if "epoch finished" in caplog.messages:
                break
            threading.Event().wait(0.01)
        node.stop()
        thread.join(10)
    assert not thread.is_alive()
    assert caplog.messages.count("epoch started") == 1


def test_no_module_of_the_validator_imports_torch() -> None:
    """In a fresh interpreter where importing torch is an error."""
    program = (
        "import sys, importlib, pkgutil\n"
        "sys.modules['torch'] = None\n"
        "import neurons.validator as package\n"
        "names = [m.name for m in pkgutil.iter_modules(package.__path__)]\n"
        "[importlib.import_module(f'neurons.validator.{name}') for name in names]\n"
        "print(len(names))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 15
