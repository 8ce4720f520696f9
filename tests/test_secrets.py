"""No secret of a whole market is found outside its own file: not in a log, a database, a process, an answer, a container.

The demo runs as it is, in a process of its own. Beside it a renter takes a token and a lease with a password. Everything either
of them makes is collected while it runs and behind it, and looked through for every secret there was.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import sqlite3
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from config.loader import CHECKOUT
from config.schema import Config
from neurons.miner.settings import base_image
from polarise.keyfile import load_key_file
from polarise.signing import Identity, Purpose
from tests.support.http import send
from tests.support.secrets import Secret, Watch, files_below, leaks

SECONDS = 270
NODES = ("ledger", "miner", "validator")
# The image is unpacked there, and the container's programs lie in these; none of it is made by this run. What a lease's disk
# holds is read where it is mounted.
WITHOUT = ("disk.ext4", "images", "usr", "lib", "lib64", "bin", "sbin", "proc", "sys", "dev")


def test_a_secret_is_found_wherever_and_however_it_was_left(tmp_path: Path) -> None:
    """What looks is worth nothing unless it finds: one secret in each kind of place, in each form."""
    secret = Secret("seed", secrets.token_bytes(32), homes=("own.key",))
    with contextlib.closing(sqlite3.connect(tmp_path / "a.sqlite")) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA wal_autocheckpoint = 0")
        database.execute("CREATE TABLE t (value BLOB)")
        database.execute("INSERT INTO t VALUES (?)", (secret.value,))
        database.commit()
        (tmp_path / "own.key").write_bytes(secret.value)
        for number, form in enumerate(sorted(secret.forms())):
            (tmp_path / f"{number}.log").write_bytes(b"before" + form + b"behind")
        found = leaks([secret], files_below(tmp_path))
    assert len(found) == len(secret.forms()) + 1
    assert any(place.endswith("-wal") for place in found)
    assert not any(place.endswith("own.key") for place in found)
    assert leaks([Secret("other", secrets.token_bytes(32))], files_below(tmp_path)) == []


@pytest.mark.parametrize("lead", [b"", b"a", b"ab", b"abc"])
@pytest.mark.parametrize("tail", [b"", b"x", b"xy", b"xyz"])
def test_a_secret_inside_something_longer_is_found_in_its_base64(lead: bytes, tail: bytes) -> None:
    secret = Secret("seed", secrets.token_bytes(32))
    whole = lead + secret.value + tail
    for written in (base64.b64encode(whole), base64.urlsafe_b64encode(whole)):
        assert leaks([secret], {"answer": written}) == ["seed in answer"]


def test_a_secret_in_a_process_is_found() -> None:
    """By its environment, and by its command line; the process lives a moment only."""
    secret = Secret("password", secrets.token_urlsafe(18).encode())
    text = secret.value.decode()
    program = [sys.executable, "-c", "import time; time.sleep(1)"]
    with Watch() as watch:
        named = subprocess.Popen([*program, text])
        quiet = subprocess.Popen(program, env={**os.environ, "PASSWORD": text})
        for process in (named, quiet):
            process.wait()
    found = leaks([secret], watch.places)
    assert found == sorted(
        [f"password in cmdline of process {named.pid}", f"password in environ of process {quiet.pid}"]
    )


@dataclass
class Run:
    """What one demo made.

    Attributes:
        folder: All that it kept.
        secrets: Everything that nobody else may have.
        places: Where that was looked for.
        modes: Permissions of the files that hold secrets, while they were there.
        status: How the demo ended.
    """

    folder: Path
    secrets: list[Secret] = field(default_factory=list)
    places: dict[str, bytes] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    status: int | None = None

    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("POLARISE_")}
        return {
            **kept,
            "POLARISE_PASSPHRASE_FILE": str(self.folder / "passphrase"),
            "POLARISE_RENTER_KEY": str(self.folder / "renter.key"),
            "POLARISE_STATE_DIR": str(self.folder / "renter"),
        }

    def add(self, name: str, value: bytes, *homes: str) -> None:
        if value not in {secret.value for secret in self.secrets}:
            self.secrets.append(Secret(name, value, homes))

    def renter(self, *arguments: str) -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, "main.py", "renter", *arguments, "-o", "json"],
            cwd=CHECKOUT,
            env=self.environ(),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        self.places[f"stderr of renter {arguments[0]}"] = done.stderr
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict)
        return answer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    base = tmp_path_factory.mktemp("secrets")
    made = Run(base / "kept")
    command = [
        sys.executable,
        "main.py",
        "demo",
        "--once",
        "--keep",
        str(made.folder),
        "--json",
        str(base / "demo.json"),
    ]
    with (
        Watch() as watch,
        (base / "stderr").open("wb") as stderr,
        subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=stderr, env=made.environ()) as demo,
    ):
        timer = threading.Timer(SECONDS, demo.terminate)
        timer.start()
        try:
            _follow(demo, made)
            made.status = demo.wait()
        finally:
            timer.cancel()
            demo.terminate()
    made.places.update(watch.places)
    made.places.update(files_below(base, without=WITHOUT))
    _learn_keys(made)
    return made


def _follow(demo: subprocess.Popen[bytes], made: Run) -> None:
    """Read what the demo tells, and do beside it what it does not: a token, a password, every answer there is."""
    assert demo.stdout is not None
    told = b""
    urls: dict[str, str] = {}
    with _looking(made):
        for line in demo.stdout:
            told += line
            for name in NODES:
                if found := re.search(rf"{name} up at (http://[0-9.:]+)".encode(), line):
                    urls[name] = found[1].decode()
                    if name == "miner":
                        _rent(made, urls[name])
            if b"recorded:" in line:
                _ask_everything(made, urls)
    made.places["stdout of the demo"] = told


def _rent(made: Run, url: str) -> None:
    token = str(made.renter("token", "--miner", url)["token"])
    made.add("bearer token", token.encode())
    lease = made.renter("allocate", "--miner", url, "--memory", "128m", "--cpus", "0.1", "--password")
    made.add("ssh password", str(lease["ssh_password"]).encode())
    headers = {"Authorization": f"Bearer {token}"}
    identifier = str(lease["container_id"])
    for target in (
        "/containers",
        f"/containers/{identifier}",
        f"/containers/{identifier}/usage",
        "/status",
        "/metrics",
    ):
        made.places[f"GET {target}"] = send(url, "GET", target, headers=headers).body
    _look_at_containers(made)
    made.places.update(files_below(made.folder, without=WITHOUT))
    made.renter("release", identifier[:12])


def _ask_everything(made: Run, urls: dict[str, str]) -> None:
    validator = urls["validator"]
    targets = {
        "validator": ["/status", "/scores", "/miners", "/epochs", "/", "/metrics", "/openapi"],
        "ledger": ["/status", "/leaves?from=0&limit=100", "/blocks?from=0&limit=100", "/genesis", "/metrics"],
        "miner": ["/status", "/healthz", "/readyz", "/containers", "/openapi"],
    }
    scores = send(validator, "GET", "/scores").body
    targets["validator"] += [
        f"/evidence/{name}" for name in set(re.findall(r'"evidence":\s*"([0-9a-f]{64})"', scores.decode()))
    ]
    for name, paths in targets.items():
        for path in paths:
            answer = send(urls[name], "GET", path)
            made.places[f"GET {path} of the {name}"] = answer.body + json.dumps(dict(answer.headers)).encode()


@contextlib.contextmanager
def _looking(made: Run) -> Iterator[None]:
    """Collect the keys that are there for the time of a lease only, and what the engine says of the containers meanwhile."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.2):
            _learn_ssh_keys(made)

    thread = threading.Thread(target=look, name="keys")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _learn_ssh_keys(made: Run) -> None:
    for path in (
        *made.folder.glob("miner/leases/*/ssh/host_key"),
        *made.folder.glob("renter/**/id_*"),
        *made.folder.glob("renter/**/*key*"),
    ):
        with contextlib.suppress(OSError, ValueError):
            if path.suffix == ".pub" or not path.is_file():
                continue
            key = load_ssh_private_key(path.read_bytes(), None)
            assert isinstance(key, Ed25519PrivateKey)
            made.modes[str(path)] = path.stat().st_mode & 0o777
            made.add(f"ssh key {path.parent.name}/{path.name}", key.private_bytes_raw(), f"/{path.name}")


