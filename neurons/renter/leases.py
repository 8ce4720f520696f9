"""The leases kept on this machine: receipt, pinned host key and login key, one folder each.

``<state>/leases/<container id>/{receipt.json, lease.json, known_hosts, id_ed25519}``
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from neurons.renter.files import make_private_folder, write_private
from neurons.renter.miners import Miner
from polarise.decode import WireModel, decode_model
from polarise.errors import ConfigError, ErrorCode, RequestRejected
from polarise.receipt import STATEMENT_KIND, Receipt
from polarise.signing import KEY_PATTERN, SignatureInvalid
from polarise.statement import SignedStatement

MAX_FILE_BYTES = 64 * 1024


class LeaseRecord(WireModel):
    """What the receipt does not say.

    Attributes:
        endpoint: Where the miner answers.
        node_key: Who it is.
        identity_file: Key file to log in with; None for a password.
    """

    endpoint: str = Field(max_length=300)
    node_key: str = Field(pattern=KEY_PATTERN)
    identity_file: str | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """One kept lease."""

    folder: Path
    record: LeaseRecord
    receipt: Receipt

    @property
    def container_id(self) -> str:
        """The engine's id of the container."""
        return self.receipt.container_id

    @property
    def miner(self) -> Miner:
        """Who rents it out."""
        return Miner(self.record.endpoint, self.record.node_key)

    @property
    def known_hosts(self) -> Path:
        """The file that holds this container's host key and no other."""
        return self.folder / "known_hosts"


class LeaseStore:
    """The folder of all kept leases."""

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / "leases"

    def prepare(self) -> None:
        """Make the folder before anything is rented; raises ConfigError when it cannot be made."""
        make_private_folder(self._root)

    def new_identity_path(self, container_id: str) -> Path:
        """Return where a lease's throw-away private key belongs."""
        return self._root / container_id / "id_ed25519"

    def save(self, miner: Miner, statement: SignedStatement, receipt: Receipt, identity_file: Path | None) -> Lease:
        """Keep a lease, or what has changed about it."""
        folder = self._root / receipt.container_id
        record = LeaseRecord(
            endpoint=miner.endpoint,
            node_key=miner.node_key,
            identity_file=str(identity_file) if identity_file else None,
        )
        lease = Lease(folder, record, receipt)
        write_private(lease.known_hosts, known_hosts_line(receipt))
        write_private(folder / "lease.json", _json(record))
        write_private(folder / "receipt.json", _json(statement))  # last: a folder without it is no lease
        return lease

    def all(self) -> list[Lease]:
        """List the kept leases in the order of their ids.

        Raises:
            ConfigError: A file of one is damaged.
        """
        return [_read(path.parent) for path in sorted(self._root.glob("*/receipt.json"))]

    def matching(self, prefix: str) -> Lease | None:
        """Return the lease whose container id begins so, None when there is none.

        Raises:
            ConfigError: Several begin so.
        """
        found = [
            path.parent for path in sorted(self._root.glob("*/receipt.json")) if path.parent.name.startswith(prefix)
        ]
        if len(found) > 1:
            names = ", ".join(folder.name[:16] for folder in found)
            raise ConfigError(f"{prefix!r} fits {names}", origin="ID", allowed="more digits of the container id")
        return _read(found[0]) if found else None

    def get(self, prefix: str) -> Lease:
        """Return the lease whose container id begins so.

        Raises:
            RequestRejected: There is none (404).
        """
        lease = self.matching(prefix)
        if lease is None:
            raise not_found(prefix)
        return lease

    def forget(self, container_id: str) -> None:
        """Remove what is kept of a lease, its private key included."""
        shutil.rmtree(self._root / container_id, ignore_errors=True)


def known_hosts_line(receipt: Receipt) -> str:
    """Return the one line by which OpenSSH recognises the container."""
    host = receipt.ssh_host.lower()
    return f"{host if receipt.ssh_port == 22 else f'[{host}]:{receipt.ssh_port}'} {receipt.host_key}\n"


def not_found(prefix: str) -> RequestRejected:
    """Return the refusal of an id that nobody knows."""
    return RequestRejected(
        ErrorCode.NOT_FOUND,
        f"no lease {prefix[:80]!r} is kept on this machine",
        hint="`python main.py renter ps` lists what a miner has of yours; a lease made with curl, or on another machine, is "
        "logged into from there (docs/quickstart.md, With curl); --state-dir says where leases are kept",
        field="id",
        status=404,
    )


def _read(folder: Path) -> Lease:
    try:
        record = decode_model(LeaseRecord, (folder / "lease.json").read_bytes(), max_bytes=MAX_FILE_BYTES)
        statement = decode_model(SignedStatement, (folder / "receipt.json").read_bytes(), max_bytes=MAX_FILE_BYTES)
        return Lease(folder, record, statement.open(STATEMENT_KIND, Receipt, signer=record.node_key))
    except (OSError, RequestRejected, SignatureInvalid) as err:
        raise ConfigError(f"the lease is damaged: {err}", origin=str(folder), allowed="remove the folder") from err


def _json(model: WireModel) -> str:
    return json.dumps(model.to_wire(), indent=2) + "\n"
