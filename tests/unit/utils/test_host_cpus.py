"""Lists of CPUs as the kernel writes them."""

import pytest

from utils.host import cpu_numbers, cpus_online


def test_list_is_read() -> None:
    assert cpu_numbers("0-3,8\n") == {0, 1, 2, 3, 8}
    assert cpu_numbers("5") == {5}
    assert 0 in cpus_online()


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,", "-1", "0-3;4", "1-2-3", "0-100000", "\u0661"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a list of CPUs"):
        cpu_numbers(text)
