"""A renter's hour, by the commands of the README and OpenSSH's own programs: copy, install, train, rotate, renew, release."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neurons.miner.node import MinerNode
from neurons.renter.command import add_parser
from polarise.keyfile import KeyKind, create_key_file
from polarise.receipt import Receipt
from polarise.signing import Identity
from polarise.statement import SignedStatement
from polarise.telemetry_client import TelemetryClient
from tests.support.identities import People
from tests.support.miners import RunningMiner, can_connect, miner_config, running, wait_until

pytestmark = [pytest.mark.docker, pytest.mark.slow]

TRAIN = """\
import pathlib, subprocess, sys, time
weight = 0.0
for epoch in range(4):
    weight += (1.0 - weight) / 2
    line = '{"epoch": %d, "weight": %r}' % (epoch, weight)
    subprocess.run([sys.executable, "/run/polarise/events.py", "emit", "training.epoch", line], check=True)
    time.sleep(0.3)
pathlib.Path("/root/out").mkdir()
pathlib.Path("/root/out/weight.txt").write_text(str(weight))
"""
FILE_BYTES = 3 << 20

Renter = Callable[..., dict[str, object]]


@pytest.fixture(scope="module")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("renter")
    (folder / "passphrase").write_text("secret\n")
    (folder / "passphrase").chmod(0o600)
    return folder


@pytest.fixture(scope="module")
def identity(key_files: Path) -> Identity:
    return create_key_file(key_files / "renter.key", KeyKind.RENTER, b"secret")


@pytest.fixture(scope="module", name="miner")
def miner_that_knows_the_renter(
    people: People, node_identity: Identity, identity: Identity, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningMiner]:
    access = {"renters": [identity.public_key]}
    config = miner_config(people, access=access, docker={"default_memory": "512m", "default_cpu_count": 1})
    with running(MinerNode(config, tmp_path_factory.mktemp("miner"), node_identity)) as miner:
        yield miner


@pytest.fixture
def renter(key_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Renter:
    """Run ``renter WORDS... -o json`` and return what it printed."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    own = ["--key", str(key_files / "renter.key"), "--passphrase-file", str(key_files / "passphrase")]

    def run(command: str, *words: str) -> dict[str, object]:
        state = ["--state-dir", str(tmp_path / "state")]
        args = parser.parse_args(
            ["renter", command, *own, *state, *words, *(() if "--print" in words else ("-o", "json"))]
        )
        assert args.handler(args) == 0
        printed = capsys.readouterr().out
        return {"printed": printed} if "--print" in words else json.loads(printed or "{}")

    return run


def run(*command: str, text: str | None = None, status: int = 0) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, f"{shlex.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_renters_hour(miner: RunningMiner, renter: Renter, identity: Identity, tmp_path: Path) -> None:
    rented = renter("allocate", "--miner", miner.url, "--ttl", "600")
    container = str(rented["container_id"])[:12]
    # What `renter ssh` would become: its options serve scp, sftp and rsync as well.
    ssh = shlex.split(str(renter("ssh", container, "--print")["printed"]))
    options, host = ssh[1:-1], ssh[-1]
    copying = [option for option in options if option not in {"-a", "-x"}]
    copying[copying.index("-p")] = "-P"

    data = tmp_path / "data.bin"
    data.write_bytes(bytes(range(256)) * (FILE_BYTES // 256))
    (tmp_path / "train.py").write_text(TRAIN)
    run("scp", "-q", *copying, str(data), f"{host}:/root/data.bin")
    run("sftp", "-q", *copying, "-b", "-", host, text=f"put {tmp_path / 'train.py'} /root/train.py\n")
    assert run(*ssh, "cat /root/data.bin | wc -c").strip() == str(FILE_BYTES)

    # The archive's lists, a program that the image has not, and what it says.
    run(*ssh, "apt-get update -qq && apt-get install -y -qq --no-install-recommends bc >/dev/null")
    assert run(*ssh, "echo 6*7 | bc").strip() == "42"

    # The training outlives the login that began it.
    run(*ssh, "nohup setsid python3 /root/train.py </dev/null >/root/train.log 2>&1 &")
    before = Path(options[options.index("-i") + 1]).read_text()
    renter("key", container)
    after = shlex.split(str(renter("ssh", container, "--print")["printed"]))
    old = tmp_path / "old"
    old.write_text(before)
    old.chmod(0o600)
    stale = [str(old) if word == options[options.index("-i") + 1] else word for word in ssh]
    run(*stale, "-o", "BatchMode=yes", "true", status=255)
    assert run(*after, "id -un").strip() == "root"

    expires = renter("renew", container, "--ttl", "900")["expires_at"]
    assert str(expires) > str(rented["expires_at"])

    wait_until(lambda: "1" in run(*after, "ls /root/out 2>/dev/null | wc -l"), 30, "the training did not end")
    shell = shlex.join(after[:-1])
    run("rsync", "-a", "-e", shell, f"{host}:/root/out/", str(tmp_path / "results"))
    assert (tmp_path / "results" / "weight.txt").read_text() == "0.9375"
    assert told(miner, identity, rented).count("training.epoch") == 4

    port = int(after[after.index("-p") + 1])
    renter("release", container)
    wait_until(lambda: not can_connect(port), 10, "the port still answers after the release")
    run(*after, "-o", "ConnectTimeout=5", "true", status=255)


def told(miner: RunningMiner, who: Identity, rented: dict[str, object]) -> list[str]:
    """Return the kinds of the lines in the lease's own log, as its renter reads them."""
    receipt = SignedStatement.model_validate_json(json.dumps(rented["receipt"])).open(
        "receipt", Receipt, signer=miner.key
    )
    lines = TelemetryClient(miner.url, miner.key, who).events(receipt.lease_id, 0).lines
    return [str(json.loads(line)["kind"]) for line in lines]
