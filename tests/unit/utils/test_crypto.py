"""Secrets from files: only the owner may read them, and none is ever overwritten."""

from pathlib import Path

import pytest

from polarise.errors import ConfigError
from utils.crypto import PASSPHRASE_VARIABLE, new_secret, read_passphrase, read_secret_file, write_secret_file


def secret_file(path: Path, text: str = "hunter2\n", mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_secret_comes_back_without_its_line_feed(tmp_path: Path) -> None:
    write_secret_file(tmp_path / "new" / "secret", "hunter2")
    assert read_secret_file(tmp_path / "new" / "secret") == b"hunter2"
    assert (tmp_path / "new" / "secret").stat().st_mode & 0o777 == 0o600


def test_existing_secret_is_never_overwritten(tmp_path: Path) -> None:
    write_secret_file(tmp_path / "secret", "first")
    with pytest.raises(FileExistsError):
        write_secret_file(tmp_path / "secret", "second")
    assert read_secret_file(tmp_path / "secret") == b"first"


@pytest.mark.parametrize("mode", [0o601, 0o604, 0o610, 0o640, 0o660])
def test_one_bit_for_others_is_too_many(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match=f"mode 0{mode:o}") as caught:
        read_secret_file(secret_file(tmp_path / "secret", mode=mode))
    assert "chmod 600" in caught.value.allowed
    assert "hunter2" not in str(caught.value)


def test_empty_or_missing_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="empty"):
        read_secret_file(secret_file(tmp_path / "empty", "\n"))
    with pytest.raises(ConfigError, match="cannot read"):
        read_secret_file(tmp_path / "missing")


def test_passphrase_is_taken_from_flag_then_variable_then_credential(tmp_path: Path) -> None:
    flag = secret_file(tmp_path / "flag", "from-flag")
    variable = secret_file(tmp_path / "variable", "from-variable")
    secret_file(tmp_path / "polarise-passphrase", "from-credential")
    environ = {PASSPHRASE_VARIABLE: str(variable), "CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_passphrase(flag, environ) == b"from-flag"
    assert read_passphrase(None, environ) == b"from-variable"
    del environ[PASSPHRASE_VARIABLE]
    assert read_passphrase(None, environ) == b"from-credential"


@pytest.mark.parametrize("mode", [0o404, 0o450, 0o460])
def test_a_credential_may_show_its_access_list_and_nothing_more(tmp_path: Path, mode: int) -> None:
    """A service manager lets a service's user in by an access list, which `stat` shows as rights of the group."""
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    credential = secret_file(tmp_path / "polarise-passphrase", mode=0o440)
    assert read_passphrase(None, environ) == b"hunter2"
    with pytest.raises(ConfigError, match="mode 0440"):
        read_secret_file(credential)
    credential.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode 0{mode:o}"):
        read_passphrase(None, environ)


def test_named_file_that_is_missing_is_not_passed_over(tmp_path: Path) -> None:
    secret_file(tmp_path / "polarise-passphrase")
    environ = {PASSPHRASE_VARIABLE: str(tmp_path / "missing"), "CREDENTIALS_DIRECTORY": str(tmp_path)}
    with pytest.raises(ConfigError, match="missing"):
        read_passphrase(None, environ)


def test_new_secrets_differ() -> None:
    assert len({new_secret() for _ in range(100)}) == 100
