"""The base image, the ssh server inside it, and the login that proves both."""

from __future__ import annotations

from neurons.setup.check import Check, failure, met, warning
from neurons.setup.preflight import Login, is_current

AGE_DAYS_MAX = 30
DAY_SECONDS = 86_400


def check_image(reference: str, identity: str | None, age_seconds: float = 0) -> Check:
    """Judge whether the engine holds the image, and how old it is; `identity` is its id there, None without one."""
    if identity is None:
        cause = "not built, or built from an older recipe"
        return failure("base image", "not there", reference, cause, "make setup")
    days = int(age_seconds // DAY_SECONDS)
    measured = f"{identity.removeprefix('sha256:')[:12]}, {days} days old"
    if days > AGE_DAYS_MAX:
        cause = f"Debian's security updates of {days} days are not in it"
        return warning("base image", measured, reference, cause, "python main.py image update")
    return met("base image", measured, reference)


def check_login(login: Login | None, *, identity: str | None, engine: str, kernel: str) -> Check:
    """Judge the last throw-away login: it counts for the image, engine and kernel it was made with."""
    required = "worked with this image"
    fix = "python main.py doctor --deep"
    if login is None:
        return failure("ssh login", "never tried", required, "no login into a container was ever made", fix)
    measured = f"worked in {login.seconds:.1f} s"
    if identity is None or not is_current(login, identity, engine, kernel):
        cause = "image, engine or kernel changed since the last login"
        return failure("ssh login", f"{measured}, before a change", required, cause, fix)
    return met("ssh login", measured, required)


def check_deep_login(login: Login | None, problem: str) -> Check:
    """Judge a login made just now; `problem` says why there is none."""
    required = "works now"
    if login is None:
        return failure("ssh login", "failed", required, problem, "docs/troubleshooting.md, numbers 1 and 2")
    return met("ssh login", f"worked in {login.seconds:.1f} s", required)


def check_sshd(login: Login | None) -> Check:
    """Judge the ssh server inside the image by the banner of the last login."""
    required = "OpenSSH in the image"
    if login is None:
        fix = "make setup, then python main.py doctor --deep"
        return failure("sshd in the image", "unknown", required, "no login into a container was ever made", fix)
    if "OpenSSH" not in login.banner:
        cause = "another server answers; its options may not be honoured"
        return warning("sshd in the image", login.banner, required, cause, "use the image `make setup` builds")
    return met("sshd in the image", login.banner, required)
