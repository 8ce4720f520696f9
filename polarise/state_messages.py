"""Answers of the ledger about the state of a block: values as the exact texts that were hashed, each with its way.

Nothing in them is believed; `polarise.ledger_state` checks them against a block that was verified.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from polarise.decode import WireModel
from polarise.state_proof import KEY_BITS, Other, Step, Way
from polarise.transaction import HASH_PATTERN, PATH_DEPTH_MAX

HexHash = Annotated[str, Field(pattern=HASH_PATTERN)]


class StateStep(WireModel):
    """One node on the way from the state root down; see `polarise.state_proof.Step`."""

    value: HexHash | None
    siblings: tuple[HexHash, ...] = Field(max_length=KEY_BITS)


class StateOther(WireModel):
    """Who stands where a path would go on; see `polarise.state_proof.Other`."""

    key: HexHash
    node: HexHash


class StateWay(WireModel):
    """The way from the state root to a path; see `polarise.state_proof.Way`."""

    steps: tuple[StateStep, ...] = Field(min_length=1, max_length=PATH_DEPTH_MAX)
    other: StateOther | None

    @classmethod
    def of(cls, way: Way) -> StateWay:
        """Return the way as it goes over the wire."""
        other = None if way.other is None else StateOther(key=way.other.key.hex(), node=way.other.node.hex())
        steps = tuple(
            StateStep(
                value=None if step.value is None else step.value.hex(),
                siblings=tuple(sibling.hex() for sibling in step.siblings),
            )
            for step in way.steps
        )
        return cls(steps=steps, other=other)

    def way(self) -> Way:
        """Return the way as it is checked."""
        other = None if self.other is None else Other(bytes.fromhex(self.other.key), bytes.fromhex(self.other.node))
        steps = tuple(
            Step(
                None if step.value is None else bytes.fromhex(step.value),
                tuple(bytes.fromhex(sibling) for sibling in step.siblings),
            )
            for step in self.steps
        )
        return Way(steps, other)


class StateAnswer(WireModel):
    """200 of GET /state: what stands on a path in the state of one block, with its proof.

    Attributes:
        status: Always ``success``.
        note: The block.
        path: Which path.
        value: Exact text of the value; None when there is none.
        children: Root over the children of the path's node; None when there is no such node.
        way: From the block's state root to the path.
    """

    status: Literal["success"] = "success"
    note: str
    path: str
    value: str | None
    children: HexHash | None
    way: StateWay


class StateValue(WireModel):
    """One value of a subtree: its whole path and its exact text."""

    path: str
    value: str


class SubtreeAnswer(WireModel):
    """200 of GET /state/values: a page of all values on a path and below it, in order of their paths.

    Attributes:
        status: Always ``success``.
        note: The block in whose state they stand.
        path: Where the subtree begins.
        values: The page.
        next: Give it as ``after`` for what follows, with the block's height; None at the end.
        way: From the block's state root to the path; the same on every page.
    """

    status: Literal["success"] = "success"
    note: str
    path: str
    values: tuple[StateValue, ...]
    next: str | None
    way: StateWay
