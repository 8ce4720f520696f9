"""The routes that prove what stands on a path, against the state root of one of the newest blocks.

Rules:
- Values travel as the exact texts that were hashed.
- A page of a subtree is bounded in bytes and in paths looked at, and all pages are of one block, which the reader names
  from the second page on.
"""

from __future__ import annotations

from flask import request

from ledger import path_tree
from ledger.embedded import EmbeddedLedger
from ledger.kept_states import KeptState
from neurons.base.access import Caller
from neurons.base.http_app import HttpApp
from neurons.ledger.query import not_found, query_number, query_text
from polarise.decode import WireModel
from polarise.state_messages import StateAnswer, StateValue, StateWay, SubtreeAnswer
from polarise.transaction import check_path

# A page ends before its values pass this; JSON makes at most three times as much of them, and an answer has 1 MiB.
PAGE_BYTES_MAX = 256 * 1024
# Looked at in one query, so that values of 64 KiB do not pile up in memory.
PATHS_AT_ONCE = 64
# A page ends after so many paths, also when nothing stands on them any more.
PATHS_MAX = 1024


class StateRoutes:
    """Both routes of one ledger.

    Args:
        ledger: The ledger.
    """

    def __init__(self, ledger: EmbeddedLedger) -> None:
        self._ledger = ledger

    def register(self, app: HttpApp) -> None:
        """Add the routes to the application."""
        app.route("GET", "/state", self.value)
        app.route("GET", "/state/values", self.subtree)

    def value(self, _caller: Caller | None, _body: bytes) -> WireModel:
        """Prove what stands on a path, or that nothing does."""
        path = check_path(query_text("path"))
        state = self._state()
        way, node = path_tree.find(state.tree, path)
        has_value = node is not None and node.value is not None
        value = self._ledger.views.value_at(path, state.block.block.size) if has_value else None
        return StateAnswer(
            note=state.block.raw.decode(),
            path=path,
            value=None if value is None else value.decode(),
            children=None if node is None else node.children_root.hex(),
            way=StateWay.of(way),
        )

    def subtree(self, _caller: Caller | None, _body: bytes) -> WireModel:
        """Return a page of all values on a path and below it, with the way to the path."""
        path = check_path(query_text("path"))
        after = request.args.get("after", "")
        state = self._state()
        way, node = path_tree.find(state.tree, path)
        values, following = ((), None) if node is None else self._page(path, after, state)
        return SubtreeAnswer(
            note=state.block.raw.decode(), path=path, values=values, next=following, way=StateWay.of(way)
        )

    def _page(self, path: str, after: str, state: KeptState) -> tuple[tuple[StateValue, ...], str | None]:
        """Return the values after a path, and where the next page goes on; None at the end."""
        views, leaves = self._ledger.views, state.block.block.size
        found = [] if after else [(path, views.value_at(path, leaves))]
        page: list[StateValue] = []
        size, looked = 0, 0
        while True:
            for place, value in found:
                if value is not None:
                    size += len(value) + len(place) + 40
                    if page and size > PAGE_BYTES_MAX:
                        return tuple(page), after
                    page.append(StateValue(path=place, value=value.decode()))
                after = place
            looked += len(found)
            if looked >= PATHS_MAX:
                return tuple(page), after
            found = views.values_below(path, leaves, after=after, limit=PATHS_AT_ONCE)
            if not found:
                return tuple(page), None

    def _state(self) -> KeptState:
        newest = self._ledger.last_block.block.height
        height = query_number("height", newest, 0, newest)
        state = self._ledger.states.at(height)
        if state is None:
            kept = self._ledger.states.count_max
            raise not_found(
                f"the state of block {height} is not kept any more",
                hint=f"the states of the newest {kept} blocks are; begin with the newest one",
            )
        return state
