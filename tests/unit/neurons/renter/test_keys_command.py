"""`python main.py key new|show`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from neurons.base.keys import load_identity, load_node_identity, node_key_path, personal_key_path
from neurons.base.keys_command import add_parser
from neurons.base.tls import tls_public_key
from polarise.errors import ConfigError
from polarise.keyfile import KeyKind, create_key_file
from polarise.signing import Purpose
from polarise.tls import curl_pin


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text("secret\n")
    path.chmod(0o600)
    return path


def key(*words: object) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["key", *map(str, words)])
    status: int = args.handler(args)
    return status


def test_owner_certifies_node(tmp_path: Path, secret: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    other.write_text("owner's")
    other.chmod(0o600)
    owner = tmp_path / "owner.key"
    assert key("new", "--kind", "owner", "--file", owner, "--passphrase-file", other, "-o", "json") == 0
    owner_key = json.loads(capsys.readouterr().out)["public_key"]
    node = ["--owner-key", owner, "--owner-passphrase-file", other, "--passphrase-file", secret]
    assert key("new", "--kind", "node", "--data-dir", tmp_path / "data", *node) == 0
    assert owner_key in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--owner-passphrase-file"):
        key("new", "--kind", "node", "--data-dir", tmp_path / "more", "--owner-key", owner, "--passphrase-file", secret)
    with pytest.raises(ConfigError) as wrong:
        key("new", "--kind", "node", "--data-dir", tmp_path / "more", *node[:3], secret, *node[4:])
    assert "--owner-passphrase-file" not in wrong.value.allowed
    assert not (tmp_path / "more").exists()

    identity = load_node_identity(tmp_path / "data", b"secret")
    assert identity.owner_certificate is not None
    assert identity.owner_certificate.issuer == owner_key

    assert key("show", "--data-dir", tmp_path / "data") == 0
    assert "subkey" not in capsys.readouterr().out
    assert key("show", "--data-dir", tmp_path / "data", "--passphrase-file", secret, "-o", "json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["subkeys"]["request"] == identity.subkey(Purpose.REQUEST).key.public_key
    assert "node" not in shown["subkeys"]
    assert shown["curl_pin"] == curl_pin(tls_public_key(identity))
    assert identity.key.private.private_bytes_raw().hex() not in json.dumps(shown)


def test_renter_key_lies_where_the_variable_says(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POLARISE_RENTER_KEY", str(tmp_path / "mine.key"))
    monkeypatch.setenv("POLARISE_PASSPHRASE_FILE", str(secret))
    assert key("new", "--kind", "renter") == 0
    assert load_identity(tmp_path / "mine.key", b"secret").owner_certificate is None
    assert key("show", "-o", "json") == 0
    assert '"kind": "renter"' in capsys.readouterr().out
    with pytest.raises(ConfigError, match="never overwritten"):
        key("new", "--kind", "renter")


def test_default_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert personal_key_path(KeyKind.RENTER, {}) == tmp_path / ".config/polarise/renter.key"
    assert personal_key_path(KeyKind.OWNER, {"POLARISE_RENTER_KEY": "x"}) == tmp_path / ".config/polarise/owner.key"
    assert node_key_path(tmp_path) == tmp_path / "keys" / "node.key"


def test_a_node_key_needs_its_owner_and_no_other_does(tmp_path: Path, secret: Path) -> None:
    for kind, words in (("node", []), ("renter", ["--owner-key", tmp_path / "owner.key"])):
        with pytest.raises(ConfigError, match="--owner-key"):
            key("new", "--kind", kind, "--file", tmp_path / "x.key", "--passphrase-file", secret, *words)
    assert not (tmp_path / "x.key").exists()
    with pytest.raises(ConfigError, match="--data-dir"):
        key("show", "--kind", "node")


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    create_key_file(tmp_path / "renter.key", KeyKind.RENTER, b"secret")
    with pytest.raises(ConfigError, match="key of a renter"):
        load_identity(tmp_path / "renter.key", b"secret", kind=KeyKind.NODE)
    create_key_file(node_key_path(tmp_path), KeyKind.NODE, b"secret")
    with pytest.raises(ConfigError, match="no owner certified"):
        load_node_identity(tmp_path, b"secret")
