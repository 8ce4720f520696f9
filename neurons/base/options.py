"""The options every daemon and many a command take; standard library only, because parsers are built before anything is installed."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose and change settings."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file (default: config/<role>.yaml)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="this node's folder (default: data/<role>)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set one setting, for example docker.default_memory=2g; may be repeated",
    )


def add_daemon_options(parser: argparse.ArgumentParser) -> None:
    """Add everything a daemon takes."""
    add_config_options(parser)
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help="passphrase of the key file, mode 0600")
    parser.add_argument("--verbose", action="store_true", help="log at level DEBUG")
    parser.add_argument("--log-format", choices=("text", "json"), help="one line of text or one JSON object per entry")
