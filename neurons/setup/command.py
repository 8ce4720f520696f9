"""The commands that need nothing installed: `main.py setup`, `main.py doctor` and `main.py image`.

Exit status: 0 done, or all that is required holds; 1 the doctor found a failure, or two builds differ; 2 the operator is
needed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from neurons.setup.check import Role
from neurons.setup.checkout import Checkout
from neurons.setup.doctor import Around, examine, is_healthy, render_table
from neurons.setup.engine import engine_version, start_engine
from neurons.setup.environment import build_venv, install_requirements
from neurons.setup.errors import SetupError
from neurons.setup.image import base_image_reference, provide_image
from neurons.setup.image_update import build_twice, describe, update
from neurons.setup.kernel_settings import raise_settings
from neurons.setup.packages import install_packages, packages_for
from neurons.setup.preflight import preflight
from neurons.setup.progress import ALREADY_THERE, Progress


def run_setup(argv: Sequence[str] | None = None) -> int:
    """Build what this machine lacks; says what it does and changes nothing that is already there."""
    options = setup_parser().parse_args(argv)
    progress = Progress(step_count=3 if options.no_engine else 7)
    try:
        _set_up(options, Checkout.here(), progress)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("setup: stopped; run it again to go on where it stopped", file=sys.stderr)
        return 130
    return 0


def run_doctor(argv: Sequence[str] | None = None) -> int:
    """Print what this machine has and lacks for a role; 0 when all that is required holds."""
    options = doctor_parser().parse_args(argv)
    role = Role(options.role)
    image = options.image or base_image_reference()
    around = Around(options.advertised, options.ledger)
    checks = examine(Checkout.here(), role, image=image, api_port=options.port, deep=options.deep, around=around)
    if options.json:
        print(json.dumps([check.as_json() for check in checks], indent=1))
    else:
        print(render_table(checks, role, colour=sys.stdout.isatty()))
    return 0 if is_healthy(checks) else 1


def run_image(argv: Sequence[str] | None = None) -> int:
    """Show the base image, build it anew, or build it twice and compare."""
    options = image_parser().parse_args(argv)
    reference = base_image_reference()
    try:
        if options.verb == "show":
            print(describe(reference))
        elif options.verb == "update":
            print(update(Checkout.here(), reference, Progress(step_count=3)))
        else:
            first, second = build_twice(reference, Progress(step_count=2))
            print(f"first   {first}\nsecond  {second}\n{'equal' if first == second else 'DIFFERENT'}")
            return 0 if first == second else 1
    except SetupError as error:
        print(f"image: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("image: stopped; the image is the one it was", file=sys.stderr)
        return 130
    return 0


def setup_parser() -> argparse.ArgumentParser:
    """Return the parser of `main.py setup`."""
    parser = argparse.ArgumentParser(prog="main.py setup", description="Build what a node needs; safe to repeat.")
    parser.add_argument("--no-engine", action="store_true", help="only .venv: for machines that validate or rent")
    parser.add_argument("--dev", action="store_true", help="also the tools of `make test` and `make lint`")
    parser.add_argument("--image", metavar="REPO@sha256:...", help="use this image instead of building one")
    parser.add_argument(
        "--keep-kernel-settings",
        action="store_true",
        help="raise no sysctl; `main.py doctor` says what tenants can do then",
    )
    parser.add_argument("--preflight", action="store_true", help="log in again even if a login is known to work")
    return parser


def doctor_parser() -> argparse.ArgumentParser:
    """Return the parser of `main.py doctor`."""
    parser = argparse.ArgumentParser(prog="main.py doctor", description="Say what this machine lacks, and the fix.")
    roles = [role.value for role in Role]
    parser.add_argument("--role", choices=roles, default=Role.MINER.value, help="what the machine shall do")
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    parser.add_argument("--deep", action="store_true", help="log into a throw-away container now")
    parser.add_argument("--image", metavar="REFERENCE", help="the image to look for (default: the one setup builds)")
    parser.add_argument(
        "--advertised",
        metavar="HOST:PORT",
        help="try the address that others reach the API by (with --deep from a container too)",
    )
    parser.add_argument("--ledger", metavar="URL", help="compare the clock with this ledger's")
    parser.add_argument("--port", type=int, default=8080, help="the miner's API port (default: %(default)s)")
    return parser


def image_parser() -> argparse.ArgumentParser:
    """Return the parser of `main.py image`."""
    parser = argparse.ArgumentParser(
        prog="main.py image",
        description="The image of containers that name none; running leases keep the one they have.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="{show,update,verify}", required=True)
    verbs.add_parser("show", help="name, id, hash of its content, and how old it is")
    verbs.add_parser("update", help="build it with today's security updates, log in once, then put it in place")
    verbs.add_parser("verify", help="build it twice and compare the two, byte for byte; nothing stays")
    return parser


def _set_up(options: argparse.Namespace, checkout: Checkout, progress: Progress) -> None:
    with_engine = not options.no_engine
    progress.begin("system packages")
    engine_answers = with_engine and engine_version() is not None
    packages = packages_for(with_engine=with_engine, builds_image=options.image is None, development=options.dev)
    progress.end(install_packages(progress, packages, engine_answers=engine_answers))
    progress.begin("virtual environment")
    progress.end(build_venv(checkout, progress))
    progress.begin("requirements")
    progress.end(install_requirements(checkout, progress, development=options.dev))
    if with_engine:
        _set_up_engine(options, checkout, progress)
    progress.finish("ready: `python main.py doctor` shows what was measured, `make demo` shows it at work")


def _set_up_engine(options: argparse.Namespace, checkout: Checkout, progress: Progress) -> None:
    progress.begin("Docker engine")
    progress.end(start_engine(progress))
    progress.begin("kernel settings")
    progress.end("left alone, as you said" if options.keep_kernel_settings else raise_settings())
    progress.begin("base image")
    reference, result = provide_image(progress, options.image)
    progress.end(result)
    progress.begin("ssh login")
    login, is_new = preflight(checkout, reference, force=options.preflight)
    progress.end(f"worked in {login.seconds:.1f} s: {login.banner}" if is_new else f"{ALREADY_THERE}: {login.banner}")
    if options.image:
        progress.note(f"to rent it out, set docker.base_image: {reference} in your configuration")


RUN = {"setup": run_setup, "doctor": run_doctor, "image": run_image}
