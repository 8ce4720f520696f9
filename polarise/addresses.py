"""From a host name to a connected socket, with the address judged before anything is sent to it.

Rules:
- The name lookup has the caller's deadline too; the resolver's own can be half a minute.
- Where only public addresses are allowed, one private address among the answers refuses the name altogether.
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


def connect(host: str, port: int, patience: Patience, *, allow_private: bool) -> socket.socket:
    """Resolve, judge and connect; the caller owns the socket.

    Raises:
        AddressRefused: It leads to an address that is not allowed.
        Unavailable: The name does not resolve.
        OSError: No address could be connected to.
    """
    addresses = allowed_addresses(host, port, patience, allow_private=allow_private)
    for address in addresses[:-1]:
        with contextlib.suppress(OSError):
            return _connect_one(address, patience)
    return _connect_one(addresses[-1], patience)


def allowed_addresses(host: str, port: int, patience: Patience, *, allow_private: bool) -> list[Address]:
    """Resolve and judge.

    Raises:
        AddressRefused: It leads to an address that is not allowed.
        Unavailable: The name does not resolve.
    """
    addresses = resolve(host, port, patience)
    if not allow_private:
        for address in addresses:
            if not is_public(address.host):
                raise AddressRefused(f"{host} is {address.host}, which is not a public address")
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
