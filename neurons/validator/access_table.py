"""Rights on the validator's routes: what auditors need is public, as it stands on the ledger by hash anyway.

The counters are the owner's. A test walks every cell.
"""

from __future__ import annotations

from neurons.base.access import Role, RouteAccess, Scope
from neurons.base.operation import COMMON_ACCESS

_PUBLIC = (
    ("GET", "/"),
    ("GET", "/scores"),
    ("GET", "/miners"),
    ("GET", "/epochs"),
    ("GET", "/evidence/<name>"),
    ("POST", "/witness/add-checkpoint"),
    ("GET", "/witness"),
    ("GET", "/witness/<name>"),
    ("GET", "/status"),
)

VALIDATOR_ACCESS: dict[tuple[str, str], RouteAccess] = {
    **COMMON_ACCESS,
    **{route: RouteAccess(is_public=True) for route in _PUBLIC},
    ("GET", "/metrics"): RouteAccess({Role.OWNER: Scope.ANY}),
}
