"""Prints the software bill of materials of a node: CycloneDX 1.6, made from the lock file and nothing else.

    python deploy/sbom.py > sbom.cdx.json     # `make lock` does it; a test compares

Rules:
- One component per locked distribution, and torch from requirements.txt; a marker stands as a property.
- The same lock gives the same bytes on every machine: no time, and a serial number that is derived from the content.
- The hashes are the lock's; the document names the lock's own SHA-256.
Decision: docs/adr/0051-supply-chain.md.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)\s*(?:;\s*(.*?))?\s*\\?$")


class Pin(NamedTuple):
    """One distribution of a lock; ``marker`` is empty where it is for everybody."""

    name: str
    version: str
    marker: str


def read_pins(lock: Path) -> Iterator[Pin]:
    """Yield what a lock file or requirement file pins."""
    for line in lock.read_text(encoding="utf-8").splitlines():
        if match := _PIN.match(line.split("#")[0].strip()):
            yield Pin(match[1], match[2], match[3] or "")


def bill_of_materials() -> str:
    """Return the document."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    lock_sha256 = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    node = Component(name="polarise-node", version=version, type=ComponentType.APPLICATION, bom_ref="polarise-node")
    node.properties.add(Property(name="polarise:requirements.lock:sha256", value=lock_sha256))
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_OID, f"polarise-node {version} {lock_sha256}"))
    bom.metadata.component = node
    torch = [pin for pin in read_pins(ROOT / "requirements.txt") if pin.name == "torch"]
    for pin in [*read_pins(LOCK), *torch]:
        bom.components.add(_component(pin))
    bom.register_dependency(node, sorted(bom.components))
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    # The library stamps every document with the time; ours has none, so that it can be compared.
    del document["metadata"]["timestamp"]
    return json.dumps(document, indent=1) + "\n"


def _component(pin: Pin) -> Component:
    purl = PackageURL("pypi", None, pin.name, pin.version)
    component = Component(
        name=pin.name, version=pin.version, type=ComponentType.LIBRARY, purl=purl, bom_ref=purl.to_string()
    )
    if pin.marker:
        component.properties.add(Property(name="polarise:marker", value=pin.marker))
    return component


if __name__ == "__main__":
    sys.stdout.write(bill_of_materials())
