"""Private networks: whose a place is, how many there are, and who gets none."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from neurons.miner.admission import Admission
from neurons.miner.firewall import Firewall
from neurons.miner.firewall_rules import PRIVATE_NETWORKS_MAX, private_prefix
from neurons.miner.journal import Journal
from neurons.miner.lease import Lease, LeaseState, PrivatePlace
from neurons.miner.network import NodeNetwork
from neurons.miner.private_network import MEMBERS_MAX, POOL, PrivateNetworks, choose_place, joined
from neurons.miner.slots import fitting
from polarise.decode import decode_model
from polarise.errors import ErrorCode, RequestRejected
from polarise.messages import AllocateRequest
from tests.support import disks
from tests.support.engine import DEAD_ENGINE
from tests.support.leases import lease
from tests.unit.neurons.miner.test_running import DEFAULTS
from utils.docker_utils import connect

NODE = "0123456789ab"
MINE, OTHERS = "ab" * 32, "cd" * 32


def placed(number: int, renter: str, name: str, leases: Sequence[Lease] = ()) -> Lease:
    return lease(number, renter_key=renter, private=choose_place(name, renter, leases))


def test_same_renter_and_name_is_one_network_and_anything_else_another() -> None:
    leases: list[Lease] = []
    for number, (renter, name) in enumerate([(MINE, "a"), (MINE, "a"), (MINE, "b"), (OTHERS, "a"), (MINE, "a")]):
        leases.append(placed(number, renter, name, leases))
    places = [(row.private.number, row.private.member) for row in leases if row.private]
    assert places == [(0, 0), (0, 1), (1, 0), (2, 0), (0, 2)]


def test_place_of_a_lease_that_is_about_to_go_is_not_given_again_before_it_is_gone() -> None:
    going = lease(1, renter_key=MINE, state=LeaseState.DELETING, private=PrivatePlace("a", 0, 0, "10.202.0.2"))
    assert choose_place("a", MINE, [going]) == PrivatePlace("a", 0, 1)
    assert choose_place("a", OTHERS, [going]) == PrivatePlace("a", 1, 0)
    assert choose_place("a", MINE, []) == PrivatePlace("a", 0, 0)


def test_full_network_and_full_node_are_refused_by_name() -> None:
    full = [lease(n, renter_key=MINE, private=PrivatePlace("a", 0, n)) for n in range(MEMBERS_MAX)]
    assert choose_place("a", MINE, full[:-1]).member == MEMBERS_MAX - 1
    every = [lease(n, renter_key=MINE, private=PrivatePlace(f"n{n}", n, 0)) for n in range(PRIVATE_NETWORKS_MAX)]
    assert choose_place("new", MINE, every[:-1]).number == PRIVATE_NETWORKS_MAX - 1
    for name, leases in (("a", full), ("new", every)):
        with pytest.raises(RequestRejected) as caught:
            choose_place(name, MINE, leases)
        assert (caught.value.code, caught.value.status, caught.value.field) == (
            ErrorCode.NO_CAPACITY,
            409,
            "private_network",
        )
        assert caught.value.hint
    assert choose_place("n7", MINE, every) == PrivatePlace("n7", 7, 1)


def test_every_member_has_an_address_of_its_own_in_the_subnet() -> None:
    subnet = next(POOL.network.subnets(new_prefix=POOL.prefix))
    # The first is the engine's gateway, the last the broadcast.
    assert subnet.num_addresses - 2 == 2 + MEMBERS_MAX - 1


def test_names_fit_into_linux_and_hold_nothing_of_the_renters() -> None:
    networks = PrivateNetworks(NODE, None, tuple)
    assert networks.interface(PRIVATE_NETWORKS_MAX - 1) == f"{private_prefix(NODE)}031"
    assert len(networks.interface(0)) == 15
    assert networks.name(0) == f"polarise-{NODE}-p000"
    # Never the name or the interface of a port's bridge.
    bridge = NodeNetwork(NODE).bridge(0)
    assert (bridge.name, bridge.interface) != (networks.name(0), networks.interface(0))


@pytest.mark.parametrize("name", ["", "A", "-a", "a b", "a_b", "a" * 33, "a/b", "ä", "a\n"])
def test_names_that_are_no_names_are_refused(name: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        decode_model(AllocateRequest, AllocateRequest.model_construct(private_network=name).model_dump_json().encode())
    assert caught.value.field == "private_network"


@pytest.mark.parametrize("name", ["a", "0", "training-2", "a" * 32])
def test_short_plain_names_are_taken(name: str) -> None:
    assert AllocateRequest(private_network=name).private_network == name


def test_without_a_packet_filter_there_are_none_and_the_answer_says_why(tmp_path: Path) -> None:
    wall = Firewall(NODE, "off")
    wall.prepare()
    client = connect(DEAD_ENGINE)
    try:
        for firewall, cause in ((wall, "network.firewall is off"), (None, "no packet filter")):
            networks = PrivateNetworks(NODE, firewall, tuple)
            admission = Admission(DEFAULTS, disks.disk_offer(client, tmp_path, mode="none"), networks.why_none)
            assert admission.validate(AllocateRequest(), MINE).image == DEFAULTS.image
            with pytest.raises(RequestRejected, match=cause) as caught:
                admission.validate(AllocateRequest(private_network="a"), MINE)
            refused = caught.value
            assert (refused.code, refused.field, refused.status) == (ErrorCode.NOT_SUPPORTED, "private_network", 422)
            assert "network.firewall" in (refused.hint or "")
    finally:
        client.close()


def test_journal_keeps_the_place_and_knows_which_numbers_are_in_use(tmp_path: Path) -> None:
    place = PrivatePlace("a", 7, 3, "10.202.0.5")
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.reserve(lambda _rows: lease(1, private=place))
        journal.reserve(lambda _rows: lease(2))
        assert [row.private for row in journal.all()] == [place, None]
        assert journal.private_numbers() == {7}
        journal.forget(lease(1).lease_id, 0)
        assert journal.private_numbers() == set()


def test_lease_with_a_private_network_gets_no_warm_slot() -> None:
    """A slot's container may forward packets, which cannot be changed any more."""
    slot = lease(1, nonce="", container_id="ab" * 32)
    assert fitting(lease(2), [slot]) == slot
    assert fitting(lease(2, private=PrivatePlace("a", 0, 0)), [slot]) is None


def test_networks_of_a_container_are_read_as_the_engine_says_them() -> None:
    attrs = {"NetworkSettings": {"Networks": {"one": {"IPAddress": "10.202.0.2"}, "two": {}}}}
    assert joined(attrs) == {"one": "10.202.0.2", "two": ""}
    assert joined({"NetworkSettings": {"Networks": None}}) == {}
