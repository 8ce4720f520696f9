"""Ports, forwarding and the firewall: can a renter reach the API and the ssh port of a container."""

from __future__ import annotations

import http.client
import re
import socket
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from neurons.setup.check import Check, failure, met, warning
from neurons.setup.shell import find_program, is_root, run

# Where a miner finds its block of ports unless docker.ssh_port_first is set (SSH_PORTS in neurons/miner/settings.py).
SSH_PORT_FIRST, SSH_PORT_LAST = 20_000, 31_999
HEALTH_TIMEOUT_SECONDS = 3.0


class PortState(StrEnum):
    """Who holds a TCP port on loopback."""

    FREE = "free"
    OURS = "a node of ours"
    TAKEN = "taken"


def measure_port(port: int) -> PortState:
    """Try to listen; when somebody does already, ask whether it answers /healthz as a node does."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            return PortState.FREE
    except OSError:
        pass
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HEALTH_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz")
        return PortState.OURS if connection.getresponse().status in (200, 503) else PortState.TAKEN
    except (OSError, http.client.HTTPException):
        return PortState.TAKEN
    finally:
        connection.close()


def check_api_port(port: int, state: PortState) -> Check:
    """Judge the port of the miner's API."""
    name, required = "API port", f"{port} free, or ours"
    if state is PortState.TAKEN:
        fix = f"ss -ltnp 'sport = :{port}' names it; stop it, or set network.port"
        return failure(name, f"{port} {state}", required, "another program listens there", fix)
    return met(name, f"{port} {state}", required)


def measure_local_ports() -> tuple[int, int]:
    """Return the range from which the kernel takes ports for outgoing connections."""
    first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="utf-8").split()
    return int(first), int(last)


def check_ssh_ports(local_first: int, local_last: int) -> Check:
    """Judge the ports of the containers: one the kernel may lend to an outgoing connection can be taken at any time."""
    name, required = "ssh ports", f"{SSH_PORT_FIRST}-{SSH_PORT_LAST} outside the kernel's own"
    measured = f"kernel uses {local_first}-{local_last}"
    if local_first <= SSH_PORT_LAST and local_last >= SSH_PORT_FIRST:
        cause = "an outgoing connection can take a port that a lease is given"
        fix = f"sysctl -w net.ipv4.ip_local_reserved_ports={SSH_PORT_FIRST}-{SSH_PORT_LAST}"
        return warning(name, measured, required, cause, fix)
    return met(name, measured, required)


def check_ssh_client(path: str | None, *, is_required: bool) -> Check:
    """Judge the ssh command: the set-up proves a login with it, renters use it."""
    if path:
        return met("ssh client", path, "on PATH")
    judge = failure if is_required else warning
    return judge("ssh client", "not found", "on PATH", "OpenSSH's client is not installed", "install openssh-client")


@dataclass(frozen=True, slots=True)
class Firewall:
    """What forwards packets to containers; `rules` is None when they could not be read."""

    is_forwarding: bool
    iptables: str | None
    rules: str | None


def measure_firewall() -> Firewall:
    """Read the switch and the FORWARD and DOCKER-USER chains; the chains need root."""
    forward = Path("/proc/sys/net/ipv4/ip_forward")
    is_forwarding = forward.exists() and forward.read_text(encoding="utf-8").strip() == "1"
    path = find_program("iptables")
    if path is None or not is_root():
        return Firewall(is_forwarding, path, None)
    outcome = run([path, "-S"])
    return Firewall(is_forwarding, path, outcome.output if outcome.ok else None)


def check_firewall(firewall: Firewall) -> Check:
    """Judge whether packets reach containers, and whether there is a chain to keep renters from the rest."""
    name, required = "firewall", "forwarding on, Docker's chains in place"
    if firewall.iptables is None:
        return failure(name, "no iptables", required, "iptables is not installed", "make setup (Debian: iptables)")
    if not firewall.is_forwarding:
        fix = "sysctl -w net.ipv4.ip_forward=1, and keep it in /etc/sysctl.d"
        return failure(name, "ip_forward is 0", required, "the kernel forwards nothing to containers", fix)
    if firewall.rules is None:
        return warning(
            name, "forwarding on, rules unread", required, "only root reads rules", "sudo python3 main.py doctor"
        )
    policy = re.search(r"^-P FORWARD (\w+)", firewall.rules, re.MULTILINE)
    has_chain = re.search(r"^-A FORWARD .*-j DOCKER-USER", firewall.rules, re.MULTILINE) is not None
    measured = f"FORWARD {policy[1] if policy else '?'}, DOCKER-USER {'in place' if has_chain else 'missing'}"
    if not has_chain:
        cause = "another program reloaded the firewall, or the engine runs with iptables=false"
        return failure(name, measured, required, cause, "restart the Docker engine: it writes its chains again")
    return met(name, measured, required)
