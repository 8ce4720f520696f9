"""What lies in netlink sockets, summed up as the kernel prints it; what becomes of it is in tests/integration/test_hostile_tenant.py."""

from __future__ import annotations

import pytest

from neurons.miner.netlink_watch import excess, held_bytes

HEAD = b"sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"


def socket_line(received: int, sent: int = 0) -> bytes:
    return (
        f"00000000d4db29ec 0   14356      00000000 {received:<8} {sent:<8} 0     2        0        9955040 \n".encode()
    )


@pytest.mark.parametrize(
    ("text", "held"),
    [
        (b"", 0),
        (HEAD, 0),
        (HEAD + socket_line(0) + socket_line(213_504, 8), 213_512),
        (HEAD + socket_line(1 << 33), 1 << 33),
        # A line that was cut off, before and in the middle of what counts.
        (HEAD + socket_line(5)[:-60] + b"\n" + socket_line(7), 7),
    ],
)
def test_sockets_are_summed_up(text: bytes, held: int) -> None:
    assert held_bytes(text) == held


def test_lease_may_hold_a_quarter_of_its_memory_and_not_a_byte_more() -> None:
    memory = 64 << 20
    assert excess(HEAD + socket_line(16 << 20), memory) is None
    assert excess(HEAD + socket_line(16 << 20, 1), memory) == "16777217 bytes lie in netlink sockets, 16777216 may"


def test_list_that_is_longer_than_any_honest_one_is_too_much_whatever_it_holds() -> None:
    line = socket_line(0)
    count = (1 << 20) // len(line)
    assert excess(HEAD + line * (count - 2), 64 << 20) is None
    assert "netlink sockets are open" in str(excess((HEAD + line * (count + 2))[: 1 << 20], 64 << 20))
