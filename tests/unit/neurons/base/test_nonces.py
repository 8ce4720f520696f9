"""A nonce is spent once, over restarts, for as long as its signature could pass."""

from pathlib import Path

import pytest

from neurons.base.nonces import NonceStore
from polarise.errors import ErrorCode, RequestRejected
from polarise.http_signatures import WINDOW_SECONDS, VerifiedRequest

NOW = 1_800_000_000


def request(nonce: str = "nonce", caller: str = "a", created: int = NOW) -> VerifiedRequest:
    return VerifiedRequest(caller=caller, nonce=nonce, created_unix_s=created)


def test_second_use_is_refused_also_after_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        with NonceStore(tmp_path / "nonces.sqlite") as store:
            store.spend(request("other"), NOW) if not store.query("SELECT 1 FROM nonce") else None
            if store.query("SELECT 1 FROM nonce WHERE nonce = 'nonce'"):
                with pytest.raises(RequestRejected) as caught:
                    store.spend(request(), NOW + 1)
                assert caught.value.code is ErrorCode.NONCE_REUSED
                assert caught.value.status == 401
            else:
                store.spend(request(), NOW)


def test_same_nonce_of_another_caller_is_another_nonce(tmp_path: Path) -> None:
    with NonceStore(tmp_path / "nonces.sqlite") as store:
        store.spend(request(caller="a"), NOW)
        store.spend(request(caller="b"), NOW)


@pytest.mark.parametrize("lead", [-WINDOW_SECONDS, 0, WINDOW_SECONDS])
def test_nonce_is_kept_while_its_signature_could_pass(tmp_path: Path, lead: int) -> None:
    """A caller whose clock is ``lead`` seconds off signs now; the replay comes at the last moment the window allows."""
    with NonceStore(tmp_path / "nonces.sqlite") as store:
        store.spend(request(created=NOW + lead), NOW)
        last_moment = NOW + lead + WINDOW_SECONDS
        store.spend(request("another", created=last_moment), last_moment)
        with pytest.raises(RequestRejected):
            store.spend(request(created=NOW + lead), last_moment)


def test_old_nonces_are_forgotten(tmp_path: Path) -> None:
    with NonceStore(tmp_path / "nonces.sqlite") as store:
        for number in range(50):
            store.spend(request(str(number)), NOW)
        store.spend(request("new", created=NOW + 61), NOW + 61)
        assert [row["nonce"] for row in store.query("SELECT nonce FROM nonce")] == ["new"]
