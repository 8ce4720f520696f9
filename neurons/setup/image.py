"""The base image of containers: a recipe, the name that follows from it, and how it is built without any registry.

Rules:
- The tag is a hash of the recipe, so another recipe is another image and a running miner never changes under its renters.
- The image holds no ssh host key: each lease gets its own. It has no command either: the miner says what runs.
- Two builds from the same archive are equal byte for byte: fixed times, no machine id, no logs, no apt lists.
- The trust root is the archive signature that apt checks.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from neurons.setup.engine import docker
from neurons.setup.errors import SetupError
from neurons.setup.progress import ALREADY_THERE, Progress
from neurons.setup.shell import as_root, find_program, run

REPOSITORY = "polarise/base"
# On every image that was built here, so that one whose name went to a newer build is found again.
LABEL = "polarise.image"
SUITE = "bookworm"
# 9 October 2025; also the moment before which no clock of ours can stand (see checks/machine.py).
SOURCE_DATE_EPOCH = 1_760_000_000
# python3-minimal runs the inspection inside (hashlib and socket are in it, json and ctypes are not); rsync because it must stand on both ends of a copy. No ca-certificates:
# nothing in here speaks TLS, and what a renter installs with apt brings them along. usr-is-merged stands in for usrmerge,
# which would keep 50 MB of perl that nothing else asks for.
INCLUDED = ("openssh-server", "python3-minimal", "rsync", "usr-is-merged")
# Run by a shell with the root of the image as $1, in this order.
HOOKS = (
    'chroot "$1" dpkg --purge usrmerge libfile-find-rule-perl libnumber-compare-perl libtext-glob-perl '
    "perl libperl5.36 perl-modules-5.36",
    'rm -f "$1"/etc/ssh/ssh_host_*',
    'for file in machine-id hostname resolv.conf; do : > "$1/etc/$file"; done; rm -f "$1"/var/lib/dbus/machine-id',
    'find "$1"/usr/share/doc -type f ! -name copyright -delete; rm -rf "$1"/usr/share/man/* "$1"/usr/share/info/*',
    'find "$1"/usr/share/locale -mindepth 1 -maxdepth 1 ! -name "en*" -exec rm -rf {} +',
    'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/var/cache/debconf/*-old; rm -f "$1"/etc/*-',
    'find "$1"/var/log -type f -delete',
)
BUILD_TIMEOUT_SECONDS = 1200.0
IMPORT_TIMEOUT_SECONDS = 300.0
_DIGEST_REFERENCE = re.compile(r"[a-z0-9][a-z0-9._/:-]*@sha256:[0-9a-f]{64}")
_SOURCE_LINE = re.compile(r"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s+(.+)$", re.MULTILINE)


def base_image_reference() -> str:
    """Return the name of the base image this checkout builds: the default of `docker.base_image`."""
    recipe = json.dumps([SUITE, SOURCE_DATE_EPOCH, INCLUDED, HOOKS], separators=(",", ":"))
    return f"{REPOSITORY}:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def image_id(reference: str) -> str | None:
    """Return the engine's id of an image (`sha256:` and 64 hex digits), or None when it does not hold it."""
    outcome = run(docker(["image", "inspect", "--format", "{{.Id}}", reference]))
    return outcome.output.strip() if outcome.ok else None


def built_unix_seconds(reference: str) -> float | None:
    """Return when an image was imported, or None when the engine does not hold it."""
    outcome = run(docker(["image", "inspect", "--format", "{{.Created}}", reference]))
    if not outcome.ok:
        return None
    # The engine writes nanoseconds and a Z, which older Pythons do not read.
    moment = re.sub(r"(\.\d{6})\d*Z$", r"\1+00:00", outcome.output.strip()).replace("Z", "+00:00")
    return datetime.fromisoformat(moment).timestamp()


def layers(reference: str) -> str:
    """Return what an image holds, as the hashes of its layers: equal for equal bytes, whenever they were imported.

    Raises:
        SetupError: The engine does not hold it.
    """
    outcome = run(docker(["image", "inspect", "--format", '{{join .RootFS.Layers " "}}', reference]))
    if not outcome.ok:
        raise SetupError(f"the engine holds no image {reference}", "run `make setup`")
    return outcome.output.strip()


def provide_image(progress: Progress, given: str | None) -> tuple[str, str]:
    """Build the base image, or fetch the one given by digest, unless the engine holds it.

    Args:
        progress: Shows the build.
        given: `REPOSITORY@sha256:...`, or None for our own recipe.

    Returns:
        The reference of the image, and the result line of the step.

    Raises:
        SetupError: `given` has no digest, cannot be pulled, or the build failed.
    """
    if given is None:
        reference = base_image_reference()
        if image_id(reference) is not None:
            return reference, f"{ALREADY_THERE}: {reference}"
        build_image(progress, reference)
        return reference, f"built {reference}"
    if _DIGEST_REFERENCE.fullmatch(given) is None:
        raise SetupError(f"--image {given}: an image is named by digest only", "write it as REPOSITORY@sha256:<64 hex>")
    if image_id(given) is not None:
        return given, f"{ALREADY_THERE}: {given}"
    outcome = progress.run(docker(["pull", "--quiet", given]), timeout_seconds=BUILD_TIMEOUT_SECONDS)
    if not outcome.ok:
        raise SetupError(f"could not pull {given}:\n{outcome.tail(3)}", "check the digest and the way to its registry")
    return given, f"pulled {given}"


