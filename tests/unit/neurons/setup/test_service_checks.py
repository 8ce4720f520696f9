"""What the doctor says of services, logs, the way in and the ledger's clock; with real sockets, and a real node over TLS."""

from __future__ import annotations

import datetime
import email.utils
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurons.setup.check import Role, Status
from neurons.setup.checks import service
from neurons.setup.checks.service import LedgerClock, UnitState, WayIn
from tests.support.worker import free_port


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers with a clock that is ahead by `ahead_seconds` of its server."""

    ahead_seconds = 0

    def do_GET(self) -> None:
        now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.ahead_seconds)
        self.send_response_only(200)
        self.send_header("Date", email.utils.format_datetime(now, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def ledger() -> Iterator[int]:
    """A server that tells the time; its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("ahead_seconds", "status"), [(0, Status.OK), (-60, Status.FAIL), (60, Status.FAIL)])
def test_the_clock_is_compared_with_the_ledgers(
    ledger: int, ahead_seconds: int, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answering, "ahead_seconds", ahead_seconds)
    found = service.measure_ledger_clock(f"http://127.0.0.1:{ledger}")
    assert found.ahead_seconds is not None
    assert abs(found.ahead_seconds + ahead_seconds) < 5
    assert service.check_ledger_clock(found).status is status


@pytest.mark.parametrize("seconds", [10.0, -10.0])
def test_ten_seconds_are_within_and_a_tenth_more_is_not(seconds: float) -> None:
    assert service.check_ledger_clock(LedgerClock(seconds)).status is Status.OK
    assert service.check_ledger_clock(LedgerClock(seconds * 1.01)).status is Status.FAIL


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "ftp://127.0.0.1", "nothing", "https://127.0.0.1:{port}"])
def test_a_ledger_that_cannot_be_asked_is_a_finding(url: str) -> None:
    found = service.measure_ledger_clock(url.format(port=free_port()))
    check = service.check_ledger_clock(found)
    assert (check.status, check.measured) == (Status.FAIL, "not compared")
    assert found.cause in check.cause


def test_a_way_in_without_tls_or_without_anybody_fails(ledger: int) -> None:
    plain = service.check_way_in(service.measure_way_in(f"127.0.0.1:{ledger}", None))
    assert plain.status is Status.FAIL
    assert "no TLS" in plain.cause
    closed = service.check_way_in(service.measure_way_in(f"127.0.0.1:{free_port()}", None))
    assert closed.status is Status.FAIL
    assert "tried from this machine only" in closed.cause
    for address in ("nowhere", "127.0.0.1:", "127.0.0.1:99999"):
        assert service.check_way_in(service.measure_way_in(address, None)).status is Status.FAIL


def test_what_was_not_tried_is_said() -> None:
    """Open from here is not open from outside, whatever a container says."""
    check = service.check_way_in(WayIn("gpu.example:8080", "TLSv1.3", from_container="open"))
    assert check.status is Status.WARN
    assert "from a container: open" in check.measured
    assert "curl -k https://gpu.example:8080/healthz" in check.fix
    assert service.check_way_in(WayIn("gpu.example:8080", "TLSv1.2")).status is Status.FAIL


def test_services_are_asked_for_where_they_are_installed(tmp_path: Path) -> None:
    assert (
        service.check_units(service.measure_units(Role.VALIDATOR, (tmp_path,), tmp_path)).measured == "none installed"
    )
    (tmp_path / "polarise-validator.service").touch()
    found = service.measure_units(Role.VALIDATOR, (tmp_path,), tmp_path / "no-systemd")
    assert found == [UnitState("polarise-validator.service", True)]
    assert service.check_units(found).status is Status.WARN
    # systemctl itself is asked; where no service manager runs it has no word for the unit.
    (asked,) = service.measure_units(Role.VALIDATOR, (tmp_path,), tmp_path)
    assert asked.is_installed


@pytest.mark.parametrize(
    ("active", "enabled", "status", "fix"),
    [
        ("active", "enabled", Status.OK, ""),
        ("active", "disabled", Status.WARN, "systemctl enable"),
        ("failed", "enabled", Status.FAIL, "journalctl -u polarise-miner.service"),
        ("activating", "enabled", Status.FAIL, "journalctl"),
    ],
)
def test_a_service_that_is_down_has_its_fix(active: str, enabled: str, status: Status, fix: str) -> None:
    agent = UnitState("polarise-agent.service", True, "active", "enabled")
    check = service.check_units([agent, UnitState("polarise-miner.service", True, active, enabled)])
    assert check.status is status
    assert fix in check.fix


def test_room_for_logs_begins_at_a_gibibyte() -> None:
    assert service.check_log_space(2**30, "/var/log").status is Status.OK
    assert service.check_log_space(2**30 - 1, "/var/log").status is Status.WARN
    assert service.log_folder().is_dir()
