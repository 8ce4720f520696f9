"""How a daemon or a command comes to its ledger: endpoint and genesis from the settings, the last block kept on disk."""

from __future__ import annotations

from pathlib import Path

from config.schema import Config
from polarise.block_follower import BlockMemory, FileMemory
from polarise.errors import ConfigError
from polarise.genesis import Genesis, read_genesis
from polarise.ledger_client import LedgerClient

MEMORY_FILE = "last-block"


def ledger_client(config: Config, memory: BlockMemory | Path) -> LedgerClient:
    """Return a client of the configured ledger.

    Args:
        config: Names endpoint and genesis.
        memory: Where the last block seen is kept, or the folder of a file for it.

    Raises:
        ConfigError: No genesis, or not a valid one.
    """
    kept = FileMemory(memory / MEMORY_FILE) if isinstance(memory, Path) else memory
    return LedgerClient(config.ledger.endpoint, ledger_genesis(config), memory=kept)


def ledger_genesis(config: Config) -> Genesis:
    """Return the genesis of the configured ledger.

    Raises:
        ConfigError: None is configured, or it is not a valid one.
    """
    if config.ledger.genesis is None:
        raise ConfigError(
            "this node does not know its ledger",
            key_path="ledger.genesis",
            allowed="the path of the ledger's genesis.json (made by `python main.py ledger init`), for example "
            "--set ledger.genesis=data/ledger/genesis.json",
        )
    return read_genesis(config.ledger.genesis)
