"""`python main.py backup` and `restore`: a node's data directory in one file, and back."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Add ``backup`` and ``restore``."""
    backup = subparsers.add_parser(
        "backup", help="copy a node's data directory into a file, while its daemon runs or not"
    )
    backup.add_argument("--data-dir", type=Path, metavar="DIR", required=True, help="the node's folder")
    backup.add_argument("--config", type=Path, metavar="FILE", help="copy this settings file too")
    backup.add_argument("file", type=Path, metavar="FILE", help="the file to make, mode 0600; it must not be there yet")
    backup.set_defaults(handler=run_backup)
    restore = subparsers.add_parser("restore", help="put a backup back where no data directory is")
    restore.add_argument("--data-dir", type=Path, metavar="DIR", required=True, help="the folder to make")
    restore.add_argument("file", type=Path, metavar="FILE", help="a file that `backup` made")
    restore.set_defaults(handler=run_restore)


def run_backup(args: argparse.Namespace) -> int:
    """Write a backup."""
    from neurons.base.backup import write_backup
    from utils.clock import SystemClock

    node_dir = args.data_dir.expanduser().absolute()
    manifest = write_backup(node_dir, args.file.absolute(), SystemClock().wall_unix_ms(), settings=args.config)
    size = args.file.stat().st_size
    sys.stdout.write(f"wrote {args.file}: {len(manifest.files)} files, {size} bytes; keep it as you keep keys\n")
    return 0


def run_restore(args: argparse.Namespace) -> int:
    """Put a backup back."""
    from neurons.base.backup import restore_backup
    from neurons.base.log_epochs import FIX
    from utils.clock import iso_utc

    node_dir = args.data_dir.expanduser().absolute()
    restored = restore_backup(args.file, node_dir)
    created = iso_utc(restored.manifest.created_unix_ms)
    sys.stdout.write(f"restored {len(restored.manifest.files)} files to {node_dir}, as of {created}\n")
    if restored.settings is not None:
        sys.stdout.write(f"its settings: {restored.settings}\n")
    if restored.is_miner:
        sys.stdout.write(f"before the first start: {FIX} --data-dir {node_dir}\n")
    if (node_dir / "ledger.sqlite").exists():
        sys.stdout.write("a ledger that had made later blocks must not go on: who saw them will call it a fork\n")
    return 0
