"""Rights on the ledger's routes: everything is public, because a transaction is its own authentication.

Only the counters are for the owner; what they count says who runs how much.
"""

from __future__ import annotations

from neurons.base.access import Role, RouteAccess, Scope
from neurons.base.operation import COMMON_ACCESS

_PUBLIC = (
    ("POST", "/submit"),
    ("GET", "/get"),
    ("GET", "/list"),
    ("GET", "/prove"),
    ("GET", "/state"),
    ("GET", "/state/values"),
    ("GET", "/tx/<name>"),
    ("GET", "/checkpoint"),
    ("GET", "/consistency"),
    ("GET", "/frontier"),
    ("GET", "/blocks"),
    ("GET", "/leaves"),
    ("GET", "/subscribe"),
    ("GET", "/tile/<path:tile>"),
    ("GET", "/genesis"),
    ("GET", "/status"),
)

LEDGER_ACCESS: dict[tuple[str, str], RouteAccess] = {
    **COMMON_ACCESS,
    **{route: RouteAccess(is_public=True) for route in _PUBLIC},
    ("GET", "/metrics"): RouteAccess({Role.OWNER: Scope.ANY}),
}
