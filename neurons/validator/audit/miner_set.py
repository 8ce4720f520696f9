"""Who was examined, and whether that is who stood in the registry when the epoch began.

Rules:
- In a complete epoch the miner set root follows from the entries in its bundles, in order of the miners' keys.
- Where more are registered than have a place, the set is that of `neurons.validator.places`, by the newest complete epoch.
- Everybody in the set stood in the registry at some moment of the window; everybody who stood there all through it is
  in the set. So a miner cannot be left out, and cannot be examined by an entry it had withdrawn.
- The window ends with the commitment, which was made after the registry was read. It begins with what the ledger showed
  a minute before the validator's own starting time: as far as a clock may be ahead for the ledger to take its
  transactions. A validator reads the newest final state, so an entry shows once it is final.
"""

from __future__ import annotations

from neurons.validator.audit.epochs import Epoch
from neurons.validator.audit.history import History
from neurons.validator.audit.reading import Window, window_of
from neurons.validator.audit.report import Place, Report
from neurons.validator.places import MINERS_MAX, Standing, places, standing_of
from polarise import merkle
from polarise.epoch_record import EpochCommit
from polarise.evidence import WINDOWS_SINCE_RULES


class MinerSetAuditor:
    """Checks the miner set of one epoch after the other.

    Args:
        history: Registry and blocks.
        report: Where findings go.
        knows_beginning: Whether the first epoch it sees is the validator's first.
    """

    def __init__(self, history: History, report: Report, *, knows_beginning: bool = True) -> None:
        self._history = history
        self._report = report
        self._knows_beginning = knows_beginning
        self._validator: str | None = None
        # What the newest complete epoch said; None where it lies before this audit.
        self._standing: dict[str, Standing] | None = None
        self.count = 0

    def check(self, epoch: Epoch, entries: dict[str, str] | None) -> None:
        """Check one epoch.

        Args:
            epoch: As the ledger has it.
            entries: Miner -> digest of its entry, from the bundles; None where they are not all there.
        """
        self._follow(epoch)
        commit = epoch.commit
        if commit is not None and epoch.leaves.commit is not None:
            self._check(epoch, commit, epoch.leaves.commit, entries)
        if (
            epoch.record is not None
            and epoch.record.status == "complete"
            and epoch.scores is not None
            and _is_by_lot(epoch)
        ):
            self._standing = standing_of(epoch.scores.lines)

    def _follow(self, epoch: Epoch) -> None:
        if epoch.validator != self._validator:
            self._validator = epoch.validator
            self._standing = {} if self._knows_beginning else None
        if epoch.record is not None and epoch.record.prev is None:
            self._standing = {}

    def _check(self, epoch: Epoch, commit: EpochCommit, leaf: int, entries: dict[str, str] | None) -> None:
        window = window_of(self._history.blocks, commit, leaf)
        for miner, digest in (entries or {}).items():
            standing = self._history.registry.standing(miner, window.first, window.last)
            place = self._miner_place(epoch, miner)
            self._report.check(place, digest in standing, "was not in the registry when the epoch began")
        if entries is not None and len(entries) == commit.miners_count:
            root = _root(entries)
            message = f"the entries of the bundles give {root}, committed was {commit.miner_set_root}"
            if self._report.check(epoch.place.at("miner_set_root"), root == commit.miner_set_root, message):
                self._check_nobody_left_out(epoch, entries, window)
                self.count += 1
        elif any(_root(state) == commit.miner_set_root for state in self._states(epoch, window)):
            self.count += 1
        else:
            self._report.word("miner set of an epoch without a bundle for everybody: only its root is known")

    def _check_nobody_left_out(self, epoch: Epoch, entries: dict[str, str], window: Window) -> None:
        is_full = len(entries) >= MINERS_MAX
        if is_full and _is_by_lot(epoch):
            self._check_places(epoch, entries, window)
            return
        for node in self._history.registry.nodes:
            is_beyond = is_full and node > max(entries)
            if node not in entries and not is_beyond:
                may_lack = None in self._history.registry.standing(node, window.first, window.last)
                self._report.check(
                    self._miner_place(epoch, node), may_lack, "stood in the registry all the time and was left out"
                )

    def _check_places(self, epoch: Epoch, entries: dict[str, str], window: Window) -> None:
        if self._standing is None:
            self._report.word("places of a full miner set: who kept one lies before this audit")
            return
        holds = any(set(state) == set(entries) for state in self._states(epoch, window))
        message = f"the {MINERS_MAX} places are not those that follow from the scores before and the epoch's lots"
        self._report.check(epoch.place.at("registry"), holds, message)

    def _states(self, epoch: Epoch, window: Window) -> list[dict[str, str]]:
        states = self._history.registry.states(window.first, window.last)
        if not _is_by_lot(epoch):
            return [dict(sorted(state.items())[:MINERS_MAX]) for state in states]
        standing = self._standing or {}
        return [{node: state[node] for node in places(state, standing, epoch.number)} for state in states]

    def _miner_place(self, epoch: Epoch, miner: str) -> Place:
        return Place(validator=epoch.validator, epoch=epoch.number, miner=miner, field="registry")


def _is_by_lot(epoch: Epoch) -> bool:
    """Whether the places of an epoch are those of `places`; by older rules they went by key."""
    return epoch.record is not None and epoch.record.rules_version >= WINDOWS_SINCE_RULES


def _root(entries: dict[str, str]) -> str:
    return merkle.root([bytes.fromhex(digest) for _, digest in sorted(entries.items())]).hex()
