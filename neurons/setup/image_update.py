"""The base image built anew under the same name, so that new leases get today's security updates.

Rules:
- The new image is built beside the old one and proved by a login; only then the name goes to it, in one step of the engine.
  Whatever fails before leaves the old one in place.
- A container keeps the image it was made from. An image without a name goes once no container is made from it.
- Equal content is no update: what counts are the hashes of the layers, not the engine's id, which holds the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from neurons.setup.checkout import Checkout
from neurons.setup.engine import docker, engine_version
from neurons.setup.errors import SetupError
from neurons.setup.image import LABEL, build_image, built_unix_seconds, image_id, layers
from neurons.setup.preflight import log_in, write_login
from neurons.setup.progress import Progress
from neurons.setup.shell import run

DAY_SECONDS = 86_400

Build = Callable[[Progress, str], None]


def describe(reference: str) -> str:
    """Return name, id, content and age of an image.

    Raises:
        SetupError: The engine does not hold it.
    """
    content = layers(reference)
    built = built_unix_seconds(reference) or 0.0
    day = datetime.fromtimestamp(built, UTC).date().isoformat()
    days = int((time.time() - built) // DAY_SECONDS)
    return f"name    {reference}\nid      {image_id(reference)}\ncontent {content}\nbuilt   {day}, {days} days ago"


def update(checkout: Checkout, reference: str, progress: Progress, *, build: Build = build_image) -> str:
    """Build the image anew and put it in place.

    Args:
        checkout: Holds the stamp of the newest login.
        reference: The image's name.
        progress: Three steps.
        build: Makes an image of a given name.

    Returns:
        What became of it, as one sentence.

    Raises:
        SetupError: The build or the login failed; the image is the one it was.
    """
    before = image_id(reference)
    candidate = f"{reference}-next"
    try:
        progress.begin("build")
        build(progress, candidate)
        progress.end(f"built {layers(candidate)[:19]}")
        if before is not None and layers(candidate) == layers(reference):
            return f"nothing new: {reference} holds what the archive has today"
        progress.begin("ssh login")
        login = log_in(_identity(candidate), engine_version() or "unknown")
        progress.end(f"worked in {login.seconds:.1f} s: {login.banner}")
        progress.begin("put in place")
        _docker(["tag", candidate, reference])
        write_login(checkout, login)
    finally:
        run(docker(["image", "rm", candidate]))
    left = remove_unnamed()
    progress.end(f"{reference} is {login.image_id.removeprefix('sha256:')[:12]}")
    kept = f"; {left} older one(s) stay until their containers end" if left else ""
    return f"updated: new leases get {login.image_id}{kept}"


def build_twice(reference: str, progress: Progress, *, build: Build = build_image) -> tuple[str, str]:
    """Build the image twice and return the hashes of both contents; neither build stays.

    Raises:
        SetupError: A build failed.
    """
    found: list[str] = []
    for name in (f"{reference}-first", f"{reference}-second"):
        progress.begin(name.rpartition("-")[2])
        try:
            build(progress, name)
            found.append(layers(name))
        finally:
            run(docker(["image", "rm", name]))
        progress.end(found[-1])
    return found[0], found[1]


def remove_unnamed() -> int:
    """Remove images of ours whose name went to a newer one, and return how many a container still needs."""
    listed = run(
        docker(["image", "ls", "--quiet", "--no-trunc", "--filter", f"label={LABEL}", "--filter", "dangling=true"])
    )
    identities = dict.fromkeys(listed.output.split())
    # Without force: the engine refuses while a container, running or not, is made from it.
    return sum(not run(docker(["image", "rm", identity])).ok for identity in identities)


def _identity(reference: str) -> str:
    identity = image_id(reference)
    if identity is None:
        raise SetupError(f"the engine holds no image {reference}, though it was just built", "is its disk full?")
    return identity


def _docker(arguments: list[str]) -> None:
    outcome = run(docker(arguments))
    if not outcome.ok:
        raise SetupError(f"docker {arguments[0]} failed:\n{outcome.tail(3)}", "see `docker info`")
