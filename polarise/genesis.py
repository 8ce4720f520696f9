"""The genesis file: what a ledger is before its first transaction, and what everybody who uses it has to hold.

Rules:
- Its hash is part of the ledger's net id and so of every transaction and every checkpoint: what was signed for one
  ledger is worth nothing on another, even of the same name.
- It names the log's key with the certificate of the ledger's node key; nothing else vouches for that key.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from polarise.canonical import digest_hex
from polarise.checkpoint import parse_log_key
from polarise.decode import WireModel, decode_model
from polarise.errors import ConfigError, RequestRejected
from polarise.notes import Ed25519Verifier
from polarise.signing import KEY_PATTERN, Certificate, Purpose, SignatureInvalid

MAX_GENESIS_BYTES = 1024 * 1024
NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,31}$"
NET_PATTERN = r"^[a-z0-9][a-z0-9-]{0,31}\.[0-9a-f]{16}$"


class Member(WireModel):
    """A validator that is there from the start.

    Attributes:
        key: Node key.
        stake: Weight of its word, in the market's smallest unit.
    """

    key: str = Field(pattern=KEY_PATTERN)
    stake: int = Field(ge=1, lt=2**53)


class Genesis(WireModel):
    """The whole file.

    Attributes:
        v: Version of the format.
        name: Name of the net, for people.
        ledger_key: Node key of whoever runs the ledger.
        log_certificate: Its certificate of the key that signs checkpoints.
        validators: In order of their keys, each once.
        block_seconds: Time between two blocks.
        final_confirmations: Blocks, the first included, until a transaction counts as final.
        created_unix_ms: Time of block 0.
    """

    v: int = Field(default=1, ge=1, le=1)
    name: str = Field(pattern=NAME_PATTERN)
    ledger_key: str = Field(pattern=KEY_PATTERN)
    log_certificate: Certificate
    validators: tuple[Member, ...] = Field(min_length=1, max_length=1024)
    block_seconds: int = Field(default=5, ge=1, le=3600)
    final_confirmations: int = Field(default=1, ge=1, le=1000)
    created_unix_ms: int = Field(ge=0, lt=2**53)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        keys = [member.key for member in self.validators]
        if keys != sorted(set(keys)):
            raise ValueError("validators are listed in order of their keys, each once")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical bytes, 64 hex digits."""
        return digest_hex(self.to_wire())

    @property
    def net(self) -> str:
        """Net id: the name and the start of the hash; part of every transaction."""
        return f"{self.name}.{self.hash[:16]}"

    @property
    def origin(self) -> str:
        """Origin line of the ledger's checkpoints."""
        return f"ledger.polarise/{self.net}"

    @property
    def log(self) -> Ed25519Verifier:
        """The key that signs checkpoints."""
        return parse_log_key(self.log_certificate.subject, self.origin)

    def check(self) -> None:
        """Verify that the ledger's node key certified the log's key.

        Raises:
            SignatureInvalid: It did not.
        """
        self.log_certificate.check(issuer=self.ledger_key, purpose=Purpose.LOG)


def decode_genesis(raw: bytes) -> Genesis:
    """Read and check a genesis from a stranger.

    Raises:
        RequestRejected: Not of the format.
        SignatureInvalid: The log's key is not certified.
    """
    genesis = decode_model(Genesis, raw, max_bytes=MAX_GENESIS_BYTES)
    genesis.check()
    return genesis


def read_genesis(path: Path) -> Genesis:
    """Read the genesis file.

    Raises:
        ConfigError: Not readable, not a genesis, or its certificate does not hold.
    """
    fix = "the genesis.json of the ledger; its operator makes it with `python main.py ledger init`"
    try:
        return decode_genesis(path.read_bytes())
    except OSError as err:
        raise ConfigError(f"cannot read the genesis: {err.strerror}", origin=str(path), allowed=fix) from err
    except (RequestRejected, SignatureInvalid) as err:
        raise ConfigError(f"not a valid genesis: {err}", origin=str(path), allowed=fix) from err


def write_genesis(path: Path, genesis: Genesis) -> None:
    """Write the file; an existing one is never overwritten.

    Raises:
        ConfigError: It exists, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as handle:
            handle.write(json.dumps(genesis.to_wire(), indent=2) + "\n")
    except FileExistsError as err:
        raise ConfigError(
            "a ledger has one genesis, and this one has its own already", origin=str(path), allowed="another data_dir"
        ) from err
    except OSError as err:
        raise ConfigError(f"cannot write: {err.strerror}", origin=str(path), allowed="a folder to write in") from err
