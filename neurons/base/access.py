"""Who may do what: keys -> roles, and a table route x role -> own things, everybody's, or nothing.

The table is data; the HTTP layer asks it once per request, and a test walks every cell.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from polarise.errors import ErrorCode, RequestRejected
from polarise.statement import SignedStatement


class Role(StrEnum):
    """What a caller is to this node."""

    OWNER = "owner"
    VALIDATOR = "validator"
    RENTER = "renter"
    AUDITOR = "auditor"


class Scope(StrEnum):
    """How far a right goes."""

    OWN = "own"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller on one route.

    Attributes:
        key: Node key.
        role: What it is here.
        scope: How far its right goes.
        consent: What its bearer token carries, if there is one.
        counter: Generation of the request subkey that signed, or that the token was given to.
        is_listed: False for a key that is a renter only because anybody may be one.
    """

    key: str
    role: Role
    scope: Scope
    consent: SignedStatement | None = None
    counter: int = 0
    is_listed: bool = True

    def may_see(self, holder_key: str) -> bool:
        """Whether a thing held by ``holder_key`` exists for this caller."""
        return self.scope is Scope.ANY or self.key == holder_key


@dataclass(frozen=True, slots=True)
class RouteAccess:
    """Rights on one route.

    Attributes:
        scopes: Role -> scope; a role that is missing may not call the route.
        is_public: Anybody may, without authentication.
        needs_signature: A bearer token is not enough; the request itself must be signed.
        is_costly: It makes a token, a lease or a login, and counts against a bound of its own.
        is_audited: It changes something, which the audit log tells.
    """

    scopes: Mapping[Role, Scope] = field(default_factory=dict)
    is_public: bool = False
    needs_signature: bool = False
    is_costly: bool = False
    is_audited: bool = False


class RoleTable:
    """Public key -> role, from the configuration, and for validators from the ledger as well.

    Args:
        owner: The owner's key; always has the role owner. None for a node without an owner.
        validators: Keys on the allow-list for validators; renters and auditors likewise.
        is_open: Any other key is a renter.
        staked: Returns the validators that the ledger names at this moment; a key on a list here keeps its role.
    """

    def __init__(
        self,
        owner: str | None,
        *,
        validators: Collection[str] = (),
        renters: Collection[str] = (),
        auditors: Collection[str] = (),
        is_open: bool = False,
        staked: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        self._roles: dict[str, Role] = {
            **dict.fromkeys(auditors, Role.AUDITOR),
            **dict.fromkeys(renters, Role.RENTER),
            **dict.fromkeys(validators, Role.VALIDATOR),
            **({owner: Role.OWNER} if owner else {}),
        }
        self._is_open = is_open
        self._staked = staked

    def role_of(self, key: str) -> Role:
        """Return the caller's role.

        Raises:
            RequestRejected: NOT_PERMITTED (403), the key stands on no list.
        """
        role = self._known(key) or (Role.RENTER if self._is_open else None)
        if role is None:
            raise RequestRejected(
                ErrorCode.NOT_PERMITTED,
                f"the key {key[:12]}… stands on no list of this node",
                hint="ask its owner to add your public key under access.renters",
                status=403,
            )
        return role

    def is_listed(self, key: str) -> bool:
        """Whether the owner or the ledger named this key; others are renters at most, and share what is for them."""
        return self._known(key) is not None

    def _known(self, key: str) -> Role | None:
        return self._roles.get(key) or (Role.VALIDATOR if key in self._staked() else None)


def admit(key: str, role: Role, access: RouteAccess) -> Caller:
    """Return the caller with its scope on a route.

    Raises:
        RequestRejected: NOT_PERMITTED (403), the role has no right there.
    """
    scope = access.scopes.get(role)
    if scope is None:
        allowed = ", ".join(sorted(access.scopes)) or "nobody"
        raise RequestRejected(
            ErrorCode.NOT_PERMITTED, f"the role {role} may not do this", hint=f"allowed: {allowed}", status=403
        )
    return Caller(key, role, scope)
