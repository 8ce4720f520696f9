"""What `validator explain` says of each device: which card it looks like, and what a CPU is compared with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from challenges.bands import expect
from challenges.draw import ChallengeKind
from challenges.hardware import GpuModel, HardwareTable
from challenges.identify import Figure
from challenges.memory_fit import fit_gpu_memory_params
from challenges.proofs import sizes_of
from challenges.timing import fit_params, fit_pow_params, pow_rate_lower_bound, rate_per_second
from neurons.cli import main
from neurons.validator.identification import DeviceLook, looks_of
from neurons.validator.metrics import FILE_NAME, MetricsHandler
from polarise.errors import RejectReason
from polarise.evidence import EvidenceBundle, ProofEvidence
from polarise.hardware import DeviceClaim
from polarise.messages import MatmulSizes, MemorySizes, PowSizes, ProofKind
from tests.support.evidence import proof
from tests.support.proving_miner import CPU, MINER, entry_of
from tests.support.scores import begin, bundle_of, keep

TABLE = HardwareTable.load()
SECOND = 1_000_000_000
KINDS: tuple[ProofKind, ...] = ("pow", "matmul")


def gpu(name: str, model: GpuModel) -> DeviceClaim:
    """A device that claims this name and half of this model's rates."""
    return DeviceClaim(
        uuid=f"GPU-{name}",
        kind="gpu",
        name=name,
        memory_bytes=model.memory_bytes,
        matmul_ops_per_second=model.matmul_rate_expected // 2,
        pow_hashes_per_second=model.pow_rate_expected // 2,
    )


def proven(device: DeviceClaim, index: int, model: GpuModel, pace_percent: int = 100) -> list[ProofEvidence]:
    """Both proofs of a device as this model does them, at this share of what it should do."""
    found = []
    for kind in KINDS:
        rate = expect(model, ChallengeKind(kind), 1).rate * pace_percent // 100
        claimed = device.pow_hashes_per_second if kind == "pow" else device.matmul_ops_per_second
        if kind == "pow":
            shares = fit_pow_params(claimed, 10)
            sizes: PowSizes | MatmulSizes = PowSizes.model_validate(sizes_of(shares))
            time_ns = shares.operations * SECOND // rate
            measured = pow_rate_lower_bound(shares, time_ns)
        else:
            rounds = fit_params(claimed, 10)
            sizes = MatmulSizes.model_validate(sizes_of(rounds))
            time_ns = rounds.operations * SECOND // rate
            measured = rate_per_second(rounds.operations, time_ns)
        made = proof(device=device.uuid, kind=kind, claimed=claimed, measured=measured)
        stamps = {"sizes": sizes, "device_index": index, "rtt_min_ns": 0, "last_byte_after_ns": time_ns}
        found.append(made.model_copy(update=stamps))
    return found


def bundle(tmp_path: Path, *devices: DeviceClaim, proofs: list[ProofEvidence]) -> EvidenceBundle:
    with MetricsHandler(tmp_path / FILE_NAME) as metrics:
        secret = begin(metrics, 7)
        made = bundle_of(secret, *proofs).model_copy(update={"registry": entry_of(devices=devices)})
        keep(metrics, tmp_path / "evidence", made)
    return made


def look(tmp_path: Path, claimed: str, really: str, pace_percent: int = 100) -> DeviceLook:
    device = gpu(claimed, TABLE.models[really])
    proofs = proven(device, 0, TABLE.models[really], pace_percent)
    (found,) = looks_of(bundle(tmp_path, device, proofs=proofs), TABLE)
    return found


def test_card_looks_like_what_it_is(tmp_path: Path) -> None:
    """By two figures of four an H200 and an H100 of the same form are one; the claimed name is among them."""
    found = look(tmp_path, "NVIDIA H200", "NVIDIA H200")
    assert found.identification is not None
    assert [candidate.name for candidate in found.identification.candidates[:2]] == [
        "NVIDIA H100 80GB HBM3",
        "NVIDIA H200",
    ]
    assert found.lines[0].startswith("by pow and matmul it looks like NVIDIA H100 80GB HBM3, NVIDIA H200")
    assert found.lines[0].endswith("; the claimed card is among them")
    assert found.lines[1:] == (
        "pow: 0.96 of what the claimed card should do",
        "matmul: 1.00 of what the claimed card should do",
    )


