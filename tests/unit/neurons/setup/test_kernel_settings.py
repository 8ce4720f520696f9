"""The kernel's settings: only what is too low is touched, and what is written is what `sysctl` reads."""

from __future__ import annotations

from neurons.setup.checks.kernel import WANTED, low_settings
from neurons.setup.kernel_settings import file_text


def test_only_what_is_too_low_is_touched() -> None:
    least = {setting.name: setting.least for setting in WANTED}
    assert low_settings(least) == []
    assert low_settings({name: value + 1 for name, value in least.items()}) == []
    assert low_settings({}) == [], "a part of the kernel that is not loaded has no settings"
    for setting in WANTED:
        assert low_settings({**least, setting.name: setting.least - 1}) == [setting]


def test_file_names_each_setting_once_under_who_wrote_it() -> None:
    heading, *lines = file_text(list(WANTED)).splitlines()
    assert heading.startswith("# Written by")
    assert lines == [f"{setting.name} = {setting.least}" for setting in WANTED]
