"""The signed registry entry of this miner, as a ledger will take it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from config.schema import Config
from neurons.base.ledger_post import post
from neurons.base.tls import tls_public_key
from neurons.miner import settings
from neurons.miner.hardware import detect_devices, measure_devices
from neurons.miner.solver import SolverProcess
from polarise.errors import ConfigError
from polarise.generations import publications
from polarise.hardware import DeviceClaim, HardwareClaim
from polarise.ledger_client import LedgerClient
from polarise.ledger_registry import registration
from polarise.registry import STATEMENT_KIND, RegistryEntry
from polarise.signing import Certificate, Identity
from polarise.statement import SignedStatement, sign_statement
from polarise.transaction import encode_value
from utils import host


def registry_statement(
    config: Config, identity: Identity, folder: Path, endpoint: str, on_measured: Callable[[DeviceClaim], None]
) -> SignedStatement:
    """Measure the devices and sign the entry; see `measure_hardware` and `entry_statement`."""
    _certificate(identity)
    return entry_statement(config, identity, endpoint, measure_hardware(config, identity, folder, on_measured))


def measure_hardware(
    config: Config, identity: Identity, folder: Path, on_measured: Callable[[DeviceClaim], None]
) -> HardwareClaim:
    """Measure every device with the real proofs, and say what else is for lease.

    Args:
        config: Settings; what is for lease is claimed.
        identity: The node.
        folder: The node's data directory; the free space of its disk is claimed.
        on_measured: Called with each device and its claims.

    Raises:
        SolverFailed: A device could not prove.
    """
    stock = settings.inventory(config, identity.public_key[:12])
    found = detect_devices(claim_cpu=config.miner.claim_cpu)
    command, user = settings.solver_program(config, identity.public_key[:12], folder, found)
    devices = measure_devices(found, on_measured, start_solver=lambda: SolverProcess(command, user))
    return HardwareClaim(
        cpu_model=host.cpu_model()[:200],
        cpu_milli=stock.cpu_milli,
        memory_bytes=stock.memory_bytes,
        devices=devices,
        disk_bytes=host.disk_free_bytes(folder),
        network_bits_per_second=config.miner.network_bits_per_second,
    )


def entry_statement(config: Config, identity: Identity, endpoint: str, hardware: HardwareClaim) -> SignedStatement:
    """Sign the entry.

    Args:
        config: Settings.
        identity: The node, certified by its owner.
        endpoint: Base URL of the API.
        hardware: What is claimed.

    Raises:
        ConfigError: The node key has no owner.
    """
    certificate = _certificate(identity)
    entry = RegistryEntry(
        node_key=identity.public_key,
        owner_key=certificate.issuer,
        owner_certificate=certificate,
        endpoint=endpoint,
        advertised_host=config.network.advertised_host,
        hardware=hardware,
        price_micros_per_hour=config.miner.price_micros_per_hour,
        tls_public_key=tls_public_key(identity) if endpoint.startswith("https://") else None,
        created_unix_ms=time.time_ns() // 1_000_000,
    )
    return sign_statement(identity, STATEMENT_KIND, entry)


def post_entry(client: LedgerClient, identity: Identity, statement: SignedStatement) -> int:
    """Put the entry on the ledger and wait until it is final; see `post`.

    A subkey that was rotated before the node stood in the registry is published now: the ledger takes it from now on only.
    """
    height = post(client, identity, registration(statement))
    for op in publications(identity).values():
        if client.read(op.path).text != encode_value(op.value):
            height = post(client, identity, op)
    return height


def _certificate(identity: Identity) -> Certificate:
    if identity.owner_certificate is None:
        raise ConfigError(
            "the node key is not certified by an owner", allowed="`python main.py key new --kind node --owner-key FILE`"
        )
    return identity.owner_certificate
