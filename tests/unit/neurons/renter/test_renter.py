"""A renter's command line against a small working miner."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from neurons.renter.leases import LeaseStore
from polarise.cli import main as verify_main
from polarise.decode import decode_model
from polarise.errors import ConfigError, ConnectionLost, RequestRejected, Unavailable
from polarise.rented import CONSENT_MS_MAX, open_consent
from polarise.ssh_keys import generate_key_pair
from polarise.statement import SignedStatement, sign_statement
from tests.support.usage import usage_of
from tests.unit.neurons.renter.conftest import Renter
from tests.unit.polarise.small_miner import SmallMiner, identity


def allocated(renter: Renter, miner: SmallMiner, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    """Allocate and return the printed JSON."""
    assert renter("allocate", "--miner", miner.endpoint, "-o", "json", *words) == 0
    shown: dict[str, object] = json.loads(capsys.readouterr().out)
    return shown


def test_allocate_keeps_key_receipt_and_host_key(
    renter: Renter, miner: SmallMiner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = allocated(renter, miner, capsys, "--memory", "2g", "--cpus", "2", "--ttl", "3600", "--device", "none")
    folder = tmp_path / "state" / "leases" / str(shown["container_id"])
    assert (folder / "known_hosts").read_text() == f"[127.0.0.1]:2222 {shown['host_key']}\n"
    assert (folder / "id_ed25519").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    lease = LeaseStore(tmp_path / "state").get(str(shown["container_id"])[:6])
    assert lease.receipt.ssh_port == 2222
    assert lease.miner.node_key == identity(1).public_key


def test_ps_renew_key_logs_release(
    renter: Renter, miner: SmallMiner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the first contact a lease knows its miner: no --miner is needed."""
    container_id = str(allocated(renter, miner, capsys)["container_id"])
    assert renter("ps") == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.startswith("CONTAINER")
    assert row.startswith(container_id[:12])
    assert header.index("STATUS") == row.index("ACTIVE")
    assert renter("ps", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["containers"][0]["container_id"] == container_id

    assert renter("renew", container_id[:8], "--ttl", "7200") == 0
    kept = LeaseStore(tmp_path / "state").get(container_id)
    assert kept.receipt.expires_unix_ms - kept.receipt.granted_unix_ms == 7_200_000

    old_pem = (kept.folder / "id_ed25519").read_text()
    old_line = miner.ssh_keys[container_id]
    assert renter("key", container_id) == 0
    assert miner.ssh_keys[container_id] != old_line
    assert (kept.folder / "id_ed25519").read_text() != old_pem
    assert not (kept.folder / "id_ed25519.new").exists()
    capsys.readouterr()

    assert renter("logs", container_id) == 0
    assert capsys.readouterr().out == "one\ntwo\n"

    assert renter("release", container_id) == 0
    assert miner.leases == {}
    assert not kept.folder.exists()


def test_receipts_are_countersigned_and_a_renewed_one_again(
    renter: Renter, miner: SmallMiner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    container_id = str(allocated(renter, miner, capsys)["container_id"])
    kept = tmp_path / "state" / "leases" / container_id / "receipt.json"
    for _ in range(2):
        digest = decode_model(SignedStatement, kept.read_bytes()).digest()
        assert miner.countersigned == {container_id: digest}
        assert renter("renew", container_id, "--ttl", "7200") == 0


def test_lease_without_countersignature_is_a_lease(
    renter: Renter, miner: SmallMiner, capsys: pytest.CaptureFixture[str]
) -> None:
    """A miner of an older version, or one that is slow: worth a line, and no more."""
    refusal = b'{"status": "failure", "code": "NOT_FOUND", "message": "no such route", "hint": ""}'
    assert renter("allocate", "--miner", miner.endpoint) == 0
    container_id = next(iter(miner.leases))
    miner.refuse[f"/containers/{container_id}/countersign"] = (404, {}, refusal)
    capsys.readouterr()
    assert renter("renew", container_id, "-o", "json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["container_id"] == container_id
    assert "not countersigned" in shown.err


def test_password_login_is_shown_once_and_not_kept(
    renter: Renter, miner: SmallMiner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert renter("allocate", "--miner", miner.endpoint, "--password") == 0
    assert "one-time (shown once)" in capsys.readouterr().out
    kept = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert all("one-time" not in path.read_text() for path in kept)
    container_id = next(iter(miner.leases))
    assert renter("ssh", container_id, "--print") == 0
    assert "PubkeyAuthentication=no" in capsys.readouterr().out
    assert renter("key", container_id, "--password") == 0
    assert "fresh-password" in capsys.readouterr().out


def test_lost_answer_is_asked_for_again_and_stays_one_lease(
    renter: Renter, miner: SmallMiner, capsys: pytest.CaptureFixture[str]
) -> None:
    miner.cut = ["/allocate"]
    shown = allocated(renter, miner, capsys)
    assert list(miner.leases) == [shown["container_id"]]
    keys = [headers["Idempotency-Key"] for _, path, headers in miner.seen if path == "/allocate"]
    assert len(keys) == 2
    assert keys[0] == keys[1]
    again = allocated(renter, miner, capsys)
    assert again["container_id"] != shown["container_id"]


def test_second_lost_answer_is_the_end_and_says_where_to_look(
    renter: Renter, miner: SmallMiner, capsys: pytest.CaptureFixture[str]
) -> None:
    miner.cut = ["/allocate", "/allocate"]
    with pytest.raises(ConnectionLost):
        renter("allocate", "--miner", miner.endpoint)
    assert "see `renter ps`" in capsys.readouterr().err
    assert len(miner.leases) == 1


def test_password_of_a_lost_answer_is_replaced(
    renter: Renter, miner: SmallMiner, capsys: pytest.CaptureFixture[str]
) -> None:
    miner.cut = ["/allocate"]
    assert allocated(renter, miner, capsys, "--password")["ssh_password"] == "fresh-password"
    assert len(miner.leases) == 1


def test_own_public_key_is_sent_and_its_private_half_used(
    renter: Renter, miner: SmallMiner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pem, line = generate_key_pair()
    (tmp_path / "mine").write_text(pem)
    (tmp_path / "mine.pub").write_text(line + " me@home\n")
    shown = allocated(renter, miner, capsys, "--ssh-key", str(tmp_path / "mine.pub"))
    assert shown["identity_file"] == str(tmp_path / "mine")
    assert list(miner.ssh_keys.values()) == [line]
    with pytest.raises(ConfigError, match="more than one line"):
        renter("allocate", "--miner", miner.endpoint, "--ssh-key", str(tmp_path / "mine"))


def test_first_contact_is_shown_and_another_key_later_is_refused(
    renter: Renter, miner: SmallMiner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert renter("ps", "--miner", miner.endpoint) == 0
    assert f"node key {miner.identity.public_key}" in capsys.readouterr().err
    assert renter("ps", "--miner", miner.identity.public_key[:8]) == 0
    assert renter("ps") == 0
    assert capsys.readouterr().err == ""
    miner.identity = identity(7)
    with pytest.raises(RequestRejected, match="known_miners") as refused:
        renter("ps", "--miner", miner.endpoint)
    assert refused.value.status == 403


def test_a_given_key_must_be_the_miners(renter: Renter, miner: SmallMiner, tmp_path: Path) -> None:
    with pytest.raises(RequestRejected, match="--miner-key says"):
        renter("ps", "--miner", miner.endpoint, "--miner-key", identity(7).public_key)
    assert not (tmp_path / "state" / "known_miners.json").exists()
    assert renter("ps", "--miner", miner.endpoint, "--miner-key", miner.identity.public_key) == 0


def test_a_lying_receipt_keeps_nothing(renter: Renter, miner: SmallMiner, tmp_path: Path) -> None:
    def tamper(path: str, wire: dict[str, object]) -> dict[str, object]:
        return {**wire, "ssh_port": 1} if path == "/allocate" else wire

    miner.tamper = tamper
    with pytest.raises(Unavailable, match="ssh_port"):
        renter("allocate", "--miner", miner.endpoint)
    assert list((tmp_path / "state" / "leases").iterdir()) == []


@pytest.mark.parametrize("seconds", ["0", "-1", "31536001"])
def test_renewal_that_no_miner_grants_names_what_is_allowed(
    renter: Renter, miner: SmallMiner, capsys: pytest.CaptureFixture[str], seconds: str
) -> None:
    container_id = str(allocated(renter, miner, capsys)["container_id"])
    with pytest.raises(ConfigError) as refused:
        renter("renew", container_id, "--ttl", seconds)
    assert (refused.value.key_path, refused.value.allowed[:21]) == ("--ttl", "1 to 31536000 seconds")
    assert renter("renew", container_id, "--ttl", "31536000") == 0


def test_unknown_and_ambiguous_ids(renter: Renter, miner: SmallMiner, capsys: pytest.CaptureFixture[str]) -> None:
    allocated(renter, miner, capsys)
    allocated(renter, miner, capsys)
    with pytest.raises(ConfigError, match="fits"):
        renter("renew", "00")
    for command in ("renew", "release", "logs", "key", "ssh"):
        with pytest.raises(RequestRejected) as refused:
            renter(command, "ffff")
        assert refused.value.status == 404
    with pytest.raises(RequestRejected):
        renter("renew", "ffff", "--miner", miner.endpoint)


def test_release_all_ends_what_it_can(
    renter: Renter, miner: SmallMiner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (str(allocated(renter, miner, capsys)["container_id"]) for _ in range(2))
    miner.refuse[f"/terminate/{first}"] = (503, {}, b"")
    with pytest.raises(Unavailable):
        renter("release", "--all")
    assert [lease.container_id for lease in LeaseStore(tmp_path / "state").all()] == [first]
    assert f"released {second}" in capsys.readouterr().out
    miner.refuse.clear()
    miner.leases.clear()
    assert renter("release", "--all") == 0
    assert "gone already" in capsys.readouterr().err


def test_release_shows_and_keeps_the_usage(
    renter: Renter, miner: SmallMiner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    container_id = str(allocated(renter, miner, capsys)["container_id"])
    assert renter("release", container_id) == 0
    shown = capsys.readouterr()
    assert "60.0 s, 1.5 s of CPU, 10 B in, 20 B out, 1 GPUs for 60.0 s each" in shown.out
    kept = tmp_path / "state" / "usage" / f"{container_id}.json"
    assert str(kept) in shown.err
    assert verify_main(["verify", "usage", str(kept), "--key", miner.identity.public_key]) == 0
    assert "allocated_ms: 60000" in capsys.readouterr().out


def test_usage_of_a_lease_that_ended_by_itself_is_asked_for(
    renter: Renter, miner: SmallMiner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    container_id = str(allocated(renter, miner, capsys)["container_id"])
    receipt = miner.leases.pop(container_id)
    miner.used[container_id] = sign_statement(miner.identity, "usage", usage_of(receipt)).to_wire()
    assert renter("release", container_id, "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["usage"][container_id]["cpu_ms"] == 1_500
    assert (tmp_path / "state" / "usage" / f"{container_id}.json").exists()


@pytest.mark.parametrize("changed", ["renter_key", "container_id", "node_key", "signature"])
def test_usage_that_does_not_hold_is_not_kept_and_the_lease_is_over(
    renter: Renter, miner: SmallMiner, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: str
) -> None:
    container_id = str(allocated(renter, miner, capsys)["container_id"])

    def tamper(path: str, wire: dict[str, object]) -> dict[str, object]:
        if not path.startswith("/terminate"):
            return wire
        usage = usage_of(receipt).model_copy(update={changed: "cd" * 32})
        signed: dict[str, object] = {**sign_statement(miner.identity, "usage", usage).to_wire()}
        if changed == "signature":
            signed["body"] = {**usage_of(receipt).to_wire(), "cpu_ms": 1_501}
        return {**wire, "usage": signed}

    receipt = miner.leases[container_id]
    miner.tamper = tamper
    assert renter("release", container_id) == 0
    shown = capsys.readouterr()
    assert shown.out == f"released {container_id}\n"
    assert "does not hold" in shown.err or "differs" in shown.err
    assert not (tmp_path / "state" / "usage").exists()


def test_token_alone_goes_to_stdout(renter: Renter, miner: SmallMiner, capsys: pytest.CaptureFixture[str]) -> None:
    assert renter("token", "--miner", miner.endpoint) == 0
    assert capsys.readouterr().out == "a.b.c\n"


def test_token_is_asked_for_with_a_consent_of_a_day_unless_the_renter_says_no(
    renter: Renter, miner: SmallMiner
) -> None:
    assert renter("token", "--miner", miner.endpoint) == 0
    assert renter("token", "--miner", miner.endpoint, "--no-consent") == 0
    given, refused = miner.consents
    assert refused is None
    assert given is not None
    consent = open_consent(given, renter_key=given.signer, miner_key=miner.identity.public_key)
    now_unix_ms = time.time_ns() // 1_000_000
    assert consent.covers(now_unix_ms)
    assert consent.expires_unix_ms - now_unix_ms < CONSENT_MS_MAX


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--memory", "2x"], "memory"),
        (["--cpus", "-1"], "cpu_count"),
        (["--cpus", "nan"], "cpu_count"),
        (["--ttl", "0"], "ttl_seconds"),
        (["--device-model", "H200"], "--device-count"),
        (["--device-count", "1", "--device", "0"], "--device-count"),
        (["--ssh-key", "/nonexistent"], "cannot be read"),
        (["--timeout", "0"], "--timeout"),
        (["--miner", "http://h/path"], "--miner"),
        (["--miner-key", "xyz"], "64 lower-case"),
        (["--registry", "/nonexistent"], "--registry"),
    ],
)
def test_a_mistyped_flag_is_a_usage_error_and_rents_nothing(
    renter: Renter, miner: SmallMiner, words: list[str], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        renter("allocate", "--miner", miner.endpoint, *words)
    assert miner.leases == {}


def test_without_a_miner_the_error_says_how_to_name_one(renter: Renter) -> None:
    with pytest.raises(ConfigError, match="--miner URL"):
        renter("token")


def test_damaged_state_is_named(renter: Renter, miner: SmallMiner, tmp_path: Path) -> None:
    assert renter("allocate", "--miner", miner.endpoint) == 0
    receipt = next((tmp_path / "state" / "leases").glob("*/receipt.json"))
    receipt.write_text(receipt.read_text().replace("2222", "2223"))
    with pytest.raises(ConfigError, match="damaged"):
        renter("ssh", receipt.parent.name, "--print")
    (tmp_path / "state" / "known_miners.json").write_text("{")
    with pytest.raises(ConfigError, match=r"known_miners\.json"):
        renter("ps")


def test_peers_texts_are_printed_harmlessly(
    renter: Renter, miner: SmallMiner, capsys: pytest.CaptureFixture[str]
) -> None:
    allocated(renter, miner, capsys)

    def tamper(path: str, wire: dict[str, object]) -> dict[str, object]:
        views = wire.get("containers")
        return (
            {**wire, "containers": [{**view, "status": "\x1b[2J"} for view in views]}
            if isinstance(views, list)
            else wire
        )

    miner.tamper = tamper
    assert renter("ps") == 0
    assert "\x1b" not in capsys.readouterr().out
