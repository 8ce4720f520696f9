"""The signed registry entry of this miner, as a ledger will take it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from config.schema import Config
from neurons.miner import settings
from neurons.miner.hardware import detect_devices, measure_devices
from neurons.miner.pow_library import solver_command
from neurons.miner.solver import SolverProcess
from polarise.errors import ConfigError, ErrorCode, RequestRejected, Unavailable
from polarise.hardware import DeviceClaim, HardwareClaim
from polarise.ledger_client import LedgerClient, WaitState
from polarise.ledger_registry import registration
from polarise.registry import STATEMENT_KIND, RegistryEntry
from polarise.signing import Certificate, Identity
from polarise.statement import SignedStatement, sign_statement
from polarise.transaction import SetValue, SignedTransaction, encode_value, sign_transaction
from utils import host

FINAL_SECONDS = 60.0
SUBMIT_ATTEMPTS = 5


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
    command = solver_command(folder, compiled_pow=config.miner.compiled_pow)
    devices = measure_devices(
        detect_devices(claim_cpu=config.miner.claim_cpu), on_measured, start_solver=lambda: SolverProcess(command)
    )
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
        created_unix_ms=time.time_ns() // 1_000_000,
    )
    return sign_statement(identity, STATEMENT_KIND, entry)


def post_entry(client: LedgerClient, identity: Identity, statement: SignedStatement) -> int:
    """Put the entry on the ledger and wait until it is final; see `post`."""
    return post(client, identity, registration(statement))


def post(client: LedgerClient, identity: Identity, op: SetValue) -> int:
    """Put one value on the ledger, wait until it is final, and see it proved that it stands there.

    Returns:
        Height of the first block that covers it.

    Raises:
        RequestRejected: The ledger refused it.
        Unavailable: The ledger is away, makes no blocks, or has something else on the path.
    """
    transaction = _submit(client, identity, op)
    waited = client.wait(transaction.hash, FINAL_SECONDS)
    if waited.refusal is not None:
        raise waited.refusal
    if waited.state is not WaitState.FINAL or waited.height is None:
        raise Unavailable(f"the value is {waited.state} after {FINAL_SECONDS:g} s; is the ledger making blocks?")
    standing = client.read(op.path, at_least=waited.height)
    if standing.text != (None if op.value is None else encode_value(op.value)):
        raise Unavailable(
            f"{op.path} holds another value in block {standing.block.block.height}; was it written again?"
        )
    return waited.height


def _submit(client: LedgerClient, identity: Identity, op: SetValue) -> SignedTransaction:
    """Sign and hand in; the node's daemon may write with the same key, so a nonce it took meanwhile is tried again."""
    for attempt in range(SUBMIT_ATTEMPTS):
        transaction = sign_transaction(
            identity,
            op,
            net=client.genesis.net,
            nonce=client.next_nonce(identity.public_key),
            time_unix_ms=time.time_ns() // 1_000_000,
        )
        try:
            client.submit(transaction)
        except RequestRejected as err:
            if err.code not in {ErrorCode.NONCE_REUSED, ErrorCode.NONCE_GAP} or attempt == SUBMIT_ATTEMPTS - 1:
                raise
        else:
            return transaction
    raise AssertionError("the loop returns or raises")


def _certificate(identity: Identity) -> Certificate:
    if identity.owner_certificate is None:
        raise ConfigError(
            "the node key is not certified by an owner", allowed="`python main.py key new --kind node --owner-key FILE`"
        )
    return identity.owner_certificate
