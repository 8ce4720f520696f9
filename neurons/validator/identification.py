"""What each device of an examined miner looks like, from the rates in its evidence bundle; shown, and worth nothing.

Rules:
- A rate is the one of the stamps. The lower bound of a proof of work, which scores, would make a card look smaller.
- A memory proof that holds gives two figures: bandwidth, and the memory that was filled. A card whose owner claims less memory than
  it has looks like a smaller one.
- A CPU is compared with its own claim and identified by nothing: there is no table of CPU models.
"""

from __future__ import annotations

from dataclasses import dataclass

from challenges.bands import expect
from challenges.draw import ChallengeKind
from challenges.hardware import PPM, GpuModel, HardwareTable
from challenges.identify import Figure, Identification, identify
from challenges.memory_fit import GPU_FILL_PPM
from challenges.proofs import read_params
from challenges.timing import duration_ns, judge_rate, rate_per_second
from polarise.answers import printable
from polarise.evidence import EvidenceBundle, ProofEvidence
from polarise.hardware import DeviceClaim
from polarise.registry import open_entry

NAME_CHARS = 60
CANDIDATES_SHOWN = 4
_FIGURES = {
    ChallengeKind.POW: Figure.POW,
    ChallengeKind.MATMUL: Figure.MATMUL,
    ChallengeKind.MEMORY: Figure.BANDWIDTH,
}


@dataclass(frozen=True, slots=True)
class DeviceLook:
    """One device as its rates show it.

    Attributes:
        device: UUID.
        name: The name it claims.
        lines: One sentence each, for people.
        identification: The cards that fit; None for a CPU, and where nothing was measured.
    """

    device: str
    name: str
    lines: tuple[str, ...]
    identification: Identification | None

    def to_wire(self) -> dict[str, object]:
        """Return it as JSON-ready values."""
        found = self.identification
        return {
            "device": self.device,
            "claimed": self.name,
            "figures": [figure.value for figure in found.figures] if found else [],
            "candidates": [candidate.name for candidate in found.candidates] if found else [],
            "is_claimed_among": found.is_claimed_among if found else None,
            "lines": list(self.lines),
        }


def looks_of(bundle: EvidenceBundle, table: HardwareTable) -> list[DeviceLook]:
    """Return how each claimed device looks.

    Raises:
        SignatureInvalid: The registry entry in the bundle is not the miner's.
        ValueError: It is no registry entry.
    """
    devices = open_entry(bundle.registry).hardware.devices
    return [_look(device, _proofs(bundle, index), table) for index, device in enumerate(devices)]


def _proofs(bundle: EvidenceBundle, index: int) -> dict[ChallengeKind, ProofEvidence]:
    """Return the proofs of one device that have a rate."""
    found = [proof for proof in bundle.proofs if proof.device_index == index and proof.measured_per_second]
    return {ChallengeKind(proof.kind): proof for proof in found}


def _look(device: DeviceClaim, proofs: dict[ChallengeKind, ProofEvidence], table: HardwareTable) -> DeviceLook:
    uuid, name = printable(device.uuid, 96), printable(device.name, NAME_CHARS)
    if device.kind == "cpu":
        line = "compared with its own claim: there is no table of CPU models to identify it by"
        return DeviceLook(uuid, name, (line,), None)
    model = table.find(device.name)
    lines = [line for kind, proof in proofs.items() if (line := _rate_line(kind, proof, model))]
    measured = {_FIGURES[kind]: rate for kind, proof in proofs.items() if (rate := _rate(kind, proof))}
    if Figure.BANDWIDTH in measured and (memory_bytes := _memory_bytes(proofs[ChallengeKind.MEMORY])):
        measured[Figure.MEMORY] = memory_bytes
    if not measured:
        return DeviceLook(uuid, name, ("nothing was measured to identify it by",), None)
    found = identify(measured, device.name, table)
    return DeviceLook(uuid, name, (_candidates_line(found), *lines), found)


def _rate(kind: ChallengeKind, proof: ProofEvidence) -> int:
    """Return the rate of the stamps; 0 where there are none, or the kind names no figure."""
    if kind not in _FIGURES or proof.last_byte_after_ns is None or proof.rtt_min_ns is None:
        return 0
    params = read_params(kind, proof.sizes.model_dump())
    return rate_per_second(params.operations, duration_ns(0, proof.last_byte_after_ns, proof.rtt_min_ns))


def _memory_bytes(proof: ProofEvidence) -> int:
    """Return the memory of a card that filled so much of it; 0 where the proof did not hold."""
    if proof.verdict.reason is not None:
        return 0
    params = read_params(ChallengeKind.MEMORY, proof.sizes.model_dump())
    return params.memory_bytes * PPM // GPU_FILL_PPM


def _candidates_line(found: Identification) -> str:
    by = " and ".join(figure.value for figure in found.figures)
    names = [candidate.name for candidate in found.candidates]
    shown = ", ".join(names[:CANDIDATES_SHOWN]) or "no card of the table"
    more = f" and {len(names) - CANDIDATES_SHOWN} more" if len(names) > CANDIDATES_SHOWN else ""
    if not found.is_claimed_known:
        return f"by {by} it looks like {shown}{more}; the table does not know the claimed card"
    among = "is among them" if found.is_claimed_among else "is NOT among them"
    return f"by {by} it looks like {shown}{more}; the claimed card {among}"


def _rate_line(kind: ChallengeKind, proof: ProofEvidence, model: GpuModel | None) -> str:
    """Compare the rate that scores with the table; empty where the table does not know the card."""
    claimed = proof.claimed_per_second
    expectation = expect(model, kind, claimed)
    verdict = judge_rate(proof.measured_per_second, claimed, expectation.peak, expectation.band)
    if verdict.of_expected_ppm is None:
        return ""
    share = f"{kind.value}: {verdict.of_expected_ppm / 1e6:.2f} of what the claimed card should do"
    return share if verdict.flag is None else f"{share}: {verdict.flag}, which costs nothing"
