"""The round of an epoch: what its bundles say of it together, which no bundle can show alone.

Rules:
- All miners of an epoch are drawn by the same intervals, and all that are proven are proven in the same round.
- In a complete epoch the round's figures are those of the bundles. A round that stands at the first attempt had at most a
  fifth of the devices that count missing; one that was run again had more. The figures of a first attempt that does not count are
  the validator's word, as far as the number of its devices, which the second one shows.
"""

from __future__ import annotations

from neurons.validator.audit.report import Place, Report
from neurons.validator.missing import Tally, counting, tally
from polarise.evidence import EvidenceBundle, ProofEvidence, RoundEvidence


class RoundAuditor:
    """Collects what the bundles of one epoch say of its round.

    Args:
        place: The epoch.
        report: Where findings go.
    """

    def __init__(self, place: Place, report: Report) -> None:
        self._place = place
        self._report = report
        self._round: RoundEvidence | None = None
        self._intervals: tuple[int, int] | None = None
        self._proven: list[tuple[ProofEvidence, ...]] = []
        self._is_drawn: bool | None = None

    def add(self, bundle: EvidenceBundle, place: Place) -> None:
        """Compare one bundle with those before.

        Raises:
            FirstFailure: As `Report.fail`.
        """
        if bundle.version == 1:
            return
        draw, round_ = bundle.draw, bundle.round
        is_drawn = self._is_drawn
        self._is_drawn = draw is not None
        if is_drawn is not None:
            self._report.compare(place.at("draw"), self._is_drawn, is_drawn)
        if draw is not None:
            intervals = (draw.proof_every, draw.inspect_every)
            self._intervals = self._intervals or intervals
            self._report.compare(place.at("draw.proof_every"), intervals, self._intervals)
        if round_ is not None:
            self._round = self._round or round_
            self._report.compare(place.at("round"), round_, self._round)
            is_by_2 = bundle.version == 2
            self._proven.append(bundle.proofs if is_by_2 else counting(bundle.proofs, bundle.previous))

    def finish(self, *, is_whole: bool) -> None:
        """Compare the round's figures with what all bundles show.

        Args:
            is_whole: Whether the epoch is complete and every bundle of it was read.

        Raises:
            FirstFailure: As `Report.fail`.
        """
        round_, place = self._round, self._place
        if round_ is None:
            return
        said = Tally(round_.devices_count, round_.missing_count)
        is_again = round_.attempt == 1
        share = f"{said.missing_count} of {said.devices_count} devices missing"
        message = f"{share}: was run again without need" if is_again else f"{share}: had to be run again"
        self._report.check(place.at("round.attempt"), said.is_suspect is is_again, message)
        if not is_whole:
            self._report.word("figures of a round without a bundle for everybody")
            return
        shown = tally(self._proven)
        self._report.compare(place.at("round.devices_count"), said.devices_count, shown.devices_count)
        if is_again:
            self._report.word("figures of a first attempt that does not count")
        else:
            self._report.compare(place.at("round.missing_count"), said.missing_count, shown.missing_count)
