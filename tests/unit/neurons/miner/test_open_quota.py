"""What free keys may hold together: each bound obeyed at its last unit and broken by the next."""

import pytest

from neurons.miner.firewall_rules import PRIVATE_NETWORKS_MAX
from neurons.miner.lease import Lease, PrivatePlace
from neurons.miner.open_quota import OpenQuota
from polarise.errors import ErrorCode, RequestRejected
from tests.support.leases import lease
from tests.unit.neurons.miner.test_inventory import limits, stock

LISTED = "11" * 32
HERE, THERE = "198.51.100.1", "198.51.100.2"


def free(number: int, memory: int = 1 << 20, cpu: int = 10, *, disk: int = 0, **changes: object) -> Lease:
    """A lease of a key of its own, on no list."""
    wanted = limits(memory, cpu).model_copy(update={"disk_bytes": disk or None})
    return lease(number, **{"renter_key": f"{number:064x}", "limits": wanted, **changes})


def quota(share: float = 0.5, per_address: int = 2) -> OpenQuota:
    return OpenQuota(share, per_address, lambda key: key == LISTED)


def refusal(wanted: Lease, leases: list[Lease], *, bound: OpenQuota | None = None) -> tuple[ErrorCode, int, str | None]:
    with pytest.raises(RequestRejected) as caught:
        (bound or quota()).check(wanted, leases, stock(leases_max=20, disk_capacity=lambda: 1 << 30))
    assert "access.renters" in caught.value.hint or "ask the owner" in caught.value.hint
    return caught.value.code, caught.value.status, caught.value.field


def accepted(wanted: Lease, leases: list[Lease]) -> None:
    quota().check(wanted, leases, stock(leases_max=20, disk_capacity=lambda: 1 << 30))


@pytest.mark.parametrize(
    ("last", "one_more", "field"),
    [
        (free(2, memory=1 << 30), free(2, memory=(1 << 30) + 1), "memory"),
        (free(2, cpu=1000), free(2, cpu=1001), "cpu_count"),
        (free(2, disk=1 << 28), free(2, disk=(1 << 28) + 1), "disk"),
        (free(2, devices=("GPU-bb",)), free(2, devices=("GPU-bb", "GPU-cc")), "devices"),
    ],
)
def test_free_keys_share_a_part_of_the_host(last: Lease, one_more: Lease, field: str) -> None:
    """Half of 4 GiB, 4 CPUs, 1 GiB of disk and, rounded up, three GPUs; half of these halves is taken."""
    taken = [free(1, memory=1 << 30, cpu=1000, disk=1 << 28, devices=("GPU-aa",))]
    accepted(last, taken)
    assert refusal(one_more, taken) == (ErrorCode.NO_CAPACITY, 409, field)


def test_leases_of_free_keys_are_bounded_however_small() -> None:
    accepted(free(99), [free(number) for number in range(9)])
    assert refusal(free(99), [free(number) for number in range(10)]) == (ErrorCode.NO_CAPACITY, 409, None)


def test_private_networks_of_free_keys_leave_the_others_to_those_on_a_list() -> None:
    """A node has 32. On one with many leases free keys could otherwise hold every one of them, with one lease each."""
    large = stock(leases_max=90)
    taken = [free(n, private=PrivatePlace("a", n, 0)) for n in range(PRIVATE_NETWORKS_MAX // 2)]
    last, one_more = taken.pop(), free(99, private=PrivatePlace("a", PRIVATE_NETWORKS_MAX // 2, 0))
    quota().check(last, taken, large)
    taken.append(last)
    quota().check(free(98, private=PrivatePlace("a", 0, 1)), taken, large)
    with pytest.raises(RequestRejected, match="16 private networks") as caught:
        quota().check(one_more, taken, large)
    assert (caught.value.code, caught.value.field) == (ErrorCode.NO_CAPACITY, "private_network")


def test_one_address_has_so_many_however_many_keys() -> None:
    from_here = [free(1, address=HERE)]
    accepted(free(9, address=HERE), from_here)
    from_here.append(free(2, address=HERE))
    assert refusal(free(9, address=HERE), from_here) == (ErrorCode.TOO_MANY_REQUESTS, 429, None)
    accepted(free(9, address=THERE), from_here)
    accepted(free(9, address=None), from_here)


def test_listed_keys_and_warm_slots_neither_count_nor_are_bound() -> None:
    big = [lease(1, renter_key=LISTED, limits=limits(3 << 30, 3000)), free(2, memory=3 << 30, nonce="")]
    accepted(free(3, memory=2 << 30, cpu=2000), big)
    accepted(lease(4, renter_key=LISTED, limits=limits(4 << 30, 4000)), [free(5, memory=2 << 30)])


def test_host_of_one_gpu_and_one_lease_lends_both() -> None:
    small = stock(leases_max=1, gpus=stock().gpus[:1])
    quota(share=0.01).check(free(1, devices=("GPU-aa",), memory=1, cpu=1), [], small)
