"""The ledger's routes: read the query, ask the ledger, encode. Every answer has a bound.

Signed things travel as they were signed: blocks and checkpoints as notes, leaves as exact bytes, proofs as tlog-proof.
"""

from __future__ import annotations

import json

from flask import Response, jsonify, request

import polarise
from ledger.embedded import EmbeddedLedger
from ledger.state import Stored
from ledger.views import LIST_MAX, Concern
from neurons.base.access import Caller
from neurons.base.health import Health
from neurons.base.http_app import HttpApp, caller_address
from neurons.base.metrics import MetricsTracker
from neurons.base.rate_limits import RateLimits
from neurons.ledger.feed import BlockFeed
from neurons.ledger.query import PLACE_MAX, invalid, not_found, query_hash, query_number, query_text
from polarise.decode import WireModel
from polarise.errors import RequestRejected
from polarise.ledger_messages import (
    LEAVES_MAX,
    BlocksAnswer,
    BlockView,
    Child,
    ConsistencyAnswer,
    Entry,
    FrontierAnswer,
    GetAnswer,
    LeavesAnswer,
    LedgerStatus,
    ListAnswer,
    SubmitAnswer,
    TransactionAnswer,
)
from polarise.merkle import leaf_hash
from polarise.transaction import check_path
from tlog.tiles import parse_tile, read_tile

TEXT = "text/plain; charset=utf-8"
# A page of /list or /leaves ends before its entries pass this; one entry alone may be larger, 64 KiB at most.
PAGE_BYTES_MAX = 512 * 1024


