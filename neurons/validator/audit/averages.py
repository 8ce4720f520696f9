"""The usual rates of GPU models, learned anew from the bundles, and held against those each proof was compared with.

Rules:
- An epoch's proofs are compared with the state before it; only a complete epoch of which every bundle is there teaches.
- The samples are taken in the order of the evidence: by miner key, then as the proofs stand in the bundle.
- Where the beginning is not known, or a bundle was missing, the state is the validator's word from there on. Flags that
  follow from it cost nobody anything.
"""

from __future__ import annotations

from challenges.averages import advance, band_of, sample_of
from challenges.bands import Expectation, expect
from challenges.draw import ChallengeKind
from challenges.hardware import HardwareTable
from challenges.timing import judge_rate
from neurons.validator.audit.report import Place, Report
from polarise.errors import RejectReason
from polarise.evidence import EvidenceBundle, ProofEvidence
from polarise.hardware import DeviceClaim
from polarise.rate_average import RateAverage, RateSample
from polarise.registry import RegistryEntry, open_entry

JUDGED = frozenset({None, RejectReason.CLAIM_NOT_MET, RejectReason.TOO_FAST})
WORD = "usual rate of a GPU model: learned before this audit begins"


class AverageAuditor:
    """Learns from one validator's bundles, epoch by epoch.

    Args:
        report: Where findings go.
        knows_all: Whether the next epoch is the validator's first.
    """

    def __init__(self, report: Report, *, knows_all: bool) -> None:
        self._report = report
        self._hardware = HardwareTable.load()
        self._averages: dict[tuple[str, str], RateAverage] = {}
        self._samples: list[RateSample] = []
        self._knows_all = knows_all

    def add(self, bundle: EvidenceBundle, place: Place) -> None:
        """Compare what one bundle's proofs were compared with, and note what they teach.

        Raises:
            FirstFailure: As `Report.fail`.
            ValueError: The bundle's registry entry is none.
        """
        entry = open_entry(bundle.registry)
        for proof in bundle.proofs:
            if proof.commitment is not None and proof.verdict.reason in JUDGED:
                self._take(entry, proof, place)

    def finish(self, *, is_whole: bool) -> None:
        """Move on to the next epoch.

        Args:
            is_whole: Whether the epoch is complete and every bundle of it was read.
        """
        samples, self._samples = self._samples, []
        if is_whole:
            self._averages = {
                (average.model, average.kind): average for average in advance(tuple(self._averages.values()), samples)
            }

    def forget(self) -> None:
        """Take the rest on the validator's word: something that taught was not seen."""
        self._knows_all = False

    def _take(self, entry: RegistryEntry, proof: ProofEvidence, place: Place) -> None:
        expectation = self._expectation(entry.hardware.devices[proof.device_index], proof)
        if self._knows_all:
            known = self._averages.get((expectation.model or "", proof.kind))
            self._report.compare(place.at(f"{proof.kind} proof of {proof.device[:40]}: average"), proof.average, known)
        elif expectation.model is not None:
            self._report.word(WORD)
        band = band_of(expectation, proof.average)
        rate = judge_rate(proof.measured_per_second, proof.claimed_per_second, expectation.peak, band)
        sample = sample_of(expectation, entry.owner_key, rate)
        if sample is not None:
            self._samples.append(sample)

    def _expectation(self, device: DeviceClaim, proof: ProofEvidence) -> Expectation:
        model = self._hardware.find(device.name) if device.kind == "gpu" else None
        return expect(model, ChallengeKind(proof.kind), proof.claimed_per_second)
