"""What one validator costs by the number of its miners: an hour of epochs, one after another, over real HTTP.

Rules:
- The validator is the real one with its real ledger daemon, stamping process, checkers, evidence, scores and records; each
  of twelve epochs reads everybody's log, and those that have a common window prove everybody (n = 16384, 32 openings, and 2,000
  shares): the first does, and each later one with a chance of one in twelve.
- The miners are `benchmarks._simulated_miners`: they know the opening key and compute only the tiles that will be opened.
  A real miner cannot, because positions depend on its commitment; here, and nowhere else, they are drawn from the opening
  key alone, which costs the validator the same.
- "Compressed" means that the pauses between epochs are left out. Proofs take the seconds their claim says.
- CPU is what the kernel counted for the validator's processes, apart from the simulators and the ledger. The error of a
  stamp is the validator's time of a proof less the simulator's own, between the arrival of the start and its answer.
- All miners are known from before, with a score in which each was proven some epochs ago.
- Inspections are measured apart (``--logins``): the processor time of the real login process, against a small ssh server.
- Prints numbers and asserts nothing about them.

Run: .venv/bin/python -m benchmarks.validator_scale --miners 100
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks._simulated_miners import OWNER, address_of, entry_of, identity_of
from benchmarks.proofs import cpu_model, print_line
from challenges import draw
from challenges.hardware import HardwareTable
from challenges.proofs import sizes_of
from config.schema import Config
from neurons.base.service import Supervisor
from neurons.ledger.genesis import new_genesis
from neurons.ledger.node import GENESIS_FILE, LedgerNode
from neurons.miner.join import post_entry
from neurons.validator.chain import Beacon, Chain
from neurons.validator.challenges import KINDS, ChallengeGenerator, EpochSecret, fitted_params
from neurons.validator.drawing import Intervals, has_window
from neurons.validator.epoch import EpochService
from neurons.validator.login_process import LoginProcess
from neurons.validator.metrics import FILE_NAME, MetricsHandler, StoredScore
from neurons.validator.node import ValidatorNode
from neurons.validator.probe_text import probe_text
from neurons.validator.scoring import ScoringSystem
from neurons.validator.verification import ONE_THREAD
from polarise.evidence import DrawEvidence, read_bundle
from polarise.genesis import Genesis, Member, write_genesis
from polarise.http_client import HttpClient
from polarise.ledger_client import LedgerClient
from polarise.registry import open_entry
from polarise.signing import Certificate, Identity, Purpose, SigningKey
from polarise.ssh_keys import generate_key_pair
from tests.support.ssh_server import SshServer, answering, running

EPOCHS = 12
PROVE_EVERY = 12
TARGET_SECONDS = 3
OPENINGS = 32
# A thousand miners' proofs on two cores.
PROVING_SECONDS = 1800.0
PER_HOUR = 12
_VALIDATOR_KEY = SigningKey(b"V" * 32)
VALIDATOR = Identity(_VALIDATOR_KEY, Certificate.issue(OWNER, _VALIDATOR_KEY.public_key, Purpose.NODE))
_LEDGER_KEY = SigningKey(b"L" * 32)
LEDGER = Identity(_LEDGER_KEY, Certificate.issue(OWNER, _LEDGER_KEY.public_key, Purpose.NODE))


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of so many miners cost.

    Attributes:
        miners: How many.
        epochs: How many were run.
        proven: Devices proven, over all epochs.
        accepted: Those of them whose proofs all passed.
        wall_seconds: From the first epoch to the end of the last.
        main_seconds: CPU of the daemon itself.
        children_seconds: CPU of stamping process and checkers.
        memory_bytes: Peak memory of the daemon and its processes together.
        errors_ns: Error of each stamped time, sorted.
        rejected: Why the others were not, each with its number; a busy machine makes the simulators late.
        bundle_bytes: Evidence kept, in all.
        ledger_bytes: Size of the ledger at the end.
    """

    miners: int
    epochs: int
    proven: int
    accepted: int
    wall_seconds: float
    main_seconds: float
    children_seconds: float
    memory_bytes: int
    errors_ns: Sequence[int]
    rejected: Mapping[str, int]
    bundle_bytes: int
    ledger_bytes: int


