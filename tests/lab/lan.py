"""A lab's neighbourhood: a second namespace behind a veth pair that plays LAN peer, cloud metadata and internet.

Rules:
- No default route: the lab knows a way to the peer's own addresses and nowhere else.
- The peer's servers greet whoever connects, so that "open" means a byte came back, not that some proxy accepted.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab.engine import COMMAND_SECONDS, Lab, lab, refuse_way_out

HOST_IP, PEER_IP = "192.168.77.1", "192.168.77.2"
HOST_IP_10, PEER_IP_10 = "10.77.0.1", "10.77.0.2"
METADATA_IP = "169.254.169.254"
INTERNET_IP = "203.0.113.9"  # RFC 5737: for documentation, so nobody's
NAME = "peer.test"
SERVICE_PORT, METADATA_PORT, MAIL_PORT, DNS_PORT, ECHO_PORT = 8000, 80, 25, 53, 7
CLONE_NEWNET = 0x40000000

# Greets on each TCP port, and on 7 says again what it hears; on 53 it answers every question for an IPv4 address with 203.0.113.9.
_SERVER = """
import socket, sys, threading
ANSWER = bytes.fromhex("c00c00010001000000050004cb007109")
def greet(port):
    with socket.create_server(("0.0.0.0", port), backlog=512, reuse_port=False) as listener:
        ready.release()
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(port, connection)).start()
def serve(port, connection):
    with connection:
        connection.sendall(b"hello")
        while port == 7 and (said := connection.recv(64)):
            connection.sendall(said)
def names():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 53))
        ready.release()
        while True:
            question, sender = server.recvfrom(512)
            end = question.index(b"\\0", 12) + 5
            is_a = question[end - 4:end - 2] == b"\\0\\1"
            head = question[:2] + b"\\x81\\x80\\0\\1" + (b"\\0\\1" if is_a else b"\\0\\0") + b"\\0\\0\\0\\0"
            server.sendto(head + question[12:end] + (ANSWER if is_a else b""), sender)
ports = [int(word) for word in sys.argv[1:]]
ready = threading.Semaphore(0)
for port in ports:
    threading.Thread(target=names if port == 53 else greet, args=() if port == 53 else (port,)).start()
for _ in ports:
    ready.acquire()
print("ready", flush=True)
"""
# In a container: which of the given ADDRESS:PORT greet within two seconds, all asked at once.
PROBE = """
import socket, sys, threading
found = {}
def ask(target):
    address, port = target.rsplit(":", 1)
    try:
        with socket.create_connection((address, int(port)), timeout=2) as connection:
            found[target] = bool(connection.recv(5))
    except OSError:
        found[target] = False
threads = [threading.Thread(target=ask, args=(target,)) for target in sys.argv[1:]]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(*(int(found[target]) for target in sys.argv[1:]))
"""


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """A lab with its peer; the lab's own services greet on `SERVICE_PORT`.

    Attributes:
        lab: The lab.
        peer: Name of the peer's namespace.
    """

    lab: Lab
    peer: str

    def from_peer(self, *words: str, seconds: float = COMMAND_SECONDS) -> subprocess.CompletedProcess[str]:
        """Run a program where the peer is."""
        refuse_way_out(self.peer)
        command = ["nsenter", f"--net=/run/netns/{self.peer}", "--", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)

    def reaches_from_peer(self, *targets: str) -> list[bool]:
        """Return which ADDRESS:PORT greet the peer."""
        return _bits(self.from_peer(sys.executable, "-c", PROBE, *targets).stdout)

    def reaches_from(self, container_id: str, *targets: str) -> list[bool]:
        """Return which ADDRESS:PORT greet a container of the lab."""
        done = self.lab.client.containers.get(container_id).exec_run(["python3", "-c", PROBE, *targets])
        assert isinstance(done.output, bytes)
        return _bits(done.output.decode())


def _bits(text: str) -> list[bool]:
    assert set(text.split()) <= {"0", "1"}, text
    return [word == "1" for word in text.split()]


@contextlib.contextmanager
def neighbourhood(*options: str) -> Iterator[Neighbourhood]:
    """Build a lab and its peer, with servers in both.

    Args:
        options: Further arguments of the lab's dockerd.
    """
    peers: list[str] = []

    def connect(name: str) -> None:
        peer = name.replace("lab", "lan")
        peers.append(peer)
        _ip("netns", "add", peer)
        _ip("-n", name, "link", "add", "lan0", "type", "veth", "peer", "name", "lan0", "netns", peer)
        for namespace, addresses in ((name, (HOST_IP, HOST_IP_10)), (peer, (PEER_IP, PEER_IP_10))):
            for address in addresses:
                _ip("-n", namespace, "address", "add", f"{address}/24", "dev", "lan0")
            for device in ("lo", "lan0"):
                _ip("-n", namespace, "link", "set", device, "up")
        for address in (METADATA_IP, INTERNET_IP):
            _ip("-n", peer, "address", "add", f"{address}/32", "dev", "lo")
            _ip("-n", name, "route", "add", f"{address}/32", "via", PEER_IP)

    try:
        with lab(*options, prepare=connect) as built, contextlib.ExitStack() as stack:
            peer_ports = (SERVICE_PORT, METADATA_PORT, MAIL_PORT, DNS_PORT, ECHO_PORT)
            for namespace, ports in ((built.name, (SERVICE_PORT,)), (peers[0], peer_ports)):
                stack.enter_context(_serving(namespace, ports))
            yield Neighbourhood(built, peers[0])
    finally:
        for peer in peers:
            _ip("netns", "delete", peer)


@contextlib.contextmanager
def entered(built: Lab) -> Iterator[None]:
    """Put the calling thread, and what it starts, into a lab's network namespace.

    Files and processes stay what they were: the miner of a test runs in the test's own process.
    """
    refuse_way_out(built.name)
    with Path("/proc/thread-self/ns/net").open("rb") as outside, built.namespace.open("rb") as inside:
        _set_namespace(inside.fileno())
        try:
            yield
        finally:
            _set_namespace(outside.fileno())


def _set_namespace(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def _serving(namespace: str, ports: tuple[int, ...]) -> Iterator[None]:
    command = ["nsenter", f"--net=/run/netns/{namespace}", "--", sys.executable, "-c", _SERVER]
    process = subprocess.Popen([*command, *map(str, ports)], stdout=subprocess.PIPE, env={**os.environ})
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=30)
