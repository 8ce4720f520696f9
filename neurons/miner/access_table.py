"""Rights on the miner's routes; design section 4 as data. A test walks every cell."""

from __future__ import annotations

from neurons.base.access import Role, RouteAccess, Scope
from neurons.base.operation import COMMON_ACCESS
from neurons.miner.telemetry_routes import TELEMETRY_ACCESS

_RENTERS = {Role.OWNER: Scope.ANY, Role.RENTER: Scope.OWN, Role.VALIDATOR: Scope.OWN}
_EVERY_ROLE = {**_RENTERS, Role.AUDITOR: Scope.OWN}

MINER_ACCESS: dict[tuple[str, str], RouteAccess] = {
    **COMMON_ACCESS,
    **TELEMETRY_ACCESS,
    ("POST", "/token"): RouteAccess(_EVERY_ROLE, needs_signature=True, is_costly=True, is_audited=True),
    ("POST", "/allocate"): RouteAccess(
        {Role.RENTER: Scope.OWN, Role.VALIDATOR: Scope.OWN, Role.OWNER: Scope.OWN}, is_costly=True, is_audited=True
    ),
    ("GET", "/containers"): RouteAccess(_RENTERS),
    ("GET", "/containers/<container_id>"): RouteAccess(_RENTERS),
    ("GET", "/containers/<container_id>/usage"): RouteAccess(_RENTERS),
    ("POST", "/containers/<container_id>/renew"): RouteAccess(_RENTERS, is_audited=True),
    ("POST", "/containers/<container_id>/countersign"): RouteAccess(
        {Role.RENTER: Scope.OWN, Role.VALIDATOR: Scope.OWN}, needs_signature=True, is_audited=True
    ),
    ("PUT", "/containers/<container_id>/ssh-key"): RouteAccess(
        {Role.RENTER: Scope.OWN, Role.VALIDATOR: Scope.OWN, Role.OWNER: Scope.OWN}, is_costly=True, is_audited=True
    ),
    ("POST", "/containers/<container_id>/password"): RouteAccess(
        {Role.RENTER: Scope.OWN, Role.VALIDATOR: Scope.OWN, Role.OWNER: Scope.OWN}, is_costly=True, is_audited=True
    ),
    ("DELETE", "/terminate/<container_id>"): RouteAccess(_RENTERS, is_audited=True),
    ("GET", "/logs/<container_id>"): RouteAccess(
        {Role.RENTER: Scope.OWN, Role.VALIDATOR: Scope.OWN, Role.OWNER: Scope.OWN}
    ),
    ("POST", "/challenge/prepare"): RouteAccess({Role.VALIDATOR: Scope.OWN}, needs_signature=True),
    ("POST", "/challenge/start"): RouteAccess({Role.VALIDATOR: Scope.OWN}, needs_signature=True),
    ("POST", "/challenge/open"): RouteAccess({Role.VALIDATOR: Scope.OWN}, needs_signature=True),
    ("POST", "/challenge/verdict"): RouteAccess({Role.VALIDATOR: Scope.OWN}, needs_signature=True, is_audited=True),
    ("GET", "/status"): RouteAccess(is_public=True),
    ("GET", "/metrics"): RouteAccess({Role.OWNER: Scope.ANY, Role.VALIDATOR: Scope.ANY}),
}