def main() -> None:
    """Run one count after the other and print a row for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--miners", default="100", help="how many, or several counts with commas (100)")
    parser.add_argument(
        "--epochs", type=int, default=EPOCHS, help=f"epochs to run ({EPOCHS}: an hour of five minutes each)"
    )
    parser.add_argument("--logins", type=int, default=10, help="inspections to measure apart, 0 for none (10)")
    options = parser.parse_args()
    print_line(f"command: python -m benchmarks.validator_scale {' '.join(sys.argv[1:])}")
    print_line(f"hardware: {cpu_model()}, {os.cpu_count()} cores, shared by validator, simulators and ledger")
    print_line(
        "| miners | proven | accepted | CPU s: daemon | stamper and checkers | CPU s per miner and hour | cores used of an hour "
        "| peak MiB | stamp error ms p50 | p99 | max | wall s | evidence MiB | ledger MiB |\n"
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    for count in (int(text) for text in options.miners.split(",")):
        # A process of its own for each count, or peaks and CPU of one would be counted for the next.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            print_row(pool.submit(measure, count, options.epochs).result())
    if options.logins:
        login_seconds = measure_logins(options.logins)
        print_line(
            f"\nan inspection, apart: {login_seconds:.2f} CPU s of the login process (mean of {options.logins}); at one inspection "
            "an hour that is so much more per miner and hour"
        )


def print_row(cost: Cost) -> None:
    """Print one row of the table."""
    total = cost.main_seconds + cost.children_seconds
    hours = cost.epochs / PER_HOUR
    errors_ms = [error / 1e6 for error in cost.errors_ns] or [0.0]
    p99 = errors_ms[min(len(errors_ms) - 1, len(errors_ms) * 99 // 100)]
    print_line(
        f"| {cost.miners} | {cost.proven} | {cost.accepted} | {cost.main_seconds:.1f} | {cost.children_seconds:.1f} "
        f"| {total / cost.miners / hours:.3f} | {total / 3600 / hours:.3f} | {cost.memory_bytes / 2**20:.0f} "
        f"| {statistics.median(errors_ms):.2f} | {p99:.2f} | {errors_ms[-1]:.2f} | {cost.wall_seconds:.0f} "
        f"| {cost.bundle_bytes / 2**20:.1f} | {cost.ledger_bytes / 2**20:.1f} |"
    )
    if cost.rejected:
        print_line(f"rejected: {', '.join(f'{count} {reason}' for reason, count in cost.rejected.items())}")


def measure(count: int, epochs: int) -> Cost:
    """Run the epochs with so many miners."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        control = folder / "control.json"
        genesis, url = stack.enter_context(_ledger(folder))
        port = stack.enter_context(_miners(count, control))
        _register(count, port, url, genesis)
        _draw_from_the_key_alone()
        _tell(control, port)
        node = ValidatorNode(_config(url, folder / "ledger" / GENESIS_FILE), folder / "validator", VALIDATOR)
        _remember(folder / "validator", count)
        cost = _run(node, epochs)
        evidence = list((folder / "validator" / "evidence").glob("*.json"))
        proven, accepted, errors, rejected = _judge(evidence, port)
        return Cost(
            miners=count,
            epochs=epochs,
            proven=proven,
            accepted=accepted,
            errors_ns=sorted(errors),
            rejected=rejected,
            bundle_bytes=sum(path.stat().st_size for path in evidence),
            ledger_bytes=sum(path.stat().st_size for path in (folder / "ledger").glob("ledger.sqlite*")),
            **cost,
        )


def measure_logins(count: int) -> float:
    """Return the processor time of one login that runs the probe, in seconds, over so many."""
    probe = probe_text()
    private_pem, _ = generate_key_pair()
    used = _cpu_seconds(resource.RUSAGE_CHILDREN)
    for _ in range(count):
        with SshServer(running(answering)) as server:
            login = LoginProcess(server.receipt(), private_pem, allow_private=True)
            login.run("python3 -I -", probe, max_bytes=1 << 16, deadline_seconds=30)
    return (_cpu_seconds(resource.RUSAGE_CHILDREN) - used) / count


