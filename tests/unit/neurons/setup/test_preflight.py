"""The throw-away login: what its answer must say, when its stamp still counts, and once for real."""

from dataclasses import replace
from pathlib import Path

import pytest

from neurons.setup.checkout import Checkout
from neurons.setup.errors import SetupError
from neurons.setup.image import base_image_reference
from neurons.setup.preflight import LABEL, Login, is_current, preflight, read_login, read_memory_limit
from neurons.setup.shell import run

LOGIN = Login("sha256:" + "a" * 64, "20.10.24", "6.1.0", "SSH-2.0-OpenSSH_9.2p1", 0.6)


def test_limit_is_read_from_either_cgroup_version() -> None:
    assert read_memory_limit("keys-listed\n268435456\n") == 268435456
    assert read_memory_limit("keys-listed\nmax\n") is None
    assert read_memory_limit("") is None


def test_baked_in_host_key_is_refused() -> None:
    with pytest.raises(SetupError, match="ssh_host_rsa_key"):
        read_memory_limit("/etc/ssh/ssh_host_rsa_key\nkeys-listed\n268435456\n")


@pytest.mark.parametrize(
    "other", [replace(LOGIN, image_id="sha256:b"), replace(LOGIN, engine="28.0.0"), replace(LOGIN, kernel="6.1.1")]
)
def test_stamp_counts_only_for_its_own_image_engine_and_kernel(other: Login) -> None:
    assert is_current(LOGIN, LOGIN.image_id, LOGIN.engine, LOGIN.kernel)
    assert not is_current(LOGIN, other.image_id, other.engine, other.kernel)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"image_id": "x"}', "not json"])
def test_broken_stamp_is_no_stamp(tmp_path: Path, text: str) -> None:
    checkout = Checkout(tmp_path)
    checkout.state.mkdir()
    (checkout.state / "preflight.json").write_text(text)
    assert read_login(checkout) is None


@pytest.mark.docker
def test_login_works_once_and_leaves_nothing_behind(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    login, is_new = preflight(checkout, base_image_reference(), force=False)
    assert is_new
    assert login.banner.startswith("SSH-2.0-OpenSSH")
    assert preflight(checkout, base_image_reference(), force=False) == (login, False)
    assert run(["docker", "ps", "--all", "--quiet", "--filter", f"label={LABEL}"]).output == ""
