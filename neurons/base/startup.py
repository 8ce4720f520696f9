"""What every daemon does before it exists: options, configuration, log, data directory, key."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from config.loader import CHECKOUT, load_config, parse_value
from config.schema import Config, RoleName
from neurons.base.keys import load_node_identity
from polarise.errors import ConfigError
from polarise.signing import Identity
from utils.crypto import read_passphrase
from utils.logging import configure_logging


@dataclass(frozen=True, slots=True)
class Started:
    """What a role's node is built from."""

    config: Config
    data_dir: Path
    identity: Identity


def load(args: argparse.Namespace, role: RoleName) -> Started:
    """Read the settings, start the log and open the node's key.

    Raises:
        ConfigError: Anything the operator has to change first.
    """
    config = load_settings(args, role)
    if config.role not in {role, RoleName.DEMO}:
        raise ConfigError(
            f"these settings are a {config.role}'s",
            origin=str(_config_file(args, role) or ""),
            key_path="role",
            allowed=f"`python main.py {config.role}`, or settings with role: {role}",
        )
    configure_logging(config.logging.level, config.logging.format, config.logging.file)
    data_dir = data_dir_of(args, role, config)
    identity = load_node_identity(data_dir, read_passphrase(args.passphrase_file, os.environ))
    return Started(config, data_dir, identity)


def load_settings(args: argparse.Namespace, role: RoleName) -> Config:
    """Merge defaults, file, environment and flags.

    Raises:
        ConfigError: A setting has to change.
    """
    return load_config(_config_file(args, role), environ=os.environ, flags=_flags(args))


def data_dir_of(args: argparse.Namespace, role: RoleName, config: Config | None = None) -> Path:
    """Return the node's folder: the flag's, the configured one, or data/<role> in the checkout."""
    if args.data_dir is not None:
        return Path(args.data_dir).expanduser().absolute()
    settings = config or load_settings(args, role)
    return settings.data_dir or CHECKOUT / "data" / str(role)


def _config_file(args: argparse.Namespace, role: RoleName) -> Path | None:
    if args.config is not None:
        return Path(args.config)
    if named := os.environ.get("POLARISE_CONFIG"):
        return Path(named)
    shipped = CHECKOUT / "config" / f"{role}.yaml"
    return shipped if shipped.exists() else None


def _flags(args: argparse.Namespace) -> Mapping[str, object]:
    flags: dict[str, object] = {}
    for item in args.set:
        path, separator, value = item.partition("=")
        if not separator:
            raise ConfigError(f"{item!r} has no value", origin="--set", allowed="--set docker.default_memory=2g")
        flags[path.strip()] = parse_value(path.strip(), value, "--set")
    if getattr(args, "verbose", False):
        flags["logging.level"] = "DEBUG"
    if getattr(args, "log_format", None):
        flags["logging.format"] = args.log_format
    return flags
