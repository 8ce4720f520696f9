"""Everything an audit needs, brought into one folder: the ledger over HTTP or from its file, the bundles by their uri.

Rules:
- A downloaded block is verified before it is written: signature, chain, and the root over its leaves. The newest block
  seen is kept, so that a ledger which forks between two downloads is caught by its own notes.
- A download goes on where the last one ended.
- A bundle is kept as it came; whether it is the one of its name is for the audit, which says so. A bundle that its
  validator does not have is left out; a validator that does not answer at all ends the download.
- A record's uri is a stranger's: private addresses are called only when the auditor allows it or names the URL.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ledger.stored import lines, notes, open_stored
from neurons.validator.audit.ledger_copy import LedgerCopy
from polarise.answers import raise_for_status
from polarise.block import block_of
from polarise.block_follower import FileMemory
from polarise.checkpoint import parse_checkpoint
from polarise.errors import AddressRefused, RequestRejected, Unavailable
from polarise.evidence import MAX_BUNDLE_BYTES, read_bundle
from polarise.genesis import Genesis
from polarise.http_client import HttpClient
from polarise.ledger_client import LedgerClient
from polarise.ledger_feed import follow
from polarise.notes import parse_note
from polarise.tls import Pin

MEMORY_FILE = "last-block"
EVIDENCE_FOLDER = "evidence"
BUNDLE_SECONDS = 60.0
PROGRESS_BLOCKS = 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """A bundle that the ledger names.

    Attributes:
        name: Its hash.
        uri: Where its validator says it can be fetched.
        validator_key: The validator.
    """

    name: str
    uri: str
    validator_key: str


def download_ledger(url: str, genesis: Genesis, copy: LedgerCopy, on_progress: Callable[[str], None]) -> None:
    """Bring a copy up to the ledger's newest block.

    Raises:
        Unavailable: The ledger is away.
        AnswerInvalid: What it sent does not hold.
        LogFork: It contradicts itself or what was downloaded before.
    """
    client = LedgerClient(url, genesis, memory=FileMemory(copy.folder / MEMORY_FILE))
    last = client.checkpoint().block.height
    first = copy.cut()
    if first > last:
        return
    with contextlib.closing(follow(client, first)) as blocks:
        for followed in blocks:
            copy.add(followed.leaves, followed.block.raw)
            height = followed.block.block.height
            if height % PROGRESS_BLOCKS == 0:
                on_progress(f"block {height} of {last}")
            if height >= last:
                return


def copy_file(path: Path, genesis: Genesis, copy: LedgerCopy) -> None:
    """Copy a ledger's file as it is at this moment over what there is; nothing in it is believed.

    Raises:
        ConfigError: There is no such file, or it is of another ledger.
        LogDamaged: It cannot be read.
    """
    copy.clear()
    with open_stored(path, genesis) as stored:
        leaves, taken = lines(stored), 0
        for note in notes(stored):
            size = block_of(parse_checkpoint(parse_note(note).text)).size
            covered = list(islice(leaves, max(size - taken, 0)))
            taken += len(covered)
            copy.add(covered, note)


class BundleDownload:
    """Fetches bundles into a folder.

    Args:
        folder: Where they go.
        base_url: Asked instead of each record's uri; named by the auditor, so any address may be called.
        allow_private: Whether a record's uri may lead to a private address.
    """

    def __init__(self, folder: Path, *, base_url: str | None = None, allow_private: bool = False) -> None:
        self._folder = folder
        self._base_url = base_url
        self._allow_private = allow_private or base_url is not None
        self._clients: dict[tuple[str, Pin], HttpClient] = {}

    def fetch(self, wanted: Iterable[Wanted], on_progress: Callable[[str], None]) -> int:
        """Fetch what is not there yet, and return how many bundles came.

        Raises:
            Unavailable: Somebody does not answer.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        count = 0
        for number, bundle in enumerate(wanted, 1):
            path = self._folder / f"{bundle.name}.json"
            if not _is_there(path, bundle.name) and (content := self._fetch(bundle)) is not None:
                temporary = path.with_suffix(f".{os.getpid()}.tmp")
                temporary.write_bytes(content)
                temporary.replace(path)
                count += 1
            if number % 100 == 0:
                on_progress(f"{number} bundles")
        return count

    def _fetch(self, bundle: Wanted) -> bytes | None:
        try:
            response = self._client(bundle).request(
                "GET", f"/evidence/{bundle.name}", timeout_seconds=BUNDLE_SECONDS, max_bytes=MAX_BUNDLE_BYTES
            )
        except AddressRefused as err:
            fix = "audit with --allow-private if you trust that address, or name one with --evidence-url"
            raise AddressRefused(f"{err.message}; {fix}") from err
        try:
            raise_for_status(response)
        except RequestRejected as err:
            if err.status == 404:
                return None
            raise Unavailable(f"{bundle.uri[:100]} refuses the bundle {bundle.name[:16]}: {err.message}") from err
        return response.body

    def _client(self, bundle: Wanted) -> HttpClient:
        # Whoever the auditor names may be any node: a bundle's name is its hash.
        url, pin = (bundle.uri, Pin(bundle.validator_key)) if self._base_url is None else (self._base_url, Pin())
        if (url, pin) not in self._clients:
            self._clients[url, pin] = HttpClient(url, allow_private=self._allow_private, pin=pin)
        return self._clients[url, pin]


def _is_there(path: Path, name: str) -> bool:
    """Whether a bundle was fetched before and is the one of its name."""
    with contextlib.suppress(OSError, RequestRejected, ValueError):
        return read_bundle(path).digest() == name
    return False