def _run(node: ValidatorNode, epochs: int) -> dict[str, Any]:
    """Turn the validator's loop by hand, so that nothing is waited for between epochs."""
    with node.data_dir, node._resources:
        services = list(node.build_services())
        (loop,) = (service for service in services if isinstance(service, EpochService))
        supervisors = [Supervisor(service) for service in services if service.name in {"outbox", "verdicts"}]
        for supervisor in supervisors:
            supervisor.start()
        began, used = time.monotonic(), _cpu_seconds(resource.RUSAGE_SELF)
        peak = _Peak()
        with peak:
            for number in range(epochs):
                loop.run_epoch(threading.Event())
                print_progress(f"epoch {number + 1} of {epochs}")
        wall_seconds = time.monotonic() - began
        main_seconds = _cpu_seconds(resource.RUSAGE_SELF) - used
        children = sum(_cpu_seconds_of(pid) for pid in _helpers())
        for supervisor in supervisors:
            supervisor.stop(10)
    return {
        "wall_seconds": wall_seconds,
        "main_seconds": main_seconds,
        "children_seconds": children,
        "memory_bytes": peak.memory_bytes,
    }


def print_progress(text: str) -> None:
    """Show on a terminal how far it is."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text} ")
        sys.stderr.flush()


def _judge(evidence: Sequence[Path], port: int) -> tuple[int, int, list[int], Mapping[str, int]]:
    """Return devices proven, those without a fault, the error of every stamped time in nanoseconds, and the faults."""
    raw = HttpClient(f"http://{address_of(0)}:{port}").request("GET", "/stamps", max_bytes=1 << 28).body
    own_ns = {challenge: wrote_ns - arrived_ns for challenge, arrived_ns, wrote_ns in json.loads(raw)}
    proven = accepted = 0
    errors = []
    rejected: Counter[str] = Counter()
    for path in evidence:
        bundle = read_bundle(path)
        proven += bool(bundle.proofs)
        accepted += bool(bundle.proofs) and all(proof.verdict.is_passed for proof in bundle.proofs)
        rejected.update(str(proof.verdict.reason) for proof in bundle.proofs if not proof.verdict.is_passed)
        errors += [
            proof.last_byte_after_ns - own_ns[proof.challenge_id]
            for proof in bundle.proofs
            if proof.last_byte_after_ns is not None and proof.challenge_id in own_ns
        ]
    return proven, accepted, errors, rejected


@contextlib.contextmanager
def _ledger(folder: Path) -> Iterator[tuple[Genesis, str]]:
    """Run the ledger's daemon in a process of its own."""
    port = _free_port()
    genesis = new_genesis(
        LEDGER,
        "scale",
        [Member(key=VALIDATOR.public_key, stake=1)],
        block_seconds=1,
        final_confirmations=1,
        created_unix_ms=time.time_ns() // 1_000_000,
    )
    write_genesis(folder / "ledger" / GENESIS_FILE, genesis)
    process = multiprocessing.get_context("spawn").Process(target=_serve_ledger, args=(folder / "ledger", port))
    process.start()
    _others.add(process.pid or 0)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(lambda: LedgerClient(url, genesis).status())
        yield genesis, url
    finally:
        process.terminate()
        process.join()


def _serve_ledger(folder: Path, port: int) -> None:
    logging.disable(logging.WARNING)
    LedgerNode(Config.model_validate({"network": {"port": port}}), folder, LEDGER).run()


@contextlib.contextmanager
def _miners(count: int, control: Path) -> Iterator[int]:
    """Run the simulated miners in a process of their own and return their port."""
    port = _free_port()
    arguments = [str(count), str(port), VALIDATOR.public_key, str(control)]
    command = [sys.executable, "-m", "benchmarks._simulated_miners", *arguments]
    # Each of its workers has a core to itself: more threads than cores spin and wait for each other.
    environ = {**os.environ, **dict.fromkeys(ONE_THREAD, "1")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, env=environ) as process:
        _others.add(process.pid)
        try:
            if process.stdout is None or process.stdout.readline() != b"ready\n":
                raise RuntimeError("the simulated miners did not start")
            yield port
        finally:
            # Its workers too, which wait for work and would not notice.
            os.killpg(process.pid, signal.SIGKILL)


def _register(count: int, port: int, url: str, genesis: Genesis) -> None:
    def one(number: int) -> None:
        post_entry(LedgerClient(url, genesis), identity_of(number), entry_of(number, port))

    with ThreadPoolExecutor(64) as pool:
        for number, _ in enumerate(pool.map(one, range(count))):
            print_progress(f"registered {number + 1} of {count}")


