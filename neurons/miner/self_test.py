"""`miner self-test`: what every device of this node proves, beside what is claimed of it, and what limits it.

Rules:
- It needs no key, no ledger and no daemon; it changes nothing but the compiled library, where one is asked for.
- Claims are those of `registry.json` where the node joined; else the table's figures for a known card; else what `join`
  would claim now.
- A GPU in a tenant's hands is left alone, as in a challenge, and then the test is not passed: nothing is known of it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from challenges.draw import ChallengeKind
from challenges.hardware import GpuModel, HardwareTable
from challenges.matmul_messages import MatmulParams
from challenges.timing import PPM, fit_params
from config.schema import Config
from neurons.base.data_dir import DataDir
from neurons.miner.failure import Failure
from neurons.miner.hardware import detect_devices
from neurons.miner.journal import Journal
from neurons.miner.pow_library import solver_command
from neurons.miner.solver import SolverProcess
from neurons.miner.trial import Basis, Size, Subject, Trial
from neurons.miner.trials import TrialRunner
from polarise.hardware import CPU_DEVICE, DeviceClaim
from polarise.registry import read_entry
from utils import gpu, host

BUSY_LOAD_PER_CPU = 0.5
GONE = Failure(
    "the registry entry claims it, and the driver does not find it",
    "`nvidia-smi` and `dmesg | grep -i xid` say why; or `join` again without it",
)
RENTED = Failure("it is in a tenant's hands and is left alone", "test it again between two leases")


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """What came of one device.

    Attributes:
        subject: The device and what its rates are compared with.
        trials: Its proofs; none where it could not be tested.
        untested: Why it was not tested; None where it was.
        limits: What keeps it from more, as far as it shows.
    """

    subject: Subject
    trials: tuple[Trial, ...]
    untested: Failure | None
    limits: tuple[str, ...]

    @property
    def is_passed(self) -> bool:
        """Whether every proof holds and every rate is accepted."""
        return self.untested is None and all(trial.is_passed for trial in self.trials)


def self_test(
    config: Config,
    root: Path,
    *,
    seconds: int,
    on_progress: Callable[[str], None],
    devices: tuple[DeviceClaim, ...] | None = None,
    start_solver: Callable[[], SolverProcess] | None = None,
) -> tuple[DeviceReport, ...]:
    """Run all trials of this node.

    Args:
        config: Settings of the miner.
        root: Its folder; may be empty or missing.
        seconds: How long a real proof should take a device that holds its claim.
        on_progress: Called with a line about what is going on.
        devices: Instead of what this host has, without claims.
        start_solver: Instead of the solver that would answer challenges.

    Raises:
        ConfigError: `registry.json` is no entry, or the journal cannot be read.
    """
    hardware, files = HardwareTable.load(), DataDir(root)
    detected = detect_devices(claim_cpu=config.miner.claim_cpu) if devices is None else devices
    subjects, gone = subjects_of(detected, _entry_devices(root), hardware)
    notes = [_load_note()]
    command = solver_command(root, compiled_pow=config.miner.compiled_pow, on_missing=notes.append)
    if not config.miner.compiled_pow:
        notes.append("numpy hashes; miner.compiled_pow lets compiled code do it, some twenty times as fast")
    rented, leases_count = _leased(files)
    tested = [subject for subject in subjects if subject.device.uuid not in rented]
    with gpu.GpuSampler() as sampler:
        throttled = _Throttled(sampler)
        runner = TrialRunner(
            hardware,
            seconds=seconds,
            proof_seconds_max=config.miner.max_proof_seconds,
            start_solver=start_solver or (lambda: SolverProcess(command)),
            on_progress=on_progress,
            on_tick=throttled.look,
        )
        trials = runner.run(tested)
    if leases_count:
        notes.append(f"{leases_count} leases run here, and their containers share the processors")
    reports = [
        _report(subject, trials, rented, (*throttled.of(subject.device.uuid), *_cpu_notes(subject, notes)), seconds)
        for subject in subjects
    ]
    return (*reports, *(DeviceReport(subject, (), GONE, ()) for subject in gone))


def subjects_of(
    detected: tuple[DeviceClaim, ...], claimed: tuple[DeviceClaim, ...], hardware: HardwareTable
) -> tuple[list[Subject], list[Subject]]:
    """Return the host's devices with what they are compared with, and those that are claimed and not there.

    Args:
        detected: What this host has, without claims.
        claimed: The devices of the registry entry, or nothing.
        hardware: What vendors say of their cards.
    """
    entries = {device.uuid: device for device in claimed}
    subjects = []
    for index, device in enumerate(detected):
        model = hardware.find(device.name) if device.kind == "gpu" else None
        if device.uuid in entries:
            subjects.append(Subject(entries[device.uuid], index, Basis.ENTRY))
        elif model is not None:
            subjects.append(Subject(_expected(device, model), index, Basis.TABLE))
        else:
            subjects.append(Subject(device, index, Basis.MEASURED))
    found = {device.uuid for device in detected}
    gone = [Subject(device, index, Basis.ENTRY) for index, device in enumerate(claimed) if device.uuid not in found]
    return subjects, gone


def _expected(device: DeviceClaim, model: GpuModel) -> DeviceClaim:
    rates = {
        "matmul_ops_per_second": model.matmul_rate_expected,
        "pow_hashes_per_second": model.pow_rate_expected,
        "memory_bytes_per_second": model.memory_rate_expected,
    }
    return device.model_copy(update=rates)


def _entry_devices(root: Path) -> tuple[DeviceClaim, ...]:
    path = root / "registry.json"
    return read_entry(path)[1].hardware.devices if path.exists() else ()


def _leased(files: DataDir) -> tuple[frozenset[str], int]:
    """Return the devices in tenants' hands, and how many leases there are."""
    if not files.journal.exists():
        return frozenset(), 0
    with Journal(files.journal) as journal:
        leases = [lease for lease in journal.all() if not lease.is_slot]
    return frozenset(device for lease in leases for device in lease.devices), len(leases)


