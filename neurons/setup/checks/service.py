"""What a node needs around it when it runs for good: its services, room for logs, a way in, a clock that the ledger shares."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from neurons.setup.check import Check, Role, failure, met, warning
from neurons.setup.shell import find_program, run

GIB = 1024**3
LOGS_REQUIRED_BYTES = GIB
LOG_FOLDERS = (Path("/var/log/journal"), Path("/run/log/journal"), Path("/var/log"))
UNITS = {
    Role.MINER: ("polarise-agent.service", "polarise-miner.service"),
    Role.VALIDATOR: ("polarise-validator.service",),
    Role.RENTER: (),
}
SYSTEMD = Path("/run/systemd/system")
UNIT_FOLDERS = (Path("/etc/systemd/system"), Path("/usr/lib/systemd/system"))
CONNECT_SECONDS = 5.0
CLOCK_SECONDS_MAX = 10
# Inside a container: connect, and say in one word how it went.
_CONNECT = (
    "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5).close(); print('open')"
)


@dataclass(frozen=True, slots=True)
class UnitState:
    """One unit: whether its file is there, and what systemd says of it; empty where no systemd runs."""

    name: str
    is_installed: bool
    active: str = ""
    enabled: str = ""


def measure_units(role: Role, folders: tuple[Path, ...] = UNIT_FOLDERS, systemd: Path = SYSTEMD) -> list[UnitState]:
    """Look for a role's units, and ask systemd about those that are there."""
    found = []
    for name in UNITS[role]:
        is_installed = any((folder / name).exists() for folder in folders)
        if not is_installed or not systemd.exists():
            found.append(UnitState(name, is_installed))
            continue
        answers = [run(["systemctl", verb, name]).output.strip() for verb in ("is-active", "is-enabled")]
        found.append(UnitState(name, True, *answers))
    return found


def check_units(units: list[UnitState]) -> Check:
    """Judge the services; a node in a terminal has none, and that is no fault."""
    name, required = "services", "running, where installed"
    installed = [unit for unit in units if unit.is_installed]
    if not installed:
        return met(name, "none installed", required)
    told = ", ".join(f"{unit.name.removesuffix('.service')} {unit.active or 'unknown'}" for unit in installed)
    if not any(unit.active for unit in installed):
        return warning(name, told, required, "no systemd runs here to ask", "ask your own service manager")
    for unit in installed:
        if unit.active != "active":
            fix = f"journalctl -u {unit.name} -n 50 says why; then systemctl restart {unit.name}"
            return failure(name, told, required, f"{unit.name} is {unit.active}", fix)
        if unit.enabled != "enabled":
            cause = f"{unit.name} is {unit.enabled}: after a reboot it stays down"
            return warning(name, told, required, cause, f"systemctl enable {unit.name}")
    return met(name, told, required)


def log_folder(folders: tuple[Path, ...] = LOG_FOLDERS) -> Path:
    """Return where this machine keeps its logs."""
    return next((folder for folder in folders if folder.exists()), Path("/"))


def check_log_space(free_bytes: int, folder: str) -> Check:
    """Judge the room for logs."""
    name, required = "room for logs", f">= {LOGS_REQUIRED_BYTES // GIB} GiB free"
    measured = f"{free_bytes / GIB:.1f} GiB free at {folder}"
    if free_bytes < LOGS_REQUIRED_BYTES:
        cause = "a full disk stops databases, and with them leases"
        return warning(name, measured, required, cause, "journalctl --vacuum-size=500M; SystemMaxUse= in journald.conf")
    return met(name, measured, required)


@dataclass(frozen=True, slots=True)
class WayIn:
    """How far a connection to the advertised address came; `refusal` is what stopped it.

    Attributes:
        address: HOST:PORT, as others are told it.
        tls: The protocol that was agreed on; empty where it is not TLS.
        refusal: Why nothing connected.
        from_container: How it went from inside a container; empty where that was not tried.
    """

    address: str
    tls: str = ""
    refusal: str = ""
    from_container: str = ""


def measure_way_in(address: str, image: str | None) -> WayIn:
    """Connect to the advertised address from here and, with an image, from inside a throw-away container."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    inside = ""
    if image is not None and find_program("docker") is not None:
        outcome = run(["docker", "run", "--rm", image, "python3", "-c", _CONNECT, host, port])
        inside = "open" if outcome.output.strip() == "open" else outcome.tail(1) or "no answer"
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as connection:
            return WayIn(address, _tls_of(connection), from_container=inside)
    except (OSError, ValueError, OverflowError) as err:
        return WayIn(address, refusal=str(err), from_container=inside)


def _tls_of(connection: socket.socket) -> str:
    """Shake hands without believing the certificate: callers pin it by the node's key, which is not known here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError), context.wrap_socket(connection) as secured:
        return secured.version() or ""
    return ""


def check_way_in(way: WayIn) -> Check:
    """Judge the way in, and say what was not tried: nobody knows from inside what a router outside does."""
    name, required = "way in", "the advertised address, over TLS 1.3"
    untried = "tried from this machine" + (
        f"; from a container: {way.from_container}" if way.from_container else " only"
    )
    outside = f"on another machine: curl -k https://{way.address}/healthz, and ssh's ports likewise"
    if way.refusal:
        cause = f"{way.refusal} ({untried})"
        return failure(
            name, way.address, required, cause, "start the node; network.host, port and advertised_host; the router"
        )
    if way.tls != "TLSv1.3":
        cause = f"it speaks {way.tls or 'no TLS'}, and callers from elsewhere insist on TLS 1.3"
        return failure(name, way.address, required, cause, "set network.host to this machine's address: TLS follows")
    measured = f"{way.address} open, {way.tls}, {untried}"
    return warning(name, measured, required, "whether it is open from outside cannot be told from here", outside)


@dataclass(frozen=True, slots=True)
class LedgerClock:
    """How far our clock is ahead of the ledger's; None with the cause where it could not be compared."""

    ahead_seconds: float | None
    cause: str = ""


def measure_ledger_clock(url: str) -> LedgerClock:
    """Compare our clock with the Date of an answer of the ledger; nothing else of it is believed."""
    parts = urlsplit(url)
    if parts.hostname is None or parts.scheme not in {"http", "https"}:
        return LedgerClock(None, f"{url[:100]!r} is no URL")
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=CONNECT_SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=CONNECT_SECONDS)
    try:
        connection.request("GET", "/healthz")
        stamp = connection.getresponse().getheader("Date", "")
        return LedgerClock(time.time() - email.utils.parsedate_to_datetime(stamp).timestamp())
    except (OSError, http.client.HTTPException, ValueError) as err:
        return LedgerClock(None, str(err) or type(err).__name__)
    finally:
        connection.close()


def check_ledger_clock(found: LedgerClock) -> Check:
    """Judge the difference; a Date has whole seconds."""
    name, required = "clock and ledger", f"within {CLOCK_SECONDS_MAX} s"
    if found.ahead_seconds is None:
        cause = f"the ledger could not be asked: {found.cause}"
        return failure(
            name, "not compared", required, cause, "ledger.endpoint; is the ledger up, does this machine reach it"
        )
    measured = f"{abs(found.ahead_seconds):.0f} s {'ahead' if found.ahead_seconds >= 0 else 'behind'}"
    if abs(found.ahead_seconds) > CLOCK_SECONDS_MAX:
        cause = "requests are refused beyond 30 s, transactions beyond 60 s"
        return failure(
            name, measured, required, cause, "timedatectl set-ntp true (package systemd-timesyncd or chrony)"
        )
    return met(name, measured, required)
