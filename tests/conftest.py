"""What every test may ask for: ``--require``, ``--part``, the people of a test, a running miner.

Rules:
- A test marked ``docker``, ``disk``, ``encryption``, ``lab``, ``gpu``, ``kernels``, ``compiler`` or ``installing`` is skipped, with the reason, where the thing is missing;
  ``--require docker`` turns that into a failure of the whole run, so that a green run says what it looked at.
- ``--part`` takes one half of the tests: those that bear others beside them, or those marked ``alone``. tests/run needs it.
- Nothing here needs more than requirements.txt installs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Callable, Iterator

import pytest

from neurons.miner.node import MinerNode
from neurons.miner.pow_library import COMPILER
from polarise.signing import Identity
from tests.lab.engine import why_no_lab
from tests.support.disks import why_no_disks, why_no_encryption
from tests.support.engine import remove_everything_of, why_no_engine
from tests.support.identities import People, fresh_node_identity
from tests.support.installed import why_no_installing
from tests.support.miners import RunningMiner, engineless, miner_config, running
from utils.gpu import list_gpus


def why_no_gpu() -> str | None:
    """Return why tests marked gpu cannot run here, None when they can."""
    return None if list_gpus() else "NVML finds no GPU on this machine"


def why_no_compiler() -> str | None:
    """Return why tests marked compiler cannot run here, None when they can."""
    return None if shutil.which(COMPILER) else f"there is no C compiler {COMPILER!r} on the PATH"


def why_no_triton() -> str | None:
    """Return why tests marked kernels cannot run here, None when they can."""
    return None if importlib.util.find_spec("triton") else "Triton is not installed, `make test-kernels` installs it"


REQUIREMENTS: dict[str, Callable[[], str | None]] = {
    "docker": why_no_engine,
    "disk": why_no_disks,
    "encryption": why_no_encryption,
    "lab": why_no_lab,
    "gpu": why_no_gpu,
    "compiler": why_no_compiler,
    "installing": why_no_installing,
    "kernels": why_no_triton,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        action="append",
        default=[],
        metavar="THING",
        help=f"fail instead of skipping when this is missing; any of {', '.join(REQUIREMENTS)}; may be repeated",
    )
    parser.addoption(
        "--part",
        choices=("together", "alone"),
        help="only the tests that bear others beside them, or only those marked alone; both when left out",
    )


def pytest_configure(config: pytest.Config) -> None:
    for name in (part.strip() for value in config.getoption("--require") for part in value.split(",")):
        if name not in REQUIREMENTS:
            raise pytest.UsageError(f"--require {name}: known are {', '.join(REQUIREMENTS)}")
        if cause := REQUIREMENTS[name]():
            raise pytest.UsageError(f"--require {name}: {cause}")
    _let_hypothesis_take_its_time()


def _let_hypothesis_take_its_time() -> None:
    """On a busy machine a slow example says nothing of the code; without hypothesis its tests are not there either."""
    with contextlib.suppress(ImportError):
        from hypothesis import HealthCheck, settings

        settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("patient")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _keep_part(config, items)
    for name, why_missing in REQUIREMENTS.items():
        marked = [item for item in items if item.get_closest_marker(name)]
        if marked and (cause := why_missing()):
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=f"needs {name}: {cause}"))


def _keep_part(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (part := config.getoption("--part")) is None:
        return
    parts: dict[str, list[pytest.Item]] = {"together": [], "alone": []}
    for item in items:
        parts["alone" if item.get_closest_marker("alone") else "together"].append(item)
    # First what takes long, so that at the end no worker waits for the one that took it last.
    items[:] = sorted(parts.pop(part), key=lambda item: item.get_closest_marker("slow") is None)
    for others in parts.values():
        config.hook.pytest_deselected(items=others)


@pytest.fixture(scope="session")
def people() -> People:
    """Owner, renters, validator, auditor and a stranger."""
    return People()


@pytest.fixture(scope="module")
def node_identity(people: People) -> Iterator[Identity]:
    """A node of this module's own; all that it left on the engine is removed."""
    identity = fresh_node_identity(people.owner)
    yield identity
    if why_no_engine() is None:
        remove_everything_of(identity.public_key[:12])


@pytest.fixture(scope="module")
def engineless_miner(
    people: People, node_identity: Identity, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningMiner]:
    """The real miner, serving, with an engine that is not there."""
    data_dir = tmp_path_factory.mktemp("engineless")
    with running(MinerNode(engineless(people, requests={"costly_burst": 10_000}), data_dir, node_identity)) as miner:
        yield miner


@pytest.fixture(scope="module")
def miner(people: People, node_identity: Identity, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMiner]:
    """The real miner, serving, with this host's engine; for tests marked docker."""
    data_dir = tmp_path_factory.mktemp("miner")
    with running(MinerNode(miner_config(people), data_dir, node_identity)) as miner:
        yield miner
