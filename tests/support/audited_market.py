"""A small market whose chain can be audited, and rebuilt by somebody who holds every key and lies.

The honest chain is made by the real ledger, the real validator and a real proving miner on loopback. `rebuild` plays
its transactions into a ledger of their own at the same times; what is changed on the way is signed anew, so that a lie
is as well signed as the truth, and unchanged parts come out bit for bit the same.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from config.schema import Config
from ledger.embedded import EmbeddedLedger
from ledger.stored import lines, notes, open_stored
from neurons.base.service import Supervisor
from neurons.ledger.node import GENESIS_FILE, LEDGER_FILE
from neurons.validator.epoch import EpochService
from neurons.validator.node import ValidatorNode
from neurons.validator.prices import PriceList
from neurons.validator.weights import MinerWorth, weights_ppm, worth_ppb
from polarise.block import open_block
from polarise.canonical import canonical_bytes
from polarise.decode import decode_model
from polarise.epoch_record import STATEMENT_KIND, EpochRecord, EpochScores, ScorePage, WeighedLine, evidence_root
from polarise.evidence import EvidenceBundle, read_bundle, write_bundle
from polarise.genesis import Genesis, read_genesis
from polarise.registry import open_entry
from polarise.signing import Purpose, SignatureInvalid
from polarise.statement import SignedStatement, sign_statement
from polarise.transaction import SetValue, decode_transaction, sign_transaction
from tests.support.clock import ManualClock
from tests.support.proving_miner import MINER, VALIDATOR, entry_of, proving_miner
from tests.support.small_ledger import LEDGER, SmallLedger, small_ledger
from utils.clock import Clock

SIGNERS = {identity.public_key: identity for identity in (VALIDATOR, MINER)}


@dataclass(frozen=True)
class Write:
    """One transaction of a rebuilt market."""

    path: str
    value: object


# (path, value, the ledger so far) -> the value to write instead, or all that is written instead.
Change = Callable[[str, object, EmbeddedLedger], object | tuple[Write, ...]]
DROP: tuple[Write, ...] = ()


@dataclass(frozen=True)
class MarketFiles:
    """Everything an auditor gets."""

    folder: Path

    @property
    def genesis_file(self) -> Path:
        return self.folder / "ledger" / GENESIS_FILE

    @property
    def ledger_file(self) -> Path:
        return self.folder / "ledger" / LEDGER_FILE

    @property
    def evidence(self) -> Path:
        return self.folder / "validator" / "evidence"

    def genesis(self) -> Genesis:
        """Return the ledger's beginning."""
        return read_genesis(self.genesis_file)

    def leaves(self) -> list[bytes]:
        """Return all transactions."""
        with open_stored(self.ledger_file, self.genesis()) as stored:
            return list(lines(stored))

    def notes(self) -> list[bytes]:
        """Return all blocks."""
        with open_stored(self.ledger_file, self.genesis()) as stored:
            return list(notes(stored))

    def leaf_of(self, ending: str, number: int = 0) -> int:
        """Return the index of the nth transaction whose path ends so."""
        paths = [decode_transaction(line).body.op.path for line in self.leaves()]
        return [index for index, path in enumerate(paths) if path.endswith(ending) or ending in path][number]

    def epochs(self) -> list[int]:
        """Return the epochs that were recorded."""
        return [record.epoch for record in self.records()]

    def records(self) -> list[EpochRecord]:
        """Return the records in their order."""
        values = [decode_transaction(line).body.op for line in self.leaves()]
        return [record_of(op.value) for op in values if op.path.endswith("/record")]

    def bundles(self) -> list[EvidenceBundle]:
        """Return the bundles in the order of their epochs."""
        found = [read_bundle(path) for path in self.evidence.glob("*.json")]
        return sorted(found, key=lambda bundle: bundle.epoch)

    def arguments(self) -> list[str]:
        """Return how an auditor names these files."""
        return [
            *("--ledger-file", str(self.ledger_file), "--genesis", str(self.genesis_file)),
            *("--evidence", str(self.evidence)),
        ]


def make_market(folder: Path, *, epochs: int) -> MarketFiles:
    """Run a market of one miner and one validator for some epochs."""
    files = MarketFiles(folder)
    with small_ledger(folder) as ledger, proving_miner(folder) as miner:
        ledger.register(entry_of(miner.endpoint))
        with validator_loop(files, ledger) as loop:
            for _ in range(epochs):
                loop.run_epoch(threading.Event())
    return files


@contextlib.contextmanager
def validator_loop(files: MarketFiles, ledger: SmallLedger, clock: Clock | None = None) -> Iterator[EpochService]:
    """Run the validator with its API and its outbox; its loop is turned by hand."""
    config = Config.model_validate(
        {
            "ledger": ledger.settings(),
            "network": {"port": 0},
            "validator": {
                "allow_private_endpoints": True,
                "inspect": False,
                "proof_target_seconds": 1,
                "proof_every": 1,
            },
        }
    )
    node = ValidatorNode(config, files.folder / "validator", VALIDATOR, clock=clock)
    with node.data_dir, node._resources:
        services = node.build_services()
        (loop,) = (service for service in services if isinstance(service, EpochService))
        for service in services:
            service.prepare()
        supervisors = [Supervisor(service) for service in services if service is not loop]
        for supervisor in supervisors:
            supervisor.start()
        try:
            yield loop
        finally:
            for supervisor in reversed(supervisors):
                supervisor.stop(10)