def _remember(folder: Path, count: int) -> None:
    """Give every miner a score from before the first epoch; what the parts were worth then decides nothing here."""
    with MetricsHandler(folder / FILE_NAME) as metrics:
        generator = ChallengeGenerator(VALIDATOR.public_key, target_seconds=TARGET_SECONDS, openings=OPENINGS)
        secret = generator.begin_epoch(1, [])
        metrics.begin_epoch(secret, 1)
        undrawn = DrawEvidence(proof_every=PROVE_EVERY, inspect_every=PROVE_EVERY, is_proven=False, is_inspected=False)
        score = ScoringSystem().calculate_score((), None, None, None, draw=undrawn)
        for number in range(count):
            # One draw in twelve leaves a miner undrawn for so long, now and then.
            record = score.model_copy(update={"undrawn_count": number % PROVE_EVERY})
            key = identity_of(number).public_key
            metrics.record(StoredScore(1, key, record, f"{number:064x}", 1), has_openings=False)
        metrics.finish_epoch(1, 1, None)


def _draw_from_the_key_alone() -> None:
    """Let positions follow from the opening key, as if every commitment were empty; see the rules above."""
    honest = draw.draw_positions

    def known(
        opening_key: bytes,
        device_uuid: str,
        kind: draw.ChallengeKind,
        _signed_commitment: bytes,
        *,
        bounds: Sequence[int],
        count: int,
        attempt: int = 0,
    ) -> tuple[tuple[int, ...], ...]:
        return honest(opening_key, device_uuid, kind, b"", bounds=bounds, count=count, attempt=attempt)

    draw.draw_positions = known  # type: ignore[assignment]  # of the same shape, but for its ears


def _tell(control: Path, port: int) -> None:
    """Tell the simulated miners of each common window, and wait until they have made their proofs."""
    honest = Chain.commit
    device = open_entry(entry_of(0, port)).hardware.devices[0]
    fitted = partial(
        fitted_params, target_seconds=TARGET_SECONDS, openings=OPENINGS, hardware=HardwareTable.load(), device_index=0
    )
    sizes = {kind.value: sizes_of(fitted(kind, device)) for kind in KINDS}

    def commit(
        self: Chain,
        secret: EpochSecret,
        miners_count: int,
        started_unix_ms: int,
        intervals: Intervals,
        stop: threading.Event,
    ) -> Beacon | None:
        beacon = honest(self, secret, miners_count, started_unix_ms, intervals, stop)
        if beacon is not None and has_window(beacon.value, intervals):
            told = {"epoch": secret.epoch, "opening_key": secret.opening_key.hex(), "beacon": beacon.value.hex()}
            control.write_text(json.dumps({**told, "sizes": sizes}))
            HttpClient(f"http://{address_of(0)}:{port}").request("POST", "/prove-all", timeout_seconds=PROVING_SECONDS)
        return beacon

    Chain.commit = commit  # type: ignore[method-assign]  # the one thing that a real miner is never told


def _config(url: str, genesis_file: Path) -> Config:
    validator = {
        "public_url": "http://127.0.0.1:1",
        "allow_private_endpoints": True,
        "inspect": False,
        "proof_every": PROVE_EVERY,
        "proof_target_seconds": TARGET_SECONDS,
    }
    ledger = {"endpoint": url, "genesis": genesis_file}
    return Config.model_validate({"ledger": ledger, "network": {"port": 0}, "validator": validator})


class _Peak:
    """Looks four times a second how much memory the daemon and its processes hold together."""

    def __init__(self) -> None:
        self.memory_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="peak", daemon=True)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.25):
            held = sum(_memory_bytes(pid) for pid in [os.getpid(), *_helpers()])
            self.memory_bytes = max(self.memory_bytes, held)


_others: set[int] = set()


def _helpers() -> list[int]:
    """Return the processes of the validator: all of ours but the ledger and the simulators."""
    found = []
    for path in Path("/proc/self/task").glob("*/children"):
        # A thread may end between the list and the look.
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in path.read_text().split()]
    return [pid for pid in found if pid not in _others]


def _cpu_seconds(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def _cpu_seconds_of(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _memory_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _wait_for(look: Callable[[], object]) -> None:
    for _ in range(200):
        try:
            look()
        except Exception:  # noqa: BLE001  whatever it is, it is not up yet
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("the ledger did not start")


if __name__ == "__main__":
    main()