def _look_at_containers(made: Run) -> None:
    client = docker.from_env()
    with contextlib.closing(client):
        node = made.folder / "miner" / "keys" / "node.key"
        label = json.loads(node.read_text())["header"]["public_key"][:12]
        for container in client.containers.list(all=True, filters={"label": f"polarise.node={label}"}):
            with contextlib.suppress(docker.errors.NotFound):
                made.places[f"inspect of {container.name}"] = json.dumps(container.attrs).encode()
                made.places[f"log of {container.name}"] = container.logs()
                made.places[f"top of {container.name}"] = json.dumps(container.top()).encode()


def _learn_keys(made: Run) -> None:
    passphrase = (made.folder / "passphrase").read_bytes().strip()
    made.add("passphrase", passphrase, "/passphrase")
    for path in (
        made.folder / "owner.key",
        made.folder / "renter.key",
        *(made.folder / n / "keys" / "node.key" for n in NODES),
    ):
        identity = load_key_file(path, passphrase)
        made.modes[str(path)] = path.stat().st_mode & 0o777
        for name, seed in _seeds(identity):
            made.add(f"{name} of {path.relative_to(made.folder)}", seed)
    for node in NODES:
        path = made.folder / node / "keys" / "token-secrets"
        made.modes[str(path)] = path.stat().st_mode & 0o777
        for line in path.read_bytes().split():
            made.add(f"token secret of the {node}", line, f"{node}/keys/token-secrets")


