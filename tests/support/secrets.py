"""Finds a secret wherever it was left: in any file, process or answer, raw or written as text in one of the usual ways.

Rules:
- A secret is looked for as its bytes, in hex of both cases, and in both alphabets of base64 at each of the three places it can have
  in a group, so that it is also found in the middle of something longer.
- A place that may hold a secret is named with the secret; everything else is a leak.
"""

from __future__ import annotations

import base64
import contextlib
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

FILE_BYTES_MAX = 64 << 20
SAMPLE_SECONDS = 0.2
# Shorter pieces would be found by chance.
FORM_BYTES_MIN = 12


@dataclass(frozen=True)
class Secret:
    """Something that nobody else may have.

    Attributes:
        name: For messages.
        value: Its bytes.
        homes: Ends of the names of places that hold it by right.
    """

    name: str
    value: bytes = field(repr=False)
    homes: Collection[str] = ()

    def forms(self) -> set[bytes]:
        """Return everything it may be written as."""
        found = {self.value, self.value.hex().encode(), self.value.hex().upper().encode()}
        for shift in range(3):
            # What stands before or behind it in the same group of three bytes changes the characters at the ends.
            text = base64.b64encode(b"\0" * shift + self.value).rstrip(b"=")
            inner = text[(4 if shift else 0) : len(text) - 1 if (shift + len(self.value)) % 3 else len(text)]
            found |= {inner, inner.translate(bytes.maketrans(b"+/", b"-_"))}
        return {form for form in found if len(form) >= FORM_BYTES_MIN}


def leaks(secrets: Collection[Secret], places: Mapping[str, bytes]) -> list[str]:
    """Return "secret in place" for each secret in a place that is not its home."""
    found = set()
    for secret in secrets:
        forms = secret.forms()
        for place, content in places.items():
            is_home = any(place.endswith(home) for home in secret.homes)
            if not is_home and any(form in content for form in forms):
                found.add(f"{secret.name} in {place}")
    return sorted(found)


def files_below(folder: Path, *, without: Collection[str] = ()) -> dict[str, bytes]:
    """Read every file below a folder as raw bytes, but for what has one of these names; what vanishes meanwhile is left out."""
    found: dict[str, bytes] = {}
    for root, names, files in os.walk(folder):
        names[:] = [name for name in names if name not in without]
        for name in (name for name in files if name not in without):
            path = Path(root) / name
            with contextlib.suppress(OSError):
                if path.is_file() and not path.is_symlink():
                    assert path.stat().st_size <= FILE_BYTES_MAX, f"{path} is too large to look through"
                    found[str(path)] = path.read_bytes()
    return found


def processes() -> Iterator[tuple[str, bytes]]:
    """Yield environment and command line of every process of this machine that may be read."""
    for folder in Path("/proc").glob("[0-9]*"):
        for name in ("environ", "cmdline"):
            with contextlib.suppress(OSError):
                yield f"{name} of process {folder.name}", (folder / name).read_bytes()


class Watch:
    """Looks again and again at what is there for a moment only; use it as a context manager.

    Attributes:
        places: What was seen: the name of a place -> all that ever stood there.
    """

    def __init__(self) -> None:
        self.places: dict[str, bytes] = {}
        self._seen: set[tuple[str, int]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Look once."""
        for name, content in processes():
            if (name, hash(content)) not in self._seen:
                self._seen.add((name, hash(content)))
                self.places[name] = self.places.get(name, b"") + b"\n" + content

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.look()