class LedgerRoutes:
    """All routes of one ledger.

    Args:
        node_key: Public key of the node that runs it.
        ledger: The ledger.
        health: Readiness checks.
        metrics: Counters.
        limits: Counts nodes that write for the first time, per address.
    """

    def __init__(
        self, node_key: str, ledger: EmbeddedLedger, health: Health, metrics: MetricsTracker, limits: RateLimits
    ) -> None:
        self._node_key = node_key
        self._ledger = ledger
        self._health = health
        self._metrics = metrics
        self._limits = limits

    def register(self, app: HttpApp) -> None:
        """Add every route to the application."""
        self._app = app
        app.route("POST", "/submit", self.submit)
        app.route("GET", "/get", self.get)
        app.route("GET", "/list", self.children)
        app.route("GET", "/prove", self.prove)
        app.route("GET", "/tx/<name>", self.transaction)
        app.route("GET", "/checkpoint", self.checkpoint)
        app.route("GET", "/consistency", self.consistency)
        app.route("GET", "/frontier", self.frontier)
        app.route("GET", "/blocks", self.blocks)
        app.route("GET", "/leaves", self.leaves)
        app.route("GET", "/subscribe", self.subscribe)
        app.route("GET", "/tile/<path:tile>", self.tile)
        app.route("GET", "/genesis", lambda _caller, _body: jsonify(self._ledger.genesis.to_wire()))
        app.route("GET", "/status", self.status)
        app.route("GET", "/healthz", lambda _caller, _body: self._health.healthz())
        app.route("GET", "/readyz", lambda _caller, _body: self._health.readyz())
        app.route("GET", "/metrics", lambda _caller, _body: Response(self._metrics.render(), mimetype="text/plain"))

    def submit(self, _caller: Caller | None, body: bytes) -> WireModel:
        """Take a signed transaction; the body is its exact bytes."""
        try:
            taken = self._ledger.submit(body, lambda: self._limits.newcomer(caller_address()))
        except RequestRejected as err:
            self._metrics.count("polarise_ledger_transactions_refused_total", code=str(err.code))
            raise
        self._metrics.count("polarise_ledger_transactions_total")
        return SubmitAnswer(hash=taken.hash, index=taken.index, height=taken.depth.height)

    def get(self, _caller: Caller | None, _body: bytes) -> WireModel:
        """Return the value on a path."""
        path = check_path(query_text("path"))
        stored = self._ledger.views.get(path, _concern())
        if stored is None:
            raise not_found(f"nothing stands on {path} with this concern")
        return GetAnswer(entry=self._entry(stored))

    def children(self, _caller: Caller | None, _body: bytes) -> WireModel:
        """Return a page of the names below a path."""
        path = check_path(query_text("path"))
        limit = query_number("limit", LIST_MAX, 1, LIST_MAX)
        found = self._ledger.views.children(path, _concern(), after=request.args.get("after", "")[:80], limit=limit)
        children: list[Child] = []
        size = 0
        for name, stored in found:
            size += len(stored.value or b"") + 400 if stored else 100
            if children and size > PAGE_BYTES_MAX:
                break
            children.append(Child(name=name, entry=None if stored is None else self._entry(stored)))
        is_more = len(children) < len(found) or len(found) == limit
        return ListAnswer(children=tuple(children), next=children[-1].name if children and is_more else None)

    def prove(self, _caller: Caller | None, _body: bytes) -> Response:
        """Prove a transaction, or the one that wrote what stands on a path, under the newest block."""
        if "path" in request.args:
            stored = self._ledger.views.get(check_path(query_text("path")), Concern.BLOCK)
            index = None if stored is None or stored.leaf < 0 else stored.leaf
        else:
            index = self._ledger.views.leaf_of(query_hash(query_text("hash")))
        if index is None:
            raise not_found("there is no such transaction on this ledger")
        return Response(self._ledger.prove(index).encode(), content_type=TEXT)

    def transaction(self, _caller: Caller | None, _body: bytes, name: str) -> WireModel:
        """Say how far a transaction has come."""
        index = self._ledger.views.leaf_of(query_hash(name))
        if index is None:
            raise not_found("this ledger has not taken such a transaction")
        depth = self._ledger.views.depth(index)
        final = self._ledger.genesis.final_confirmations
        return TransactionAnswer(
            state="pending" if depth.height is None else "final" if depth.confirmations >= final else "included",
            hash=name,
            index=index,
            height=depth.height,
            confirmations=depth.confirmations,
            transaction=self._ledger.leaf(index).decode(),
        )

    def checkpoint(self, _caller: Caller | None, _body: bytes) -> Response:
        """Return the newest block."""
        response = Response(self._ledger.last_block.raw, content_type=TEXT)
        response.headers["Cache-Control"] = "no-store"
        return response

    def consistency(self, _caller: Caller | None, _body: bytes) -> WireModel:
        """Prove that the first leaves of the log are still the ones they were."""
        new = query_number("new", self._ledger.last_block.block.size, 0, self._ledger.log.size)
        old = query_number("old", None, 0, new)
        hashes = tuple(value.hex() for value in self._ledger.log.consistency(old, new))
        return ConsistencyAnswer(old=old, new=new, hashes=hashes)

    def frontier(self, _caller: Caller | None, _body: bytes) -> WireModel:
        """Return the right edge of the tree of some first leaves."""
        size = query_number("size", self._ledger.last_block.block.size, 0, self._ledger.log.size)
        return FrontierAnswer(size=size, hashes=tuple(node.hex() for node in self._ledger.log.frontier(size).nodes))

    def blocks(self, _caller: Caller | None, _body: bytes) -> WireModel:
        """Return a page of blocks."""
        first = query_number("from", 0, 0, PLACE_MAX)
        notes = self._ledger.blocks(first, query_number("limit", LIST_MAX, 1, LIST_MAX))
        return BlocksAnswer(
            blocks=tuple(BlockView(height=height, note=note.decode()) for height, note in enumerate(notes, first))
        )

    def leaves(self, _caller: Caller | None, _body: bytes) -> WireModel:
        """Return a page of leaves."""
        first = query_number("from", 0, 0, PLACE_MAX)
        lines = self._ledger.log.read(first, first + query_number("limit", LEAVES_MAX, 1, LEAVES_MAX))
        page: list[str] = []
        size = 0
        for line in lines:
            size += len(line)
            if page and size > PAGE_BYTES_MAX:
                break
            page.append(line.decode())
        return LeavesAnswer(first=first, leaves=tuple(page))

    def subscribe(self, _caller: Caller | None, _body: bytes) -> Response:
        """Stream blocks and their leaves; without ``from`` starting with the next block."""
        following = self._ledger.last_block.block.height + 1
        first = query_number("from", following, 0, following)
        return self._app.stream(lambda gone: BlockFeed(self._ledger, first, gone), "text/event-stream")

    def tile(self, _caller: Caller | None, _body: bytes, tile: str) -> Response:
        """Serve one file of c2sp.org/tlog-tiles."""
        named = parse_tile(tile)
        content = None if named is None else read_tile(self._ledger.log, named)
        if content is None:
            raise not_found(f"there is no tile {tile[:80]}")
        response = Response(content, content_type="application/octet-stream")
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response

    def status(self, _caller: Caller | None, _body: bytes) -> WireModel:
        """Say who this is and how far the ledger has come."""
        block = self._ledger.last_block.block
        return LedgerStatus(
            version=polarise.__version__,
            node_key=self._node_key,
            net=self._ledger.genesis.net,
            log=self._ledger.genesis.log.vkey,
            height=block.height,
            size=block.size,
            time_unix_ms=block.time_unix_ms,
        )

    def _entry(self, stored: Stored) -> Entry:
        is_genesis = stored.leaf < 0
        depth = self._ledger.views.depth(stored.leaf)
        return Entry(
            path=stored.path,
            value=json.loads(stored.value or b"null"),
            hash=None if is_genesis else leaf_hash(self._ledger.leaf(stored.leaf)).hex(),
            index=None if is_genesis else stored.leaf,
            height=depth.height,
            confirmations=depth.confirmations,
        )


def _concern() -> Concern | None:
    text = request.args.get("concern")
    if text is None:
        return None
    if text not in Concern.__members__.values():
        raise invalid("concern", f"no concern {text[:40]!r}", f"one of {', '.join(Concern)}")
    return Concern(text)
