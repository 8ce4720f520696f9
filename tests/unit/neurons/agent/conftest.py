"""A running agent for the tests of this folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.neurons.agent.agent_process import AgentProcess
from tests.unit.neurons.agent.served_agent import Market, served


@pytest.fixture
def agent() -> Iterator[AgentProcess]:
    """One agent process on a fresh data directory; stopped at the end.

    The folder's name is short: a container sees its socket at a short path, and a client on the host needs one.
    """
    with tempfile.TemporaryDirectory(prefix="pl-") as folder, AgentProcess(Path(folder)) as running:
        yield running


@pytest.fixture
def market(agent: AgentProcess, tmp_path: Path) -> Iterator[Market]:
    """The agent behind the event routes of a miner."""
    with served(agent, tmp_path) as running:
        yield running
