"""Is this daemon alive, and can it do its work: /healthz and /readyz."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flask import Response, jsonify

from polarise.errors import SubnetError
from polarise.node_messages import HealthAnswer, ReadyAnswer


class Health:
    """Named checks; each raises a `SubnetError` when what it looks at is not well.

    Args:
        checks: Name -> check, for readiness.
    """

    def __init__(self, checks: Mapping[str, Callable[[], None]]) -> None:
        self._checks = checks

    def healthz(self) -> Response:
        """Answer 200: the process serves requests."""
        return jsonify(HealthAnswer().to_wire())

    def readyz(self) -> Response:
        """Answer 200 when every check passes, else 503 with the cause of each that does not."""
        causes = {name: cause for name, check in self._checks.items() if (cause := _cause(check))}
        response = jsonify(ReadyAnswer(status="failure" if causes else "success", causes=causes).to_wire())
        if causes:
            response.status_code = 503
            response.headers["Retry-After"] = "5"
        return response


def _cause(check: Callable[[], None]) -> str | None:
    try:
        check()
    except SubnetError as err:
        return str(err)
    return None
