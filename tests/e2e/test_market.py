"""The whole market, over TLS and through restarts: every daemon stopped in the middle of an epoch, and nothing lost."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.loader import CHECKOUT
from neurons.demo.market import Market
from neurons.demo.process import Daemon, Event
from polarise.epoch_record import STATEMENT_KIND, EpochRecord, record_path
from polarise.statement import SignedStatement

pytestmark = [pytest.mark.docker, pytest.mark.e2e, pytest.mark.slow]
SETTINGS = {"validator": {"epoch_seconds": 5, "proof_target_seconds": 2, "inspect": False}}
SECONDS = 90.0


@pytest.fixture(scope="module")
def market() -> Iterator[Market]:
    with Market(validator_settings=SETTINGS, is_tls=True) as running:
        yield running


def until(daemon: Daemon, name: str) -> Event:
    return daemon.wait_for(name, SECONDS)


def now(daemon: Daemon) -> Daemon:
    """Pass over what it said before, so that the next event is one that happens now."""
    for _ in daemon.events(0.05):
        pass
    return daemon


def record_of(market: Market, epoch: int) -> EpochRecord:
    path = record_path(market.validator_identity.public_key, epoch)
    end = time.monotonic() + SECONDS
    while (entry := market.ledger_client().get(path, "final")) is None:
        assert time.monotonic() < end, f"epoch {epoch} was never recorded"
        time.sleep(0.2)
    return SignedStatement.model_validate(entry.value, strict=False).open(STATEMENT_KIND, EpochRecord)


def audit(market: Market, events: Path) -> tuple[int, dict[str, object]]:
    command = [sys.executable, "main.py", "audit", "--ledger", market.ledger_url, "--genesis", str(market.genesis_file)]
    options = ["--evidence", str(market.root / "validator" / "evidence"), "--events", str(events), "-o", "json"]
    done = subprocess.run(
        [*command, *options],
        cwd=CHECKOUT,
        env=market.environ(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_each_daemon_stopped_in_the_middle_of_an_epoch_and_a_clean_audit_after_it(
    market: Market, tmp_path: Path
) -> None:
    ledger = market.start_ledger()
    miner, url = market.start_miner()
    market.register_miner(url, lambda _device: None)
    validator = market.start_validator()
    urls = (market.ledger_url, url, market.validator_url)
    assert all(address.startswith("https://") for address in urls), urls
    until(validator, "miner scored")

    # The ledger: scores wait in the outbox, and stand there when it is back.
    epoch = int(str(until(now(validator), "epoch committed")["epoch"]))
    ledger = market.restart(ledger)
    assert record_of(market, epoch).status == "complete"

    # The miner: its own epoch is lost, the next one is not.
    until(now(validator), "proof sent")
    miner = market.restart(miner)
    assert until(validator, "miner scored")["is_acceptable"] is not None
    assert record_of(market, int(str(until(validator, "epoch finished")["epoch"]))).miners_count == 1

    # The validator: the epoch it left is recorded as what it was.
    epoch = int(str(until(now(validator), "epoch committed")["epoch"]))
    until(validator, "proof sent")
    validator = market.restart(validator)
    assert record_of(market, epoch).status == "broken_off"
    epoch = int(str(until(validator, "epoch finished")["epoch"]))
    assert record_of(market, epoch).status == "complete"

    # A renter, who pins at first contact, and an auditor, who fetches the bundles from the validator.
    assert market.run_renter_json("ps", "--miner", url)["containers"] == []
    status, report = market.audit()
    assert (status, report["failures"]) == (0, [])

    # What is left must not move while it is audited.
    validator.stop()
    events = market.root / "validator" / "telemetry.sqlite"
    status, report = audit(market, events)
    assert (status, report["failures"]) == (0, [])
    check_flipped_event(market, events, tmp_path)


def check_flipped_event(market: Market, events: Path, folder: Path) -> None:
    """One byte of one event, and the audit names its stream and the lines."""
    copy = folder / "telemetry.sqlite"
    with sqlite3.connect(events) as source, sqlite3.connect(copy) as target:
        source.backup(target)
        ((origin, seq, line),) = target.execute("SELECT origin, seq, line FROM line ORDER BY seq LIMIT 1").fetchall()
        flipped = bytes([line[0] ^ 1]) + line[1:]
        target.execute("UPDATE line SET line = ? WHERE origin = ? AND seq = ?", (flipped, origin, seq))
    status, report = audit(market, copy)
    assert status == 7
    assert isinstance(report["failures"], list)
    assert str(report["failures"][0]["place"]["field"]).startswith("events 0..")
