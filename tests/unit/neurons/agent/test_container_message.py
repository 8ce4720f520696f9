"""Whatever a container sends: it becomes a sound line, or it is refused; nothing else happens to the agent."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurons.agent.container_message import container_draft
from polarise.envelope import open_line
from polarise.errors import RequestRejected
from polarise.ingress import Hop, Sender, dispatch, place
from tests.unit.neurons.agent.agent_process import LEASE, NODE_KEY

UUID = "728ff542-b332-4520-bb2e-51d5e32cfc0a"
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["\ud800", "1e9", "\u00b2", UUID]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "message_id": st.just(UUID) | anything,
        "kind": st.sampled_from(["training.epoch", "inference.done", "my.own", "alert.raised"]) | anything,
        "date": st.integers(0, 2**64).map(str) | anything,
        "dropped": st.integers() | anything,
        "payload": st.dictionaries(st.sampled_from(["epoch", "loss", "timestamp", "modelId", "x"]), anything)
        | anything,
        "visited": anything,
    },
)


def line_of(raw: bytes) -> bytes:
    draft, dropped = container_draft(raw, LEASE)
    assert 0 <= dropped < 2**53
    return place(dispatch(draft, Sender(UUID, UUID), Hop("agent", "v1", "node"), 10**18), f"{NODE_KEY}/system", 0)


@given(messages)
def test_any_message_becomes_a_sound_line_or_is_refused(message: dict[str, object]) -> None:
    try:
        line = line_of(json.dumps(message).encode())
    except RequestRejected:
        return
    assert open_line(line).visited[0].svc == "container"


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(RequestRejected):
        line_of(raw)


@pytest.mark.parametrize("dropped", [True, -1, 2**53, "3", None, 1.5, [1]])
def test_a_count_that_is_none_counts_as_nothing(dropped: object) -> None:
    raw = json.dumps({"kind": "training.epoch", "payload": {}, "dropped": dropped}).encode()
    assert container_draft(raw, LEASE)[1] == 0
