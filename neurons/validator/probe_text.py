"""The program that an inspection sends into a container: the files it is kept in, as one text for python3's stdin."""

from __future__ import annotations

from importlib import resources

_FUTURE = "from __future__ import annotations\n"
_JOINED = "from neurons.validator.gpu_probe import look_at_gpu\n"


def probe_text() -> str:
    """Return `gpu_probe` and `probe` as one program, in which neither imports the other."""
    gpu, rest = (
        resources.files("neurons.validator").joinpath(name).read_text(encoding="utf-8")
        for name in ("gpu_probe.py", "probe.py")
    )
    if _JOINED not in rest:
        raise ValueError("probe.py no longer imports gpu_probe in the line that is left out")
    return gpu + rest.replace(_FUTURE, "").replace(_JOINED, "")
