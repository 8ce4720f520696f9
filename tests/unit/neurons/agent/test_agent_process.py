"""The miner's child: it takes over from an agent that goes, however that one came to be."""

from __future__ import annotations

import threading

from config.schema import Config
from neurons.miner import agent_process
from tests.support.miners import wait_until
from tests.unit.neurons.agent.agent_process import IDENTITY, AgentProcess


def test_agent_that_was_found_and_goes_away_is_missed_and_replaced(agent: AgentProcess) -> None:
    own = agent_process.AgentProcess(Config(), agent.node_dir, IDENTITY, agent.client)
    own.prepare()
    stop, missed = threading.Event(), threading.Event()

    def run() -> None:
        try:
            own.run(stop)
        except RuntimeError:
            missed.set()
            own.run(stop)  # as the supervisor does

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert agent.stop() == 0
    assert missed.wait(20)
    wait_until(own._answers, 20, "no new agent")
    stop.set()
    thread.join(20)
    assert not own._answers()
