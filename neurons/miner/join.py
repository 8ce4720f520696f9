"""The signed registry entry of this miner, as a ledger will take it."""

from __future__ import annotations

import time
from collections.abc import Callable

from config.schema import Config
from neurons.miner import settings
from neurons.miner.hardware import measure_claim
from polarise.errors import ConfigError
from polarise.registry import STATEMENT_KIND, RegistryEntry
from polarise.signing import Identity
from polarise.statement import SignedStatement, sign_statement


def registry_statement(
    config: Config, identity: Identity, endpoint: str, on_measured: Callable[[str, int], None]
) -> SignedStatement:
    """Measure the devices and sign the entry.

    Args:
        config: Settings; what is for lease is claimed.
        identity: The node, certified by its owner.
        endpoint: Base URL of the API.
        on_measured: Called with a device's name and its claimed rate.

    Raises:
        ConfigError: The node key has no owner.
        SolverFailed: A device could not prove.
    """
    certificate = identity.owner_certificate
    if certificate is None:
        raise ConfigError(
            "the node key is not certified by an owner", allowed="`python main.py key new --kind node --owner-key FILE`"
        )
    stock = settings.inventory(config, identity.public_key[:12])
    entry = RegistryEntry(
        node_key=identity.public_key,
        owner_key=certificate.issuer,
        owner_certificate=certificate,
        endpoint=endpoint,
        advertised_host=config.network.advertised_host,
        hardware=measure_claim(stock.memory_bytes, stock.cpu_milli, on_measured),
        price_micros_per_hour=config.miner.price_micros_per_hour,
        created_unix_ms=time.time_ns() // 1_000_000,
    )
    return sign_statement(identity, STATEMENT_KIND, entry)
