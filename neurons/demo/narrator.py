"""Tells what happens: numbered lines for people, the same as JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TextIO


class Narrator:
    """Prints numbered lines and remembers them.

    Args:
        out: Where the lines go.
    """

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._began = time.monotonic()
        self._steps: list[dict[str, object]] = []

    def step(self, title: str, **fields: object) -> None:
        """Tell one thing that has just happened."""
        seconds = time.monotonic() - self._began
        self._steps.append({"number": len(self._steps) + 1, "at_seconds": round(seconds, 3), "title": title, **fields})
        print(f"[{len(self._steps):2d}] {seconds:6.1f} s  {title}", file=self._out, flush=True)

    def note(self, text: str) -> None:
        """Say something that is no step."""
        print(text, file=self._out, flush=True)

    def write_json(self, path: Path, outcome: dict[str, object]) -> None:
        """Write all steps and how it ended."""
        path.write_text(json.dumps({**outcome, "steps": self._steps}, indent=2) + "\n", encoding="utf-8")
