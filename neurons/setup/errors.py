"""The one error of the set-up: something the operator must do, with the fix in the message."""

from __future__ import annotations


class SetupError(Exception):
    """A prerequisite cannot be built; the operator follows `fix` and runs the set-up again. Exit status 2."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}\nfix: {fix}")
        self.problem = problem
        self.fix = fix
