"""One finding of the doctor: what was measured, what is required, and for the rest of us the cause and the fix."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a prerequisite stands."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


class Role(StrEnum):
    """What the machine shall do; each role requires less than the one before."""

    MINER = "miner"
    VALIDATOR = "validator"
    RENTER = "renter"


@dataclass(frozen=True, slots=True)
class Check:
    """A prerequisite of this machine; `cause` and `fix` are empty when it is met."""

    name: str
    status: Status
    measured: str
    required: str
    cause: str = ""
    fix: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the fields as JSON strings."""
        return {key: str(value) for key, value in asdict(self).items()}


def met(name: str, measured: str, required: str) -> Check:
    """Return the finding that all is well."""
    return Check(name, Status.OK, measured, required)


def warning(name: str, measured: str, required: str, cause: str, fix: str) -> Check:
    """Return a finding that someone should look at, but that stops nothing."""
    return Check(name, Status.WARN, measured, required, cause, fix)


def failure(name: str, measured: str, required: str, cause: str, fix: str) -> Check:
    """Return a finding that the role cannot live with."""
    return Check(name, Status.FAIL, measured, required, cause, fix)
