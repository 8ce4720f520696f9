"""A renter and a miner that speaks TLS: first contact, registry, and what curl is given."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from neurons.base.tls import tls_public_key
from polarise.errors import AddressRefused, ConfigError, PeerRefused, RequestRejected
from polarise.registry import STATEMENT_KIND, open_entry, write_entry
from polarise.signing import Certificate, Identity, Purpose
from polarise.statement import sign_statement
from polarise.tls import curl_pin
from tests.support.proving_miner import entry_of
from tests.unit.neurons.renter.conftest import Renter
from tests.unit.polarise.small_miner import SmallMiner, identity

MINER, OTHER = identity(1), identity(2)


@dataclass
class Served:
    """Two miners; the second can be put in the first one's place."""

    miner: SmallMiner
    other: SmallMiner


@pytest.fixture(name="served")
def served_miners() -> Iterator[Served]:
    with SmallMiner(MINER, is_tls=True).running() as miner, SmallMiner(OTHER, is_tls=True).running() as other:
        yield Served(miner, other)


def register(folder: Path, endpoint: str, who: Identity, tls_key: str) -> Path:
    """Write the entry of a node as `join` would."""
    owner = identity(9)
    certificate = Certificate.issue(owner.key, who.public_key, Purpose.NODE)
    whose = {"node_key": who.public_key, "owner_key": owner.public_key, "owner_certificate": certificate}
    where = {"endpoint": endpoint, "tls_public_key": tls_key}
    entry = open_entry(entry_of()).model_copy(update={**whose, **where})
    write_entry(folder / "entry.json", sign_statement(who, STATEMENT_KIND, entry))
    return folder


def test_first_contact_pins_the_node_that_the_certificate_names(
    renter: Renter, served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert renter("allocate", "--miner", served.miner.endpoint, "-o", "json") == 0
    shown = capsys.readouterr()
    assert f"node key {MINER.public_key}, pinned in" in shown.err
    pins = tmp_path / "state" / "known_miners.json"
    assert json.loads(pins.read_text()) == {served.miner.endpoint: MINER.public_key}
    assert renter("ps") == 0
    # Another node in its place: not a request reaches it.
    pins.write_text(json.dumps({served.other.endpoint: MINER.public_key}))
    with pytest.raises(RequestRejected, match="shows the node key"):
        renter("ps", "--miner", served.other.endpoint)
    with pytest.raises(PeerRefused, match="is of node"):
        renter("allocate", "--miner", MINER.public_key[:12])
    assert served.other.seen == []


def test_a_private_address_that_only_the_registry_names_is_not_called(
    renter: Renter, served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An entry is its miner's word; without the renter's own, nothing on this machine or its network is connected to."""
    registry = register(tmp_path, served.miner.endpoint, MINER, tls_public_key(MINER))
    chosen = ("--miner", MINER.public_key[:12], "--registry", str(registry))
    with pytest.raises(AddressRefused, match="not a public address"):
        renter("allocate", *chosen)
    assert served.miner.seen == []
    assert renter("allocate", *chosen, "--allow-private") == 0
    # Named by its URL once, it is the renter's own choice from then on.
    assert renter("allocate", "--miner", served.miner.endpoint, "--registry", str(registry)) == 0
    assert renter("allocate", *chosen) == 0
    assert len(served.miner.leases) == 3
    capsys.readouterr()


def test_the_registry_says_the_tls_key(
    renter: Renter, served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = register(tmp_path, served.miner.endpoint, MINER, tls_public_key(OTHER))
    with pytest.raises(PeerRefused, match="the registry says"):
        renter("allocate", "--miner", served.miner.endpoint, "--registry", str(old))
    assert served.miner.leases == {}
    new = register(tmp_path, served.miner.endpoint, MINER, tls_public_key(MINER))
    assert renter("allocate", "--miner", served.miner.endpoint, "--registry", str(new)) == 0
    assert len(served.miner.leases) == 1
    capsys.readouterr()


def test_curl_pins_what_is_printed(
    renter: Renter, served: Served, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert renter("pin", "--miner", served.miner.endpoint) == 0
    pin = capsys.readouterr().out.strip()
    assert pin == curl_pin(tls_public_key(MINER))

    def curl(url: str) -> int:
        command = ["curl", "-sS", "-k", "--pinnedpubkey", pin, "-o", str(tmp_path / "out"), f"{url}/status"]
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode

    assert curl(served.miner.endpoint) == 0
    seen = len(served.other.seen)
    assert curl(served.other.endpoint) == 90
    assert len(served.other.seen) == seen
    assert renter("pin", "--miner", served.miner.endpoint, "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["node_key"] == MINER.public_key


def test_plain_http_has_no_pin(renter: Renter, miner: SmallMiner) -> None:
    with pytest.raises(ConfigError, match="has no certificate"):
        renter("pin", "--miner", miner.endpoint)
