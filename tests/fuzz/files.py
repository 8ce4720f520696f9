"""Targets: settings, what the renter keeps, and what is read from /proc and cgroups."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from config.loader import CHECKOUT, FILE_BYTES_MAX, load_config, parse_value
from neurons.renter.leases import LeaseStore
from neurons.renter.miners import _read_pins
from neurons.validator.login_process import MAX_MESSAGE_BYTES, STARTED, LoginAnswer, decode_answer
from polarise.decode import MAX_BODY_BYTES
from polarise.errors import ConfigError, ProofRejected
from polarise.evidence import VerdictRecord
from telemetry.usage import ContainerReader, HostReader, cgroup_folders
from tests.fuzz.signed import wire
from tests.fuzz.target import KIB, Call, Target, plain, text_of
from tests.support.evidence import receipt_statement

KERNEL_FILE_BYTES_MAX = 64 * KIB
CONTAINER_FILES = {
    "": ("cpu.stat", "memory.current", "memory.stat", "memory.max", "pids.current"),
    "memory": ("memory.usage_in_bytes", "memory.stat", "memory.limit_in_bytes"),
    "cpuacct": ("cpuacct.usage",),
    "pids": ("pids.current",),
}


@contextlib.contextmanager
def _settings() -> Iterator[Call]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "node.yaml"

        def call(raw: bytes) -> object:
            path.write_bytes(raw)
            return load_config(path)

        yield call


def _variable(raw: bytes) -> object:
    """A variable of the environment and a flag, with any text."""
    value = text_of(raw).replace("\0", "")
    with contextlib.suppress(ConfigError):
        load_config(environ={"POLARISE_ACCESS_RENTERS": value, "POLARISE_DATA_DIR": value})
    return parse_value("network.port", value, "a test")


def _setting_files() -> list[bytes]:
    files = sorted((CHECKOUT / "config").glob("*.yaml"))
    odd = b"network: {port: 8080}\ndocker: {default_memory: 2g}\naccess: {renters: ['" + b"0" * 64 + b"']}\n"
    return [odd, *(path.read_bytes() for path in files)]


@contextlib.contextmanager
def _pins() -> Iterator[Call]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "miners.json"

        def call(raw: bytes) -> object:
            path.write_bytes(raw)
            return _read_pins(path)

        yield call


@contextlib.contextmanager
def _leases() -> Iterator[Call]:
    """A kept lease: its record, an empty line, its receipt."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "leases" / ("0" * 64)
        folder.mkdir(parents=True)

        def call(raw: bytes) -> object:
            record, _, receipt = raw.partition(b"\n\n")
            (folder / "lease.json").write_bytes(record)
            (folder / "receipt.json").write_bytes(receipt)
            return LeaseStore(Path(name)).all()

        yield call


def _lease() -> bytes:
    statement = receipt_statement()
    record = {"endpoint": "http://127.0.0.1:1", "node_key": statement.signer, "identity_file": None}
    return json.dumps(record).encode() + b"\n\n" + wire(statement)


def _login(raw: bytes) -> object:
    return decode_answer(raw, "the process ended")


def _login_answer() -> bytes:
    return STARTED + LoginAnswer(login_ms=5, output="AAEC", verdict=VerdictRecord()).model_dump_json().encode()


def _kernel(read: Callable[[Path, bytes], object]) -> Callable[[], contextlib.AbstractContextManager[Call]]:
    @contextlib.contextmanager
    def opened() -> Iterator[Call]:
        with tempfile.TemporaryDirectory() as name:
            yield lambda raw: read(Path(name), raw)

    return opened


def _host(folder: Path, raw: bytes) -> object:
    (folder / "stat").write_bytes(raw)
    (folder / "meminfo").write_bytes(raw)
    reader = HostReader(folder)
    reader.read()
    return reader.read()


def _container(folder: Path, raw: bytes) -> object:
    for controller, names in CONTAINER_FILES.items():
        (folder / controller).mkdir(exist_ok=True)
        for name in names:
            (folder / controller / name).write_bytes(raw)
    readings = []
    for folders in ({"": folder}, {name: folder / name for name in CONTAINER_FILES if name}):
        reader = ContainerReader(folders)
        readings += [reader.read(1), reader.read(2)]
    return readings


def _cgroups(folder: Path, raw: bytes) -> object:
    (folder / "1").mkdir(exist_ok=True)
    (folder / "1" / "cgroup").write_bytes(raw)
    return cgroup_folders(1, proc=folder)


TARGETS = (
    Target(
        "config.loader.load_config",
        _settings,
        _setting_files,
        (ConfigError,),
        FILE_BYTES_MAX,
        # PyYAML is Python: a token takes some hundred calls, and its nodes keep a mark each.
        memory_factor=600,
        memory_base_bytes=FILE_BYTES_MAX + 1024 * KIB,
        calls_base=400_000,
        calls_factor=400,
        weight=8,
    ),
    Target(
        "config.loader.parse_value",
        plain(_variable),
        lambda: [b"8080", b'"[x]"', b"[a, b]"],
        (ConfigError,),
        KERNEL_FILE_BYTES_MAX,
        memory_factor=600,
        memory_base_bytes=4096 * KIB,
        calls_base=400_000,
        calls_factor=1600,
        weight=8,
    ),
    Target(
        "neurons.renter.miners._read_pins",
        _pins,
        lambda: [json.dumps({"http://127.0.0.1:1": "0" * 64}).encode()],
        (ConfigError,),
        MAX_BODY_BYTES,
        covers=("neurons.renter.miners.Miners",),
    ),
    Target(
        "neurons.renter.leases.LeaseStore",
        _leases,
        lambda: [_lease()],
        (ConfigError,),
        MAX_BODY_BYTES,
        weight=2,
    ),
    Target(
        "neurons.validator.login_process.decode_answer",
        plain(_login),
        lambda: [_login_answer()],
        (ProofRejected,),
        MAX_MESSAGE_BYTES,
    ),
    Target(
        "telemetry.usage.HostReader.read",
        _kernel(_host),
        lambda: [b"cpu  1 2 3 4 5 6 7 8 9 10\nMemTotal:  16 kB\nMemAvailable:  8 kB\n"],
        (),
        KERNEL_FILE_BYTES_MAX,
    ),
    Target(
        "telemetry.usage.ContainerReader.read",
        _kernel(_container),
        lambda: [b"4096\n", b"usage_usec 5\ninactive_file 7\ntotal_inactive_file 7\n", b"max\n"],
        (),
        KERNEL_FILE_BYTES_MAX,
        calls_factor=64,
        weight=2,
    ),
    Target(
        "telemetry.usage.cgroup_folders",
        _kernel(_cgroups),
        lambda: [b"0::/docker/a\n", b"3:memory:/docker/a\n2:cpu,cpuacct:/docker/a\n1:pids:/docker/a\n"],
        (OSError, ValueError),
        KERNEL_FILE_BYTES_MAX,
    ),
)
