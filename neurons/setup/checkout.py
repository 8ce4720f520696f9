"""Where things of this checkout lie: the one place that knows the paths the set-up writes and the doctor reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Checkout:
    """A clone of the repository, with the environment and the stamps that belong to it."""

    root: Path

    @classmethod
    def here(cls) -> Checkout:
        """Find the checkout that this very file stands in."""
        return cls(Path(__file__).resolve().parents[2])

    @property
    def venv(self) -> Path:
        """The virtual environment of the checkout; may not exist yet."""
        return self.root / ".venv"

    @property
    def venv_python(self) -> Path:
        """The interpreter inside the venv; may not exist yet."""
        return self.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def state(self) -> Path:
        """Where the set-up leaves its stamps; ignored by git."""
        return self.root / ".polarise"
