"""Raises what one tenant could use up for the whole host, now and for every later start of the machine.

Rules:
- Only what changes nothing for other programs of the machine is raised (`Setting.is_set_up`), and nothing is ever lowered.
  The others are the operator's to set; `doctor` names them.
- A kernel that refuses (a machine inside a container, say) stops no set-up: `doctor` goes on naming what is missing.
"""

from __future__ import annotations

from pathlib import Path

from neurons.setup.checks.kernel import Setting, low_settings, measure_settings
from neurons.setup.errors import SetupError
from neurons.setup.progress import ALREADY_THERE
from neurons.setup.shell import as_root, run

FILE = Path("/etc/sysctl.d/60-polarise.conf")
HEADING = (
    "# Written by `python main.py setup` of Polarise: what tenants of containers must not be able to use up or read."
)


def raise_settings() -> str:
    """Set what is too low, now and in a file of `/etc/sysctl.d`.

    Returns:
        The result line of the step.
    """
    low = _low()
    if not low:
        return ALREADY_THERE
    try:
        script = as_root(["sh", "-e", "-c", _SCRIPT, "sh", str(FILE), file_text(low)], "set what tenants must not use")
    except SetupError as error:
        return f"left alone: {error.problem}"
    outcome = run(script)
    if _low():
        return f"not set, see `python main.py doctor`: {outcome.tail(1)}"
    return f"raised {', '.join(setting.name for setting in low)}"


def file_text(settings: list[Setting]) -> str:
    """Return the lines that `sysctl` reads."""
    return "\n".join([HEADING, *(f"{setting.name} = {setting.least}" for setting in settings)]) + "\n"


def _low() -> list[Setting]:
    return [setting for setting in low_settings(measure_settings()) if setting.is_set_up]


# A file of an older run stays in force beside the new lines; the last one of a name counts.
_SCRIPT = 'mkdir -p "$(dirname "$1")"; printf "%s" "$2" >> "$1"; sysctl -q -p "$1"'