class _Throttled:
    """Collects why cards were slower than they could be, while they worked."""

    def __init__(self, sampler: gpu.GpuSampler) -> None:
        self._sampler = sampler
        self._reasons: dict[str, set[str]] = {}

    def look(self) -> None:
        for reading in self._sampler.read():
            self._reasons.setdefault(reading.uuid, set()).update(reading.throttle_reasons or ())

    def of(self, uuid: str) -> tuple[str, ...]:
        return tuple(f"the driver slows it: {reason}" for reason in sorted(self._reasons.get(uuid, ())))


def _load_note() -> str:
    load, cpus = os.getloadavg()[0], host.cpu_count()
    return f"other work ran before the test: load {load:.1f} on {cpus} CPUs" if load > BUSY_LOAD_PER_CPU * cpus else ""


def _cpu_notes(subject: Subject, notes: list[str]) -> tuple[str, ...]:
    if subject.device.uuid != CPU_DEVICE:
        return ()
    no_torch = "" if importlib.util.find_spec("torch") else "torch is not installed: numpy multiplies"
    return tuple(note for note in (*notes, no_torch) if note)


def _report(
    subject: Subject, trials: list[Trial], rented: frozenset[str], notes: tuple[str, ...], seconds: int
) -> DeviceReport:
    own = tuple(trial for trial in trials if trial.subject == subject)
    if subject.device.uuid in rented:
        return DeviceReport(subject, (), RENTED, ())
    limits = (*_weakest(own), *_memory_note(own, seconds), *_unclaimed(subject, own), *notes)
    return DeviceReport(subject, own, None, limits)


def _weakest(trials: tuple[Trial, ...]) -> tuple[str, ...]:
    """Name the proof that decides what the device is worth."""
    rates = [(trial.rate.ratio_ppm, trial.kind) for trial in trials if trial.rate is not None]
    if len(rates) < 2:
        return ()
    ratio_ppm, kind = min(rates)
    return (f"its weakest proof counts: {kind.value}, at {ratio_ppm / PPM:.2f} of the claim",)


def _unclaimed(subject: Subject, trials: tuple[Trial, ...]) -> tuple[str, ...]:
    """Say where an entry claims no bandwidth of a device that could prove one."""
    is_provable = any(trial.kind is ChallengeKind.MEMORY and trial.is_passed for trial in trials)
    if subject.basis is Basis.ENTRY and is_provable and not subject.device.memory_bytes_per_second:
        return ("it claims no bandwidth, so that its memory is not measured: `join` again to claim one",)
    return ()


def _memory_note(trials: tuple[Trial, ...], seconds: int) -> tuple[str, ...]:
    """Say where memory makes the matrices smaller than the rate would have them."""
    for trial in trials:
        if trial.size is Size.REAL and isinstance(trial.params, MatmulParams):
            wanted = fit_params(trial.claimed, seconds).n
            if trial.params.n < wanted:
                return (f"its memory keeps the matrices at n = {trial.params.n}, its rate would have n = {wanted}",)
    return ()