def rebuild(honest: MarketFiles, folder: Path, change: Change, *, is_lawless: bool = False) -> MarketFiles:
    """Play a market's transactions into another ledger, changed on the way.

    Args:
        honest: The market.
        folder: Where the other one goes, with the same evidence.
        change: What becomes of each value.
        is_lawless: Whether the ledger takes what its rules forbid.
    """
    files = MarketFiles(folder)
    shutil.copytree(honest.evidence, files.evidence)
    files.ledger_file.parent.mkdir(parents=True)
    shutil.copy(honest.genesis_file, files.genesis_file)
    genesis, clock, leaves = honest.genesis(), ManualClock(), honest.leaves()
    nonces = dict.fromkeys(SIGNERS, 0)
    with EmbeddedLedger(files.ledger_file, genesis, LEDGER.subkey(Purpose.LOG).key, clock) as ledger:
        if is_lawless:
            ledger._state._rules.check = lambda *_args, **_named: None  # type: ignore[method-assign]
        taken = 0
        for note in honest.notes()[1:]:
            block = open_block(note, genesis.log).block
            clock.wall = block.time_unix_ms
            for line in leaves[taken : block.size]:
                body = decode_transaction(line).body
                found = change(body.op.path, body.op.value, ledger)
                for write in found if isinstance(found, tuple) else (Write(body.op.path, found),):
                    signed = sign_transaction(
                        SIGNERS[body.sender],
                        SetValue(path=write.path, value=write.value),
                        net=genesis.net,
                        nonce=nonces[body.sender],
                        time_unix_ms=body.time_unix_ms,
                    )
                    ledger.submit(signed.raw)
                    nonces[body.sender] += 1
            taken = block.size
            ledger.make_block()
    return files


def record_of(value: object) -> EpochRecord:
    """Open the record in a value of the ledger."""
    return SignedStatement.model_validate(value, strict=False).open(STATEMENT_KIND, EpochRecord)


def record_value(record: EpochRecord) -> object:
    """Sign a record as the validator."""
    return sign_statement(VALIDATOR, STATEMENT_KIND, record).to_wire()


def page_of(value: object) -> ScorePage:
    """Read the page of scores in a value of the ledger."""
    return decode_model(ScorePage, canonical_bytes(value))  # type: ignore[arg-type]  # JSON


class Lie:
    """Bundles in the place of others, with everything on the ledger made to fit.

    Only bundles of the newest epoch: whatever is changed before a beacon changes the beacon.

    Args:
        bundles: Name of the honest bundle -> the false one.
        line: What the lines of these bundles say instead of the bundles' own.
    """

    def __init__(self, bundles: dict[str, EvidenceBundle], **line: object) -> None:
        self._bundles = bundles
        self._said = line
        self._scores: EpochScores | None = None

    def __call__(self, path: str, value: object, _ledger: EmbeddedLedger) -> object:
        """See `Change`."""
        if path.startswith("/scores/"):
            page = page_of(value)
            page = page.model_copy(update={"lines": self._weighed([self._line(line) for line in page.lines])})
            self._scores = EpochScores.of_pages([page])
            return page.to_wire()
        if path.endswith("/record") and self._scores is not None:
            root = evidence_root([line.evidence for line in self._scores.lines])
            update = {"scores_root": self._scores.root(), "challenge_root": root}
            return record_value(record_of(value).model_copy(update=update))
        return value

    def write(self, files: MarketFiles) -> None:
        """Put the false bundles beside the honest ones."""
        for bundle in self._bundles.values():
            write_bundle(files.evidence, bundle)

    def _line(self, line: WeighedLine) -> WeighedLine:
        if (false := self._bundles.get(line.evidence)) is None:
            return line
        score = false.score
        with contextlib.suppress(SignatureInvalid):
            line = line.model_copy(
                update={"worth_ppb": worth_ppb(PriceList.load(), open_entry(false.registry).hardware, score)}
            )
        update = {
            "evidence": false.digest(),
            "score_ppm": score.score_ppm,
            "raw_ppm": score.raw_ppm,
            "reasons": score.reasons,
            **self._said,
        }
        return line.model_copy(update=update)

    def _weighed(self, lines: list[WeighedLine]) -> tuple[WeighedLine, ...]:
        if "weight_ppm" in self._said:
            return tuple(lines)
        weights = weights_ppm([MinerWorth(line.miner_key, line.score_ppm, line.worth_ppb) for line in lines])
        return tuple(line.model_copy(update={"weight_ppm": weights[line.miner_key]}) for line in lines)