def _seeds(identity: Identity) -> Iterator[tuple[str, bytes]]:
    yield "seed", identity.key.private.private_bytes_raw()
    for purpose in Purpose:
        yield f"{purpose} subkey", identity.subkey(purpose).key.private.private_bytes_raw()


@pytest.mark.docker
@pytest.mark.e2e
@pytest.mark.slow
class TestDemo:
    """One run of the demo, looked at from all sides."""

    def test_the_run_was_a_whole_one(self, run: Run) -> None:
        assert run.status == 0, run.places["stdout of the demo"].decode()
        kinds = " ".join(secret.name for secret in run.secrets)
        for kind in ("seed of", "log subkey", "passphrase", "token secret", "bearer token", "ssh password", "ssh key"):
            assert kind in kinds
        places = " ".join(run.places)
        for place in (
            "miner.log",
            "journal.sqlite",
            "scores.sqlite",
            "evidence/",
            "ledger.sqlite",
            "demo.json",
            "environ of",
        ):
            assert place in places
        assert any(place.startswith("inspect of") for place in run.places)

    def test_no_secret_is_found_outside_its_own_file(self, run: Run) -> None:
        assert leaks(run.secrets, run.places) == []

    def test_a_secret_that_had_leaked_would_be_found(self, run: Run) -> None:
        """In each of the places of this very run."""
        secret = run.secrets[0]
        for place, content in list(run.places.items())[::50]:
            assert leaks([secret], {place: content + secret.value.hex().encode()}) == [f"{secret.name} in {place}"]

    def test_files_with_secrets_are_read_by_their_owner_only(self, run: Run) -> None:
        assert {path: oct(mode) for path, mode in run.modes.items() if mode & 0o077} == {}
        for name in ("", *NODES, *(f"{node}/keys" for node in NODES)):
            assert (run.folder / name).stat().st_mode & 0o077 == 0, name


@pytest.mark.docker
def test_the_base_image_holds_no_private_key(tmp_path: Path) -> None:
    """A host key in the image would be every container's."""
    client = docker.from_env()
    with contextlib.closing(client), (tmp_path / "image.tar").open("wb") as saved:
        for chunk in client.images.get(base_image(Config())).save():
            saved.write(chunk)
    looked_at = 0
    with tarfile.open(tmp_path / "image.tar") as image:
        for layer in (member for member in image if member.isfile() and member.size > 1 << 20):
            content = image.extractfile(layer)
            assert content is not None
            with content, tarfile.open(fileobj=content) as files:
                for member in (member for member in files if member.isfile()):
                    looked_at += 1
                    assert not re.search(r"etc/ssh/ssh_host_|/\.ssh/", member.name), member.name
                    part = files.extractfile(member)
                    assert part is not None
                    with part:
                        assert not re.match(rb"\s*-----BEGIN [A-Z ]*PRIVATE KEY", part.read(64)), member.name
    assert looked_at > 1000
