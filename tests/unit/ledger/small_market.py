"""Fixed identities, one genesis, a clock that moves when it is told, and transactions as their senders would sign them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ledger.embedded import EmbeddedLedger
from polarise.genesis import Genesis, Member
from polarise.signing import Identity, Purpose, SigningKey
from polarise.transaction import SetValue, SignedTransaction, sign_transaction

CREATED_UNIX_MS = 1_790_000_000_000


def identity(number: int) -> Identity:
    """A fixed identity, the same in every run."""
    return Identity(SigningKey(bytes([number]) * 32))


LEDGER, VALIDATOR, OTHER_VALIDATOR, MINER = identity(1), identity(2), identity(3), identity(4)
LOG_KEY = LEDGER.subkey(Purpose.LOG).key


def genesis(**changes: object) -> Genesis:
    """The genesis of the tests; changed fields make it another ledger's."""
    members = sorted(member.public_key for member in (VALIDATOR, OTHER_VALIDATOR))
    fields: dict[str, object] = {
        "name": "test",
        "ledger_key": LEDGER.public_key,
        "log_certificate": LEDGER.subkey(Purpose.LOG).certificate,
        "validators": tuple(Member(key=key, stake=10) for key in members),
        "block_seconds": 1,
        "created_unix_ms": CREATED_UNIX_MS,
    }
    return Genesis.model_validate({**fields, **changes})


GENESIS = genesis()


@dataclass
class ManualClock:
    """A clock of the tests."""

    now_unix_ms: int = CREATED_UNIX_MS + 1000

    def wall_unix_ms(self) -> int:
        return self.now_unix_ms

    def boot_ms(self) -> int:
        return self.now_unix_ms

    def boot_id(self) -> str:
        return "test"

    def monotonic_ns(self) -> int:
        return self.now_unix_ms * 1_000_000


@dataclass
class Sender:
    """Signs transactions with rising nonces."""

    identity: Identity
    net: str = GENESIS.net
    nonce: int = 0
    time_unix_ms: int = CREATED_UNIX_MS
    sent: list[SignedTransaction] = field(default_factory=list)

    def sign(self, path: str, value: object, *, read_concern: int | None = None) -> SignedTransaction:
        """Return the next transaction."""
        op = SetValue(path=path, value=value, read_concern=read_concern)
        made = sign_transaction(self.identity, op, net=self.net, nonce=self.nonce, time_unix_ms=self.time_unix_ms)
        self.nonce += 1
        self.sent.append(made)
        return made

    def register(self, value: object = "here") -> SignedTransaction:
        """Return a write on the sender's own registry path."""
        return self.sign(f"/registry/{self.identity.public_key}", value)

    def commit(self, epoch: int, value: object = "c0") -> SignedTransaction:
        """Return the commit of an epoch."""
        return self.sign(f"/epochs/{self.identity.public_key}/{epoch:010d}/commit", value)

    def record(self, epoch: int, value: object = "r0") -> SignedTransaction:
        """Return the record of an epoch."""
        return self.sign(f"/epochs/{self.identity.public_key}/{epoch:010d}/record", value)


@contextmanager
def open_ledger(
    path: Path, clock: ManualClock | None = None, *, of: Genesis = GENESIS, block_transactions_max: int = 10_000
) -> Iterator[EmbeddedLedger]:
    """Open a ledger file."""
    with EmbeddedLedger(
        path, of, LOG_KEY, clock or ManualClock(), block_transactions_max=block_transactions_max
    ) as ledger:
        yield ledger
