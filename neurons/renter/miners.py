"""Which miner is meant, and which node key it must have.

Rules:
- The node key comes from ``--miner-key``, a signed registry entry, or the first contact, which is shown and pinned. With
  https the first contact is the certificate, which the node key signed; without, it is what the miner says of itself.
- An address that stands only in a registry entry is somebody else's word: on loopback or a private network it is called with ``--allow-private`` alone.
- A miner that later shows another key than the pinned one is refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from neurons.renter.files import write_private
from neurons.renter.output import say
from polarise.answers import printable
from polarise.clients import read_status
from polarise.errors import ConfigError, ErrorCode, RequestRejected
from polarise.http_client import HttpClient
from polarise.registry import read_registry
from polarise.signing import KEY_PATTERN
from polarise.tls import Pin


@dataclass(frozen=True, slots=True)
class Miner:
    """Where a miner answers and who it must be."""

    endpoint: str
    node_key: str
    # As its registry entry names it; without one the node key decides alone.
    tls_public_key: str | None = None
    # Whether the person at the keyboard named the address, now or at first contact.
    is_named: bool = True

    @property
    def pin(self) -> Pin:
        """Whose certificate is expected."""
        return Pin(self.node_key, self.tls_public_key)


class MinerBook:
    """The miners this machine knows: its pins and a folder of registry entries.

    Args:
        state_dir: Where ``known_miners.json`` lies.
        registry: Folder of registry entries, None for none.
    """

    def __init__(self, state_dir: Path, registry: Path | None) -> None:
        self._path = state_dir / "known_miners.json"
        self._pins = _read_pins(self._path)
        self._registered = [
            replace(miner, is_named=miner.endpoint in self._pins) for miner in _read_registered(registry)
        ]

    def find(self, text: str | None, miner_key: str | None, timeout_seconds: float) -> Miner:
        """Find the miner that a flag names, or the only one there is.

        Raises:
            ConfigError: None or several are meant.
            RequestRejected: The miner has another key than the pinned, registered or given one (403).
            Unavailable: It does not answer at first contact.
        """
        if miner_key is not None and not re.fullmatch(KEY_PATTERN, miner_key):
            raise ConfigError("not a node key", origin="--miner-key", allowed="64 lower-case hex digits")
        if text is not None and "://" in text:
            return self._by_url(text, miner_key, timeout_seconds)
        fitting = [miner for miner in self.all() if miner.node_key.startswith(miner_key or text or "")]
        fitting = [miner for miner in fitting if miner.node_key.startswith(text or "")]
        if len({miner.node_key for miner in fitting}) == 1:
            # One miner under several URLs: the registry's comes first, then the one pinned first.
            return fitting[0]
        known = ", ".join(f"{miner.node_key[:12]} {miner.endpoint}" for miner in fitting) or "none"
        raise ConfigError(
            f"{len(fitting)} miners fit {text or 'this command'}: {known}",
            origin="--miner",
            allowed="--miner URL, a longer beginning of the node key, or --registry DIR",
        )

    def all(self) -> list[Miner]:
        """List every miner with a known key, registered ones first."""
        return list(dict.fromkeys([*self._registered, *(Miner(url, key) for url, key in self._pins.items())]))

    def _by_url(self, text: str, miner_key: str | None, timeout_seconds: float) -> Miner:
        if not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+/?", text):
            raise ConfigError(f"{text[:100]!r} is no URL of a miner", origin="--miner", allowed="https://host:port")
        endpoint = text.rstrip("/")
        shown = shown_node_key(endpoint, timeout_seconds)
        registered = {miner.node_key: miner for miner in self._registered if miner.endpoint == endpoint}
        for origin, expected in (
            ("--miner-key", miner_key),
            (str(self._path), self._pins.get(endpoint)),
            *(("the registry", key) for key in registered),
        ):
            if expected is not None and expected != shown:
                raise _other_key(endpoint, shown, expected, origin)
        if endpoint not in self._pins:
            if miner_key is None and not registered:
                say(f"first contact with {endpoint}: node key {printable(shown)}, pinned in {self._path}")
            self._pins[endpoint] = shown
            write_private(self._path, json.dumps(self._pins, indent=2) + "\n")
        return replace(registered[shown], is_named=True) if shown in registered else Miner(endpoint, shown)


def shown_node_key(endpoint: str, timeout_seconds: float) -> str:
    """Ask a miner who it is.

    Raises:
        Unavailable: It does not answer, or its certificate is none of a node.
    """
    http = HttpClient(endpoint, pin=Pin())
    word = http.shown_word(timeout_seconds)
    # Nothing in the answer of plain HTTP is signed: it only tells early what the receipt would show later.
    return read_status(http, timeout_seconds).node_key if word is None else word.issuer


def _other_key(endpoint: str, shown: str, expected: str, origin: str) -> RequestRejected:
    return RequestRejected(
        ErrorCode.NOT_PERMITTED,
        f"{endpoint} shows the node key {printable(shown)[:64]}, {origin} says {expected}",
        hint=f"ask its operator; if the change is right, correct {origin}",
        field="node_key",
        status=403,
    )


def _read_pins(path: Path) -> dict[str, str]:
    try:
        pins = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as err:
        raise ConfigError(f"cannot be read: {err}", origin=str(path), allowed="repair it, or remove it") from err
    if not isinstance(pins, dict) or not all(re.fullmatch(KEY_PATTERN, str(key)) for key in pins.values()):
        raise ConfigError("not a list of pinned miners", origin=str(path), allowed="repair it, or remove it")
    return {str(endpoint): str(key) for endpoint, key in pins.items()}


def _read_registered(registry: Path | None) -> list[Miner]:
    if registry is None:
        return []
    if not registry.is_dir():
        raise ConfigError(f"{registry} is no folder", origin="--registry", allowed="a folder of registry entries")
    entries = read_registry(registry, lambda err: say(f"skipped: {err}"))
    return [Miner(entry.endpoint.rstrip("/"), key, entry.tls_public_key) for key, (_, entry) in entries.items()]