def with_memory(device: DeviceClaim, model: GpuModel, reason: RejectReason | None = None) -> ProofEvidence:
    """A memory proof of this model, all of its memory at the rate that the table expects."""
    params = fit_gpu_memory_params(model, model.memory_bytes, model.memory_rate_expected, 5)
    time_ns = params.operations * SECOND // model.memory_rate_expected
    made = proof(reason, device=device.uuid, kind="memory", claimed=1, measured=model.memory_rate_expected)
    sizes = MemorySizes.model_validate(sizes_of(params))
    return made.model_copy(update={"sizes": sizes, "device_index": 0, "rtt_min_ns": 0, "last_byte_after_ns": time_ns})


def test_memory_proof_tells_cards_apart_that_two_figures_do_not(tmp_path: Path) -> None:
    """All four figures; without capacity, which a proof that does not hold has not shown, three."""
    model = TABLE.models["NVIDIA H200"]
    device = gpu(model.nvml_name, model)
    for name, reason, figures in (
        ("holds", None, tuple(Figure)),
        ("fails", RejectReason.BLOCK_MISMATCH, (Figure.POW, Figure.MATMUL, Figure.BANDWIDTH)),
    ):
        proofs = [*proven(device, 0, model), with_memory(device, model, reason)]
        (found,) = looks_of(bundle(tmp_path / name, device, proofs=proofs), TABLE)
        assert found.identification is not None
        assert found.identification.figures == figures
        assert "NVIDIA H100 80GB HBM3" not in [card.name for card in found.identification.candidates]
        assert found.identification.candidates[0].name == "NVIDIA H200"


def test_card_under_a_better_name_is_shown_and_loses_nothing_by_it(tmp_path: Path) -> None:
    found = look(tmp_path, "NVIDIA H200", "Tesla T4")
    assert found.lines[0].endswith("; the claimed card is NOT among them")
    assert "Tesla T4" in found.lines[0]
    assert found.lines[2] == "matmul: 0.07 of what the claimed card should do: DEGRADED, which costs nothing"


@pytest.mark.parametrize(
    ("pace", "ending"),
    [
        (59, ": DEGRADED, which costs nothing"),
        (61, " should do"),
        (109, " should do"),
        (111, ": FAST, which costs nothing"),
    ],
)
def test_flag_stands_beside_the_rate(tmp_path: Path, pace: int, ending: str) -> None:
    assert look(tmp_path, "NVIDIA L4", "NVIDIA L4", pace).lines[2].endswith(ending)


def test_unknown_card_is_said_to_be_unknown(tmp_path: Path) -> None:
    (line,) = look(tmp_path, "NVIDIA Z999\x1b[2J", "NVIDIA L4").lines
    assert line.endswith("; the table does not know the claimed card")
    assert "\x1b" not in look(tmp_path / "again", "NVIDIA Z999\x1b[2J", "NVIDIA L4").name


def test_rate_that_no_card_has_looks_like_none(tmp_path: Path) -> None:
    assert "looks like no card of the table" in look(tmp_path, "NVIDIA L4", "NVIDIA L4", 1).lines[0]


def test_device_without_a_rate_is_not_guessed_at(tmp_path: Path) -> None:
    device = gpu("NVIDIA L4", TABLE.models["NVIDIA L4"])
    (found,) = looks_of(bundle(tmp_path, device, proofs=[proof(device=device.uuid, measured=0)]), TABLE)
    assert found.lines == ("nothing was measured to identify it by",)
    assert found.identification is None


def test_explain_shows_each_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = TABLE.models["Tesla T4"]
    device = gpu("Tesla T4", card)
    made = bundle(tmp_path, CPU, device, proofs=[proof(), *proven(device, 1, card)])
    command = ["validator", "explain", "--data-dir", str(tmp_path), MINER.public_key[:8]]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "device     cpu  a processor\n" in shown
    assert "compared with its own claim: there is no table of CPU models" in shown
    assert "device     GPU-Tesla T4  Tesla T4\n" in shown
    assert main([*command, "-o", "json"]) == 0
    cpu, t4 = json.loads(capsys.readouterr().out)["devices"]
    assert (cpu["candidates"], cpu["is_claimed_among"]) == ([], None)
    assert (t4["figures"], t4["is_claimed_among"]) == (["pow", "matmul"], True)
    (tmp_path / "evidence" / f"{made.digest()}.json").unlink()
    assert main([*command, "-o", "json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["devices"] == []
    assert "no devices shown" in told.err
