"""A small part of `make test-security`: the probes in real leases of both isolations, and the page that shows them."""

import pytest

from tests.security import probes
from tests.security.attacks import ATTACKS
from tests.security.probes import MEANT, SUCCEEDED, counting, holes, names
from tests.security.run import run
from tests.security.table import written_names


@pytest.mark.docker
@pytest.mark.lab
@pytest.mark.compiler
@pytest.mark.slow
def test_what_the_control_can_do_no_lease_can_but_for_what_is_meant() -> None:
    found = run(probes_only=True).probes
    control = found["control"]
    # Were the control weak, everything would look stopped.
    assert {"mount_tmpfs", "new_user_namespace", "io_uring", "load_bpf", *MEANT} <= set(counting(control))
    assert holes(control, found["standard"]) == []
    assert holes(control, found["strict"]) == []
    assert {name for name in MEANT if found["strict"][name] == SUCCEEDED} == {"route_netlink", "trace_own_child"}
    # Docker's own profile is the worse one, or we could take it.
    assert set(holes(control, found["default"])) >= {"vsock_socket", "raw_socket", "make_block_device"}


def test_page_names_the_probes_and_attacks_of_the_code() -> None:
    written_probes, written_attacks = written_names()
    assert written_probes == set(names())
    assert written_attacks == set(ATTACKS)


def test_hole_is_what_counts_and_is_not_meant() -> None:
    control = {"a": SUCCEEDED, "b": "stopped ENOSYS", "change_root": SUCCEEDED}
    assert holes(control, {"a": SUCCEEDED, "b": SUCCEEDED, "change_root": SUCCEEDED}) == ["a"]
    assert holes(control, {"a": "stopped EPERM", "b": SUCCEEDED, "change_root": "stopped EPERM"}) == []


def test_probes_that_broke_off_are_no_result() -> None:
    whole = "".join(f"{name} stopped EPERM\n" for name in names())
    assert set(probes.outcomes(whole).values()) == {"stopped EPERM"}
    with pytest.raises(ValueError, match="broke off after"):
        probes.outcomes(whole.rpartition("\n")[0].rpartition("\n")[0])
