"""Bearer tokens: who gets one, until when, and what a changed character does."""

import time
from pathlib import Path

import pytest
from itsdangerous import URLSafeTimedSerializer

from neurons.base.tokens import Token, TokenIssuer, TokenSecret, load_token_secrets, rotate_token_secret
from polarise.errors import ConfigError, ErrorCode, RequestRejected
from polarise.rented import sign_consent
from polarise.signing import Identity, SigningKey

KEY = "ab" * 32
NODE_KEY = "cd" * 32


def code_of(issuer: TokenIssuer, token: str) -> ErrorCode:
    with pytest.raises(RequestRejected) as caught:
        issuer.check(token)
    assert caught.value.status == 401
    return caught.value.code


def token_of_age(seconds: int) -> str:
    """A token as it would have been given ``seconds`` ago, by the same secret."""

    class Past(URLSafeTimedSerializer):
        pass

    serializer = Past(["s" * 32], salt=f"polarise/token/2/{NODE_KEY}")
    signer = serializer.make_signer(serializer.salt)
    signer.get_timestamp = lambda: int(time.time()) - seconds  # type: ignore[attr-defined]  # a TimestampSigner
    serializer.make_signer = lambda _salt=None: signer  # type: ignore[method-assign,assignment]
    return str(serializer.dumps({"key": KEY}))


def test_token_names_its_holder() -> None:
    issuer = TokenIssuer([TokenSecret("s" * 32)], 60, NODE_KEY)
    assert issuer.check(issuer.issue(KEY)) == Token(KEY)


def test_token_ends_with_its_expiry_and_not_before() -> None:
    issuer = TokenIssuer([TokenSecret("s" * 32)], 60, NODE_KEY)
    assert issuer.check(token_of_age(58)) == Token(KEY)
    assert code_of(issuer, token_of_age(62)) is ErrorCode.TOKEN_EXPIRED


def test_every_changed_character_is_noticed() -> None:
    issuer = TokenIssuer([TokenSecret("s" * 32)], 60, NODE_KEY)
    token = issuer.issue(KEY)
    # The last character of base64 without padding holds two bits that mean nothing.
    for index in range(len(token) - 1):
        changed = token[:index] + ("A" if token[index] != "A" else "B") + token[index + 1 :]
        assert code_of(issuer, changed) is ErrorCode.TOKEN_INVALID, index


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "é", "." * 500])
def test_what_is_no_token_is_refused(token: str) -> None:
    assert code_of(TokenIssuer([TokenSecret("s" * 32)], 60, NODE_KEY), token) is ErrorCode.TOKEN_INVALID


def test_token_for_another_purpose_is_refused() -> None:
    other = URLSafeTimedSerializer(["s" * 32], salt="polarise/session/1").dumps({"key": KEY})
    assert code_of(TokenIssuer([TokenSecret("s" * 32)], 60, NODE_KEY), str(other)) is ErrorCode.TOKEN_INVALID


def test_token_of_a_node_with_the_same_secret_is_refused() -> None:
    """An owner may set one ``security.secret_key`` for all nodes; a token still opens the one that gave it."""
    token = TokenIssuer([TokenSecret("s" * 32)], 60, NODE_KEY).issue(KEY)
    assert code_of(TokenIssuer([TokenSecret("s" * 32)], 60, "ce" + NODE_KEY[2:]), token) is ErrorCode.TOKEN_INVALID


def test_rotation_keeps_old_tokens_until_the_old_secret_goes() -> None:
    old = TokenIssuer([TokenSecret("old" * 10)], 60, NODE_KEY).issue(KEY)
    both = TokenIssuer([TokenSecret("new" * 10), TokenSecret("old" * 10)], 60, NODE_KEY)
    assert both.check(old) == Token(KEY)
    fresh = both.issue(KEY)
    only_new = TokenIssuer([TokenSecret("new" * 10)], 60, NODE_KEY)
    assert only_new.check(fresh) == Token(KEY)
    assert code_of(only_new, old) is ErrorCode.TOKEN_INVALID


def test_secret_is_generated_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "token-secrets"
    first = load_token_secrets(path, None)
    assert load_token_secrets(path, None) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(first[0].text) >= 40


def test_configured_secret_signs_and_the_stored_one_still_verifies(tmp_path: Path) -> None:
    path = tmp_path / "token-secrets"
    stored = load_token_secrets(path, None)
    assert load_token_secrets(path, "configured" * 3) == [TokenSecret("configured" * 3), *stored]


def test_secret_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token-secrets"
    load_token_secrets(path, None)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="mode 0640"):
        load_token_secrets(path, None)


def test_token_carries_the_consent_it_was_asked_for_with() -> None:
    issuer = TokenIssuer([TokenSecret("s" * 32)], 60, NODE_KEY)
    consent = sign_consent(Identity(SigningKey(b"r" * 32)), NODE_KEY, 1, 2)
    assert issuer.check(issuer.issue(KEY, consent)) == Token(KEY, consent)
    broken = URLSafeTimedSerializer(["s" * 32], salt=f"polarise/token/2/{NODE_KEY}").dumps({"key": KEY, "consent": {}})
    assert code_of(issuer, str(broken)) is ErrorCode.TOKEN_INVALID


def test_a_replaced_secret_verifies_until_its_tokens_have_expired_and_no_longer(tmp_path: Path) -> None:
    """Who stole it signs nothing with it after that, also where the process runs on."""
    path, now = tmp_path / "token-secrets", int(time.time())
    stolen = load_token_secrets(path, None)[0]
    token = TokenIssuer([stolen], 60, NODE_KEY).issue(KEY)
    rotate_token_secret(path, now - 59, 60)
    kept = load_token_secrets(path, None)
    assert [secret.until_unix_s for secret in kept] == [None, now + 1]
    assert TokenIssuer(kept, 60, NODE_KEY).check(token) == Token(KEY)
    rotate_token_secret(path, now, 60)
    assert [secret.until_unix_s for secret in load_token_secrets(path, None)] == [None, now + 60, now + 1]
    ended = [kept[0], TokenSecret(stolen.text, now)]
    assert code_of(TokenIssuer(ended, 60, NODE_KEY), token) is ErrorCode.TOKEN_INVALID
    rotate_token_secret(path, now + 1, 60)
    assert stolen.text not in path.read_text()
    rotate_token_secret(path, now + 1, 60, keep_old=False)
    assert len(load_token_secrets(path, None)) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["token-secrets"]


def test_a_line_that_is_no_secret_is_named(tmp_path: Path) -> None:
    path = tmp_path / "token-secrets"
    load_token_secrets(path, None)
    path.write_text("secret tomorrow\n")
    with pytest.raises(ConfigError, match="no secret"):
        load_token_secrets(path, None)


@pytest.mark.parametrize("counter", ["1", None, 1.5, True])
def test_a_generation_of_another_type_is_no_token(counter: object) -> None:
    serializer = URLSafeTimedSerializer("s" * 32, salt=f"polarise/token/2/{NODE_KEY}")
    token = str(serializer.dumps({"key": KEY, "counter": counter}))
    assert code_of(TokenIssuer([TokenSecret("s" * 32)], 60, NODE_KEY), token) is ErrorCode.TOKEN_INVALID
