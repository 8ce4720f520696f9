"""What a renter's command prints: data on stdout, talk on stderr, and nothing of a peer's that steers a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

from polarise.answers import printable
from polarise.quantities import format_size
from polarise.receipt import Limits
from polarise.usage import LOSS_TEXT, Usage

SHORT_ID_CHARS = 12


def say(text: str) -> None:
    """Tell the person at the terminal something that is not the result."""
    sys.stderr.write(text + "\n")


def print_json(value: object) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2))


def print_fields(fields: Mapping[str, object]) -> None:
    """Print one aligned line per field."""
    width = max(len(name) for name in fields)
    for name, value in fields.items():
        print(f"{name:<{width}}  {printable(value)}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns under a header."""
    lines = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def limits_text(limits: Limits) -> str:
    """Say the limits in a few words."""
    disk = "" if limits.disk_bytes is None else f", {format_size(limits.disk_bytes)} disk"
    if limits.disk_encrypted:
        disk += " (encrypted)"
    return f"{limits.cpu_milli / 1000:g} CPU, {format_size(limits.memory_bytes)}, {limits.pids_count} pids{disk}"


def usage_text(usage: Usage) -> str:
    """Say a usage statement in a few words; what the miner could not read is left out."""
    parts = [f"{usage.allocated_ms / 1000:.1f} s"]
    if usage.cpu_ms is not None:
        parts.append(f"{usage.cpu_ms / 1000:.1f} s of CPU")
    if usage.memory_mib_seconds is not None:
        parts.append(f"{usage.memory_mib_seconds} MiB s of memory")
    if usage.network_in_bytes is not None and usage.network_out_bytes is not None:
        parts.append(f"{usage.network_in_bytes} B in, {usage.network_out_bytes} B out")
    if usage.devices:
        parts.append(f"{len(usage.devices)} GPUs for {usage.allocated_ms / 1000:.1f} s each")
    if usage.lost is not None:
        parts.append(f"lost: {LOSS_TEXT[usage.lost]}")
    return ", ".join(parts)
