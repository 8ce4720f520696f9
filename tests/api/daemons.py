"""The daemons as an operator starts them, three processes on loopback, and everybody who may or may not call them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import requests
from itsdangerous import TimestampSigner, URLSafeTimedSerializer
from requests.auth import AuthBase

from config.schema import Config
from neurons.base.access import Role
from neurons.base.tokens import _SALT
from neurons.demo.market import Market
from neurons.demo.process import Daemon as Process
from polarise.clients import MinerClient
from polarise.http_signatures import IDEMPOTENCY_HEADER, sign_request
from polarise.messages import AllocateRequest
from polarise.signing import Identity
from polarise.ssh_keys import generate_key_pair
from tests.support.identities import People

TOKEN_AGE_SECONDS = 2 * Config().security.token_expiry
LEASES_MAX = 3


class Signed(AuthBase):
    """Signs each request as it goes out, bytes and all (RFC 9421).

    Args:
        identity: Who asks.
        audience: Node key of whoever is asked.
    """

    def __init__(self, identity: Identity, audience: str) -> None:
        self._identity = identity
        self._audience = audience

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the signature."""
        body = request.body or b""
        raw = body.encode() if isinstance(body, str) else body
        signature = sign_request(
            self._identity,
            str(request.method),
            str(request.url),
            raw,
            audience=self._audience,
            idempotency_key=request.headers.get(IDEMPOTENCY_HEADER),
        )
        request.headers.update(signature)
        return request


class Bearer(AuthBase):
    """Shows a token with each request."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the token."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


@dataclass(frozen=True)
class Caller:
    """Somebody who calls one daemon.

    Attributes:
        name: For messages.
        auth: How it shows who it is; None not at all.
        role: What it is to the daemon; None is nobody.
        has_token: It comes with a token, which is not enough everywhere.
        is_named: The daemon can tell who it is, whatever it may do.
    """

    name: str
    auth: AuthBase | None = None
    role: Role | None = None
    has_token: bool = False
    is_named: bool = False


@dataclass
class Daemon:
    """One daemon.

    Attributes:
        role: Which.
        url: Base URL of its API.
        key: Its node key.
        callers: Everybody.
    """

    role: str
    url: str
    key: str
    callers: list[Caller] = field(default_factory=list)


class OldSigner(TimestampSigner):
    """Stamps tokens as if they were given long ago."""

    def get_timestamp(self) -> int:
        """Return a moment before the end of every token."""
        return int(time.time()) - TOKEN_AGE_SECONDS


def expired_token(data_dir: Path, node_key: str, holder: str) -> str:
    """Return a token that this node would have given, too long ago: made with its own secrets."""
    secrets = (data_dir / "keys" / "token-secrets").read_text(encoding="utf-8").split()
    serializer = URLSafeTimedSerializer(secrets[::-1], salt=f"{_SALT}/{node_key}", signer=OldSigner)
    return str(serializer.dumps({"key": holder}))


@dataclass
class Daemons:
    """A market whose daemons run.

    Attributes:
        market: Keys, folders, processes.
        people: Who calls beside those of the market.
        processes: Every daemon's process by its role.
    """

    market: Market
    people: People
    processes: dict[str, Process]

    @cached_property
    def all(self) -> Mapping[str, Daemon]:
        """Every daemon by its role."""
        market = self.market
        made = {
            "ledger": Daemon("ledger", market.ledger_url, market.ledger_identity.public_key),
            "miner": Daemon("miner", market.miner_url, market.miner_identity.public_key),
            "validator": Daemon("validator", market.validator_url, market.validator_identity.public_key),
        }
        for daemon in made.values():
            daemon.callers.extend(self._callers(daemon))
        return made

    def client(self, who: Identity) -> MinerClient:
        """Return a client of the miner."""
        return MinerClient(self.market.miner_url, self.market.miner_identity.public_key, who)

    def lease(self) -> str:
        """Return a container of the renter's; makes one where there is none."""
        client = self.client(self.people.renter)
        for view in client.containers():
            return view.container_id
        key = generate_key_pair()[1]
        return client.allocate(AllocateRequest(memory="128m", cpu_count=0.1, ssh_public_key=key)).container_id

    def clear(self) -> None:
        """End every lease."""
        owner = self.client(self.market.owner)
        for view in owner.containers():
            owner.terminate(view.container_id)

    def restart(self, role: str) -> None:
        """Stop a daemon's process and start another one on its folder and port."""
        self.processes[role] = self.market.restart(self.processes[role])

    def _callers(self, daemon: Daemon) -> Iterator[Caller]:
        people = self.people
        owner, key = self.market.owner, daemon.key
        old = expired_token(self.market.root / daemon.role, key, owner.public_key)
        yield Caller("nobody")
        yield Caller("owner", Signed(owner, key), Role.OWNER, is_named=True)
        yield Caller("stranger", Signed(people.stranger, key), is_named=True)
        yield Caller("holder of an old token", Bearer(old), has_token=True)
        yield Caller("holder of no token of ours", Bearer("e30.aaaa.bbbb"), has_token=True)
        yield Caller("owner of another node", Signed(owner, people.stranger.public_key))
        if daemon.role == "miner":
            for role, who in (
                (Role.RENTER, people.renter),
                (Role.RENTER, people.other_renter),
                (Role.VALIDATOR, people.validator),
                (Role.AUDITOR, people.auditor),
            ):
                yield Caller(str(role), Signed(who, key), role, is_named=True)
            token = self.client(people.renter).token().token
            yield Caller("renter with a token", Bearer(token), Role.RENTER, has_token=True, is_named=True)


def running_daemons(people: People) -> Iterator[Daemons]:
    """Start ledger, miner and validator as processes; everything is gone afterwards, leases too."""
    access = {**people.access(), "quota_leases": LEASES_MAX}
    docker = {
        "warm_slots": 0,
        "max_leases": LEASES_MAX,
        "default_memory": "128m",
        "default_cpu_count": 0.1,
        "default_ttl_seconds": 600,
        "container_prefix": "polarise-api-",
        "disk": "none",
    }
    # Floods are another test's; here each request is looked at.
    often = {"key_per_second": 10_000, "key_burst": 100_000, "costly_per_minute": 10_000, "costly_burst": 100_000}
    with Market(
        miner_settings={"access": access, "docker": docker, "miner": {"claim_cpu": False}, "requests": often},
        validator_settings={"validator": {"epoch_seconds": 3600}, "requests": often},
    ) as market:
        processes = {"ledger": market.start_ledger(), "miner": market.start_miner()[0]}
        processes["validator"] = market.start_validator()
        daemons = Daemons(market, people, processes)
        yield daemons
        daemons.clear()