def archive_lines(sources: Sequence[str], suite: str) -> list[str]:
    """Return the one-line apt sources of the suite, its updates and its security fixes that the host itself uses.

    Args:
        sources: The texts of the host's source files, one-line form and deb822 form alike.
        suite: `bookworm` and the like.

    Returns:
        `deb URI SUITE main` lines; empty when the host uses another release.
    """
    wanted = (suite, f"{suite}-updates", f"{suite}-security")
    found: dict[str, str] = {}
    for uri, name, components in (entry for text in sources for entry in _entries(text)):
        if name in wanted and "main" in components.split():
            found.setdefault(name, f"deb {uri} {name} main")
    return [found[name] for name in wanted if name in found] if suite in found else []


def _entries(text: str) -> list[tuple[str, str, str]]:
    """Return (URI, suite, components) of every binary source in one file."""
    entries = [(match[1], match[2], match[3]) for match in _SOURCE_LINE.finditer(text)]
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^(Types|URIs|Suites|Components|Enabled):[ \t]*(.*)$", stanza, re.MULTILINE))
        if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes").strip().lower() != "no":
            entries += [
                (uri, suite, fields.get("Components", ""))
                for uri in fields.get("URIs", "").split()
                for suite in fields.get("Suites", "").split()
            ]
    return entries


def host_sources() -> list[str]:
    """Return the texts of the host's apt source files; empty where there is no apt."""
    folder = Path("/etc/apt")
    files = [folder / "sources.list", *sorted(folder.glob("sources.list.d/*.list"))]
    files += sorted(folder.glob("sources.list.d/*.sources"))
    return [file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()]


def build_image(progress: Progress, reference: str) -> None:
    """Make the root as a tar file and hand it to the engine under this name; the folder it grew in goes in any case.

    Raises:
        SetupError: The build or the import failed; the engine holds what it held before.
    """
    sources = archive_lines(host_sources(), SUITE)
    progress.note(f"building {reference} as root: Debian {SUITE} with {', '.join(INCLUDED)}; no registry is asked")
    # Not /tmp, which may be small, in memory, or without devices.
    folder = Path(tempfile.mkdtemp(prefix="polarise-base-", dir="/var/tmp"))
    # apt drops to a user of its own inside, who must be able to walk through here.
    folder.chmod(0o755)
    try:
        tar = folder / "base.tar"
        command = _mmdebstrap(tar, sources) if find_program("mmdebstrap") else _debootstrap(folder, tar, sources)
        outcome = progress.run(as_root(command, "build the base image"), timeout_seconds=BUILD_TIMEOUT_SECONDS)
        if not outcome.ok:
            raise SetupError(f"could not build the base image:\n{outcome.tail()}", "does `apt-get update` work here?")
        outcome = progress.run(
            docker(["import", "--change", f"LABEL {LABEL}={REPOSITORY}", str(tar), reference]),
            timeout_seconds=IMPORT_TIMEOUT_SECONDS,
        )
        if not outcome.ok:
            raise SetupError(f"docker import failed:\n{outcome.tail()}", "is the disk of Docker's data folder full?")
    finally:
        run(as_root(["rm", "-rf", "--one-file-system", str(folder)], "remove the build folder"))


def _mmdebstrap(tar: Path, sources: list[str]) -> list[str]:
    hooks = [f"--customize-hook={hook}" for hook in HOOKS]
    options = ["--mode=root", "--variant=minbase", f"--include={','.join(INCLUDED)}", *hooks]
    settings = [f"SOURCE_DATE_EPOCH={SOURCE_DATE_EPOCH}", f"TMPDIR={tar.parent}"]
    return ["env", *settings, "mmdebstrap", *options, SUITE, str(tar), *sources]


def _debootstrap(folder: Path, tar: Path, sources: list[str]) -> list[str]:
    """The same recipe with the older tool; its mirror is the host's main archive, without the two others."""
    mirror = [sources[0].split()[1]] if sources else []
    root = folder / "root"
    steps = [
        f"debootstrap --variant=minbase --include={','.join(INCLUDED)} {SUITE} {root} {' '.join(mirror)}",
        *(f"sh -c '{hook}' sh {root}" for hook in HOOKS),
        f"tar --sort=name --mtime=@{SOURCE_DATE_EPOCH} --clamp-mtime --numeric-owner -C {root} -cf {tar} .",
    ]
    return ["sh", "-e", "-c", "\n".join(steps)]
