"""A lease's GPUs are asked for by UUID, in both ways, and a lease without GPUs asks for none."""

from __future__ import annotations

from neurons.miner.gpu_request import gpu_requests

TWO = ("GPU-5a1c9e0e-0000-0000-0000-000000000001", "MIG-5a1c9e0e-0000-0000-0000-000000000002")


def test_no_gpu_is_no_request_at_all() -> None:
    """An empty list of ids with a capability would mean every GPU of the host."""
    assert gpu_requests((), "nvidia") is None
    assert gpu_requests((), "cdi") is None


def test_each_gpu_is_named_and_none_is_counted() -> None:
    (request,) = gpu_requests(TWO, "nvidia") or []
    assert (request["Driver"], request["DeviceIDs"], request["Count"]) == ("nvidia", list(TWO), 0)
    assert request["Capabilities"] == [["gpu", "compute", "utility"]]


def test_cdi_names_are_qualified() -> None:
    (request,) = gpu_requests(TWO, "cdi") or []
    assert (request["Driver"], request["Count"]) == ("cdi", 0)
    assert request["DeviceIDs"] == [f"nvidia.com/gpu={uuid}" for uuid in TWO]
