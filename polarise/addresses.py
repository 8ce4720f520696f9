"""From a host name to a connected socket, with the address judged before anything is sent to it.

Rules:
- The name lookup has the caller's deadline too; the resolver's own can be half a minute.
- Where only public addresses are allowed, one private address among the answers refuses the name altogether.
- Plain HTTP goes to loopback only, whatever else is allowed: anywhere else somebody could read along and answer.
"""

from __future__ import annotations

import contextlib
import ipaddress
import queue
import socket
import threading
from typing import NamedTuple

from polarise.deadline import Patience
from polarise.errors import AddressRefused, DeadlineExceeded, Unavailable

# Addresses that carry an IPv4 address inside, which the tables of "global" addresses do not look at.
_TRANSLATED = (ipaddress.IPv6Network("2002::/16"), ipaddress.IPv6Network("64:ff9b::/96"))


class Address(NamedTuple):
    """One result of a lookup."""

    family: socket.AddressFamily
    host: str
    port: int


def connect(host: str, port: int, patience: Patience, *, allow_private: bool, is_plain: bool = False) -> socket.socket:
    """Resolve, judge and connect; the caller owns the socket.

    Raises:
        AddressRefused: It leads to an address that is not allowed.
        Unavailable: The name does not resolve.
        OSError: No address could be connected to.
    """
    addresses = allowed_addresses(host, port, patience, allow_private=allow_private, is_plain=is_plain)
    for address in addresses[:-1]:
        with contextlib.suppress(OSError):
            return _connect_one(address, patience)
    return _connect_one(addresses[-1], patience)


def allowed_addresses(
    host: str, port: int, patience: Patience, *, allow_private: bool, is_plain: bool = False
) -> list[Address]:
    """Resolve and judge.

    Args:
        host: Name or address.
        port: Goes with each address.
        patience: For the lookup.
        allow_private: Whether loopback, private and link-local addresses are allowed.
        is_plain: Whether what is sent there is not encrypted.

    Raises:
        AddressRefused: It leads to an address that is not allowed.
        Unavailable: The name does not resolve.
    """
    addresses = resolve(host, port, patience)
    if not allow_private:
        for address in addresses:
            if not is_public(address.host):
                raise AddressRefused(f"{host} is {address.host}, which is not a public address")
    if is_plain:
        for address in addresses:
            if not is_loopback(address.host):
                raise AddressRefused(
                    f"{host} is {address.host}, and plain HTTP goes to loopback only; use https:// there "
                    "(its operator sets network.tls: on), or an ssh tunnel to 127.0.0.1"
                )
    return addresses


def resolve(host: str, port: int, patience: Patience) -> list[Address]:
    """Look a name up in time; the result is never empty.

    Raises:
        Unavailable: No such name.
        DeadlineExceeded: The resolver did not answer in time.
    """
    # The thread cannot be stopped; it is a daemon, so that a stuck resolver never holds up the exit.
    answers: queue.SimpleQueue[list[Address] | OSError | UnicodeError] = queue.SimpleQueue()
    threading.Thread(target=_look_up, args=(host, port, answers), name="resolver", daemon=True).start()
    try:
        answer = answers.get(timeout=patience.left_seconds())
    except queue.Empty as err:
        raise DeadlineExceeded(f"looking up {host} took too long") from err
    if not isinstance(answer, list):
        raise Unavailable(f"{host} cannot be looked up: {answer}") from answer
    return answer


def is_loopback(host: str) -> bool:
    """Say whether an address, or the name ``localhost``, leads to this machine alone; any other name does not."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def is_public(host: str) -> bool:
    """Say whether an IP address can be reached from everywhere, seen through its IPv6 disguises."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif any(address in network for network in _TRANSLATED):
            return False
    return address.is_global and not address.is_multicast


def _look_up(host: str, port: int, answers: queue.SimpleQueue[list[Address] | OSError | UnicodeError]) -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as err:
        answers.put(err)
        return
    addresses = [Address(family, str(place[0]), int(place[1])) for family, _, _, _, place in found]
    answers.put(addresses or OSError("no address"))


def _connect_one(address: Address, patience: Patience) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.settimeout(patience.left_seconds())
        sock.connect((address.host, address.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock
