"""Key files: what a thief, a flipped bit and a careless operator meet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polarise.errors import ConfigError
from polarise.keyfile import (
    ITERATIONS,
    MEMORY_KIB,
    KeyKind,
    create_key_file,
    load_key_file,
    read_key_header,
    rewrite_key_file,
)
from polarise.signing import Identity, Purpose
from tests.unit.polarise.small_miner import identity

PASSPHRASE = b"correct horse"
OWNER = identity(9)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Identity]:
    """One node key file for all tests that only read; Argon2id costs a tenth of a second each time."""
    path = tmp_path_factory.mktemp("keys") / "deep" / "node.key"
    return path, create_key_file(path, KeyKind.NODE, PASSPHRASE, owner=OWNER)


def copy_with(made: tuple[Path, Identity], folder: Path, change: bytes) -> Path:
    path = folder / "node.key"
    path.write_bytes(change)
    path.chmod(0o600)
    return path


def rewritten(made: tuple[Path, Identity], folder: Path, **header: Any) -> Path:  # noqa: ANN401  any JSON
    content = json.loads(made[0].read_bytes())
    content["header"].update(header)
    return copy_with(made, folder, json.dumps(content).encode())


def test_roundtrip(made: tuple[Path, Identity]) -> None:
    path, identity = made
    loaded = load_key_file(path, PASSPHRASE)
    assert loaded.public_key == identity.public_key
    assert loaded.owner_certificate == identity.owner_certificate
    assert loaded.subkey(Purpose.LOG).key.public_key == identity.subkey(Purpose.LOG).key.public_key
    header = read_key_header(path)
    assert (header.kind, header.public_key) == (KeyKind.NODE, identity.public_key)
    assert header.owner_certificate is not None
    header.owner_certificate.check(issuer=OWNER.public_key, purpose=Purpose.NODE)


def test_modes_and_secrecy(made: tuple[Path, Identity]) -> None:
    path, identity = made
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert identity.key.private.private_bytes_raw().hex().encode() not in path.read_bytes()


def test_wrong_passphrase_is_refused(made: tuple[Path, Identity]) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        load_key_file(made[0], b"correct horsf")


def test_empty_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="empty"):
        create_key_file(tmp_path / "x.key", KeyKind.OWNER, b"")


def test_an_existing_file_is_never_overwritten(made: tuple[Path, Identity]) -> None:
    before = made[0].read_bytes()
    with pytest.raises(ConfigError, match="never overwritten"):
        create_key_file(made[0], KeyKind.NODE, PASSPHRASE)
    assert made[0].read_bytes() == before


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o610])
def test_a_file_that_others_can_reach_is_refused(made: tuple[Path, Identity], tmp_path: Path, mode: int) -> None:
    path = copy_with(made, tmp_path, made[0].read_bytes())
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"{mode:04o}"):
        load_key_file(path, PASSPHRASE)


def flip_places(raw: bytes) -> list[int]:
    """One bit in every value of the file, and a few along the ciphertext."""
    names = "kind public_key memory_kib iterations lanes salt nonce subject issuer purpose counter issued_unix_ms"
    values = [f'"{name}": '.encode() for name in (*names.split(), "signature", "version", "kdf")]
    places = [raw.index(value) + len(value) + 1 for value in values]
    start = raw.index(b"ciphertext") + 14
    return [*places, *range(start, start + 96, 24), start + 95]


def test_one_flipped_bit_anywhere_is_refused(made: tuple[Path, Identity], tmp_path: Path) -> None:
    raw = made[0].read_bytes()
    for place in flip_places(raw):
        flipped = bytearray(raw)
        flipped[place] ^= 1
        path = copy_with(made, tmp_path, bytes(flipped))
        with pytest.raises(ConfigError):
            load_key_file(path, PASSPHRASE)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "renter"},
        {"owner_certificate": None},
        {"public_key": OWNER.public_key},
        {"memory_kib": MEMORY_KIB + 1},
        {"iterations": ITERATIONS + 1},
    ],
)
def test_a_header_rewritten_with_valid_values_is_refused(
    made: tuple[Path, Identity], tmp_path: Path, change: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        load_key_file(rewritten(made, tmp_path, **change), PASSPHRASE)


@pytest.mark.parametrize(
    "change",
    [
        {"memory_kib": MEMORY_KIB - 1},
        {"memory_kib": 1024 * 1024 + 1},
        {"iterations": ITERATIONS - 1},
        {"iterations": 17},
        {"lanes": 0},
        {"kdf": "argon2i"},
        {"kdf": "none"},
        {"version": 2},
        {"salt": ""},
        {"extra": 1},
    ],
)
def test_a_cheaper_or_a_ruinous_kdf_is_refused_before_it_runs(
    made: tuple[Path, Identity], tmp_path: Path, change: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match="not a key file"):
        load_key_file(rewritten(made, tmp_path, **change), PASSPHRASE)


@pytest.mark.parametrize("raw", [b"", b"{}", b"nonsense", b"\xff" * 100, b"[" * 1000])
def test_what_is_no_key_file_is_refused(made: tuple[Path, Identity], tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(ConfigError, match="not a key file"):
        read_key_header(copy_with(made, tmp_path, raw))


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key new"):
        load_key_file(tmp_path / "none.key", PASSPHRASE)
    with pytest.raises(ConfigError):
        load_key_file(tmp_path, PASSPHRASE)


def test_every_folder_that_is_made_for_a_key_is_its_owners_only(tmp_path: Path) -> None:
    """Also those above the last one; what was there before stays as it was."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there").chmod(0o755)
    create_key_file(tmp_path / "there" / "data" / "keys" / "node.key", KeyKind.RENTER, b"secret")
    modes = [(tmp_path / "there" / name).stat().st_mode & 0o777 for name in ("", "data", "data/keys")]
    assert modes == [0o755, 0o700, 0o700]


def test_generations_are_kept_and_nobody_turns_them_back(tmp_path: Path) -> None:
    """They stand in the readable half, which is authenticated; a file that was never rotated has no such field."""
    path = tmp_path / "node.key"
    made = create_key_file(path, KeyKind.RENTER, b"secret")
    assert "generations" not in json.loads(path.read_text())["header"]
    rewrite_key_file(path, b"secret", generations={Purpose.REQUEST: 1, Purpose.LEDGER: 2})
    found = rewrite_key_file(path, b"secret", generations={Purpose.REQUEST: 3})
    assert (found.public_key, found.generations) == (made.public_key, {Purpose.REQUEST: 3, Purpose.LEDGER: 2})
    assert load_key_file(path, b"secret").generations == found.generations
    for generations in (None, {"request": 2, "ledger": 2}, {"ledger": 2}):
        wire = json.loads(path.read_text())
        wire["header"]["generations"] = generations
        if generations is None:
            del wire["header"]["generations"]
        (tmp_path / "changed.key").write_text(json.dumps(wire))
        (tmp_path / "changed.key").chmod(0o600)
        with pytest.raises(ConfigError, match="cannot be opened"):
            load_key_file(tmp_path / "changed.key", b"secret")


def test_a_rewrite_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    create_key_file(path, KeyKind.RENTER, b"secret")
    before = path.read_bytes()
    (tmp_path / "node.key.new").write_bytes(b"left over by a process that was killed")
    with pytest.raises(ConfigError):
        rewrite_key_file(path, b"wrong", new_passphrase=b"new")
    assert path.read_bytes() == before
    rewrite_key_file(path, b"secret", new_passphrase=b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["node.key"]
    assert path.stat().st_mode & 0o777 == 0o600
