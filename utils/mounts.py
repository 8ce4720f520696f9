"""What is mounted where, as the kernel tells it of one process; see proc(5), "mountinfo"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountedAt:
    """One mount of one process.

    Attributes:
        device: ``major:minor`` of its file system, the same wherever the file system is mounted.
        point: Where it is mounted, as the process sees it.
        is_read_only: Whether nothing can be written through it.
        kind: Of the file system, ``ext4`` or ``tmpfs``.
        source: What was mounted: a device or a name.
        options: Of the file system, ``name=value`` or a single word, as the kernel has them.
    """

    device: str
    point: str
    is_read_only: bool
    kind: str
    source: str
    options: tuple[str, ...] = ()

    def option(self, name: str) -> str | None:
        """Return the value of an option of the file system; None where there is none."""
        return next((option[len(name) + 1 :] for option in self.options if option.startswith(f"{name}=")), None)


def read_mounts(process: str = "self", *, proc: Path = Path("/proc")) -> list[MountedAt]:
    """Return all mounts a process sees, in the order they were made; a later one covers an earlier one.

    Args:
        process: A process number, or ``self``.
        proc: Where the kernel tells it.

    Raises:
        OSError: The process is gone, or this user may not look.
    """
    text = (proc / process / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    return [_mounted(line) for line in text.splitlines()]


def _mounted(line: str) -> MountedAt:
    before, _, after = line.partition(" - ")
    fields, (kind, source, super_options) = before.split(" "), after.split(" ", 2)
    is_read_only = "ro" in fields[5].split(",") or "ro" in super_options.split(",")
    options = tuple(_plain(option) for option in super_options.split(","))
    return MountedAt(fields[2], _plain(fields[4]), is_read_only, kind, _plain(source), options)


def _plain(text: str) -> str:
    """Undo the kernel's writing of blanks, tabs and newlines as octal numbers."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
