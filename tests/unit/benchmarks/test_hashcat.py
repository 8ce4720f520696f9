"""What the comparison with hashcat reads of it, and what it says where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.hashcat import parse_speed

ROOT = Path(__file__).parents[3]
# hashcat 6.2.6 with pocl, as it came.
SAID = """\
# version: v6.2.6
# option: --opencl-device-types=1
# option: --optimized-kernel-enable
1:1400:4294967295:4294967295:26.89:119763920
"""


def test_speed_is_that_of_all_devices() -> None:
    assert parse_speed(SAID) == 119_763_920
    assert parse_speed(SAID + "2:1400:1980:2619:26.89:80\n") == 119_764_000


def test_no_speed_is_no_number() -> None:
    assert parse_speed("# version: v6.2.6\nATTENTION! No OpenCL, Metal, HIP or CUDA installation found.\n") is None


def test_without_hashcat_it_says_what_to_install_and_ends_with_status_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.hashcat"],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "apt-get install hashcat pocl-opencl-icd" in done.stderr
