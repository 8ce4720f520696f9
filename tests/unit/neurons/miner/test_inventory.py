"""What still fits: each refusal by name, obeyed at the bound and broken one beyond."""

import pytest

from neurons.miner.allocate import PORT_ATTEMPTS
from neurons.miner.inventory import Inventory
from polarise.errors import ErrorCode, RequestRejected
from polarise.messages import DeviceSelector
from polarise.receipt import Limits
from tests.support.leases import lease
from utils.gpu import Gpu

H200 = Gpu(0, "GPU-aa", "NVIDIA H200", 1 << 37)
OTHER_H200 = Gpu(1, "GPU-bb", "NVIDIA H200", 1 << 37)
L4 = Gpu(2, "GPU-cc", "NVIDIA L4", 24 << 30)
KEY = "ab" * 32


def stock(**changes: object) -> Inventory:
    values: dict[str, object] = {
        "memory_bytes": 4 << 30,
        "cpu_milli": 4000,
        "gpus": (H200, OTHER_H200, L4),
        "ssh_ports": range(20_000, 20_003),
        "leases_max": 3,
        "leases_per_key_max": 2,
    }
    return Inventory(**{**values, **changes})  # type: ignore[arg-type]  # each is of the field's type


def limits(memory_bytes: int = 1 << 30, cpu_milli: int = 1000) -> Limits:
    return Limits(memory_bytes=memory_bytes, swap_bytes=0, cpu_milli=cpu_milli, pids_count=64, shm_bytes=0)


def refused(caught: pytest.ExceptionInfo[RequestRejected]) -> tuple[ErrorCode, int, str | None]:
    assert caught.value.hint
    return caught.value.code, caught.value.status, caught.value.field


@pytest.mark.parametrize(
    ("wanted", "field"),
    [(limits(memory_bytes=(4 << 30) + 4096), "memory"), (limits(cpu_milli=4001), "cpu_count")],
)
def test_more_than_the_host_has_is_refused_for_ever(wanted: Limits, field: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        stock().check_host(wanted)
    assert refused(caught) == (ErrorCode.EXCEEDS_HOST, 422, field)
    stock().check_host(limits(4 << 30, 4000))


@pytest.mark.parametrize(
    ("wanted", "field"),
    [(limits(memory_bytes=(3 << 30) + 4096), "memory"), (limits(cpu_milli=3001), "cpu_count")],
)
def test_more_than_is_free_is_refused_for_now(wanted: Limits, field: str) -> None:
    leases = [lease(1, renter_key="cd" * 32, limits=limits())]
    with pytest.raises(RequestRejected) as caught:
        stock().check_free(wanted, KEY, leases)
    assert refused(caught) == (ErrorCode.NO_CAPACITY, 409, field)
    stock().check_free(limits(3 << 30, 3000), KEY, leases)


def test_one_key_holds_no_more_than_its_quota() -> None:
    leases = [lease(1, renter_key=KEY, limits=limits())]
    stock().check_free(limits(), KEY, leases)
    leases.append(lease(2, renter_key=KEY, limits=limits()))
    with pytest.raises(RequestRejected) as caught:
        stock().check_free(limits(), KEY, leases)
    assert refused(caught) == (ErrorCode.TOO_MANY_REQUESTS, 429, None)
    stock().check_free(limits(), "cd" * 32, leases)


def test_no_more_leases_than_configured() -> None:
    leases = [lease(number, renter_key=f"{number:064x}", limits=limits(4096, 1)) for number in range(3)]
    with pytest.raises(RequestRejected) as caught:
        stock().check_free(limits(4096, 1), KEY, leases)
    assert refused(caught) == (ErrorCode.NO_CAPACITY, 409, None)


@pytest.mark.parametrize(
    ("wanted", "picked"),
    [
        (None, ()),
        ((), ()),
        (("GPU-cc",), ("GPU-cc",)),
        ((2, 0), ("GPU-cc", "GPU-aa")),
        (DeviceSelector(count=1), ("GPU-aa",)),
        (DeviceSelector(count=2, model="h200"), ("GPU-aa", "GPU-bb")),
        (DeviceSelector(count=1, model="L4"), ("GPU-cc",)),
    ],
)
def test_devices_are_answered_as_exact_uuids(
    wanted: tuple[str | int, ...] | DeviceSelector | None, picked: tuple[str, ...]
) -> None:
    assert stock().pick_devices(wanted, []) == picked


@pytest.mark.parametrize(
    "wanted", [("GPU-xx",), (3,), (-1,), ("0",), DeviceSelector(count=4), DeviceSelector(count=2, model="L4")]
)
def test_unknown_device_is_refused_with_the_known_ones(wanted: tuple[str | int, ...] | DeviceSelector) -> None:
    with pytest.raises(RequestRejected) as caught:
        stock().pick_devices(wanted, [])
    assert refused(caught) == (ErrorCode.UNKNOWN_DEVICE, 422, "devices")
    assert "GPU-aa" in caught.value.hint


def test_device_on_a_host_without_any_is_refused_with_these_words() -> None:
    with pytest.raises(RequestRejected) as caught:
        stock(gpus=()).pick_devices(DeviceSelector(count=1), [])
    assert refused(caught) == (ErrorCode.UNKNOWN_DEVICE, 422, "devices")
    assert "this host has no GPU" in caught.value.hint


@pytest.mark.parametrize("wanted", [("GPU-aa", "GPU-aa"), ("GPU-aa", 0)])
def test_device_named_twice_is_refused(wanted: tuple[str | int, ...]) -> None:
    with pytest.raises(RequestRejected) as caught:
        stock().pick_devices(wanted, [])
    assert refused(caught)[::2] == (ErrorCode.INVALID_FIELD, "devices")


@pytest.mark.parametrize("wanted", [("GPU-aa",), DeviceSelector(count=2, model="H200")])
def test_leased_device_is_refused_for_now(wanted: tuple[str | int, ...] | DeviceSelector) -> None:
    with pytest.raises(RequestRejected) as caught:
        stock().pick_devices(wanted, [lease(1, devices=("GPU-aa",))])
    assert refused(caught) == (ErrorCode.NO_CAPACITY, 409, "devices")


def test_selector_passes_over_leased_devices() -> None:
    assert stock().pick_devices(DeviceSelector(count=1), [lease(1, devices=("GPU-aa",))]) == ("GPU-bb",)


def test_port_is_the_first_that_nobody_has() -> None:
    leases = [lease(0)]
    assert stock().pick_port(leases, ()) == 20_001
    assert stock().pick_port(leases, {20_001}) == 20_002
    with pytest.raises(RequestRejected) as caught:
        stock().pick_port(leases, {20_001, 20_002})
    assert refused(caught) == (ErrorCode.NO_CAPACITY, 409, None)


def test_refused_ports_are_left_behind_further_and_further() -> None:
    """Another node with the same block holds its first 90 ports: the one of us that comes second still finds one."""
    held = range(20_000, 20_090)
    block = stock(ssh_ports=range(20_000, 20_100))
    refused_ports: set[int] = set()
    while (port := block.pick_port([], refused_ports)) in held:
        refused_ports.add(port)
    assert len(refused_ports) < PORT_ATTEMPTS


def test_free_is_what_is_left() -> None:
    free = stock().free([lease(1, limits=limits(), devices=("GPU-bb",))])
    assert (free.memory_bytes, free.cpu_milli, free.devices, free.leases_count) == (
        3 << 30,
        3000,
        ("GPU-aa", "GPU-cc"),
        2,
    )
