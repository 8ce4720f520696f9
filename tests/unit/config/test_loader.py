"""Settings: which of four places wins, and what an operator reads when one of them is wrong."""

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from config.loader import CHECKOUT, FILE_BYTES_MAX, load_config, setting_paths, variable_of
from config.schema import SAMPLE_SECRET, Config, RoleName
from polarise.errors import ConfigError


def file_with(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "node.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal_of(
    tmp_path: Path, text: str = "", *, environ: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(file_with(tmp_path, text), environ=environ, flags=flags)
    return caught.value


def test_defaults_alone_are_a_whole_configuration() -> None:
    config = load_config()
    assert (config.network.port, config.network.host, config.role) == (8080, "127.0.0.1", RoleName.DEMO)


def test_each_place_wins_over_the_one_before(tmp_path: Path) -> None:
    file = file_with(tmp_path, "network: {port: 1001}\ndocker: {default_memory: 3g, container_prefix: from-file-}\n")
    environ = {"POLARISE_NETWORK_PORT": "1002", "POLARISE_DOCKER_DEFAULT_MEMORY": "4g", "PATH": "/bin"}
    config = load_config(file, environ=environ, flags={"network.port": 1003})
    assert config.network.port == 1003
    assert config.docker.default_memory == "4g"
    assert config.docker.container_prefix == "from-file-"
    assert config.docker.default_cpu_count == 1


@pytest.mark.parametrize(
    ("text", "key_path", "nearest"),
    [
        ("networkk: {port: 1}", "networkk.port", "did you mean network?"),
        ("network: {prot: 1}", "network.prot", "network.port"),
        ("docker: {default_memoryy: 1g}", "docker.default_memoryy", "docker.default_memory"),
        ("rol: demo", "rol", "role"),
        ("ledger: {endpointt: x}", "ledger.endpointt", "ledger.endpoint"),
        ("ledger: {url: x}", "ledger.url", "keys of ledger: endpoint, genesis, max_block_transactions"),
        ("docker: {url: x}", "docker.url", "see docs/configuration.md"),
    ],
)
def test_unknown_key_is_refused_by_name_with_the_nearest_one(
    tmp_path: Path, text: str, key_path: str, nearest: str
) -> None:
    error = refusal_of(tmp_path, text)
    assert key_path.startswith(error.key_path)
    assert error.message == "unknown key"
    assert nearest in error.allowed
    assert str(tmp_path / "node.yaml") in str(error)


def test_unknown_variable_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    error = refusal_of(tmp_path, environ={"POLARISE_NETWORKK_PORT": "1"})
    assert error.key_path == "POLARISE_NETWORKK_PORT"
    assert "POLARISE_NETWORK_PORT" in error.allowed


def test_unknown_flag_is_refused(tmp_path: Path) -> None:
    error = refusal_of(tmp_path, flags={"network.prot": 1})
    assert (error.origin, error.key_path) == ("command line", "network.prot")


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    text = "network: {port: 70000, hots: x}\ndocker: {default_memory: 2x}\nlogging: {level: LOUD}\n"
    shown = str(refusal_of(tmp_path, text, environ={"POLARISE_NO_SUCH": "1", "POLARISE_DOCKER_PIDS_LIMIT": "none"}))
    assert shown.startswith("6 settings have to change")
    for path in ("network.port", "network.hots", "docker.default_memory", "logging.level", "docker.pids_limit"):
        assert f"{path}: " in shown
    assert "POLARISE_NO_SUCH" in shown
    assert shown.count("fix: ") == 6


def test_problem_names_origin_path_value_and_fix(tmp_path: Path) -> None:
    error = refusal_of(tmp_path, "docker: {default_memory: 2x}")
    shown = str(error)
    assert shown.startswith(f"{tmp_path / 'node.yaml'}: docker.default_memory: ")
    assert "'2x' is not a size" in shown
    assert "\n  fix: write a size such as" in shown


def test_value_from_a_variable_names_the_variable(tmp_path: Path) -> None:
    error = refusal_of(tmp_path, "network: {port: 80}", environ={"POLARISE_NETWORK_PORT": "eighty"})
    assert (error.origin, error.key_path) == ("POLARISE_NETWORK_PORT", "network.port")
    assert "'eighty'" in error.message


def test_value_that_is_no_yaml_is_the_operators_error_and_not_ours(tmp_path: Path) -> None:
    error = refusal_of(tmp_path, environ={"POLARISE_LOGGING_LEVEL": "[INFO"})
    assert (error.origin, error.key_path) == ("POLARISE_LOGGING_LEVEL", "logging.level")


def test_port_bounds_hold_to_the_last_port(tmp_path: Path) -> None:
    assert load_config(flags={"network.port": 65535}).network.port == 65535
    assert refusal_of(tmp_path, flags={"network.port": 65536}).key_path == "network.port"


@pytest.mark.parametrize("secret", [SAMPLE_SECRET, "fifteen-letters"])
def test_sample_or_short_secret_is_refused_and_never_printed(tmp_path: Path, secret: str) -> None:
    error = refusal_of(tmp_path, f"security: {{secret_key: {secret}}}")
    assert error.key_path == "security.secret_key"
    assert "secrets.token_urlsafe" in error.allowed
    assert secret not in str(error)


@pytest.mark.parametrize("text", ["security: hunter2-hunter2", "security: {secret_key: 1234567890123456}"])
def test_secret_in_the_wrong_place_or_shape_is_not_printed(tmp_path: Path, text: str) -> None:
    shown = str(refusal_of(tmp_path, text))
    assert "hunter2" not in shown
    assert "1234567890123456" not in shown


def test_secret_from_a_variable_is_taken_as_it_stands() -> None:
    secret = "@0123: [456789abcdef"
    assert load_config(environ={"POLARISE_SECURITY_SECRET_KEY": secret}).security.secret_key == secret


def test_secret_does_not_show_in_the_repr() -> None:
    config = load_config(flags={"security.secret_key": "a-secret-of-enough-letters"})
    assert "a-secret-of-enough-letters" not in repr(config)


def test_section_whose_keys_are_all_commented_out_is_left_at_its_defaults(tmp_path: Path) -> None:
    assert load_config(file_with(tmp_path, "security:\n  # secret_key: x\n")).security.secret_key is None


@pytest.mark.parametrize(("text", "said"), [("network: [", "not YAML"), ("- a\n", "must hold a mapping")])
def test_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in str(refusal_of(tmp_path, text))


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no-such\.yaml"):
        load_config(tmp_path / "no-such.yaml")


@pytest.mark.parametrize("image", ["ubuntu:latest", "debian", f"debian@sha256:{'0' * 63}", "polarise/base:latest"])
def test_image_that_can_change_is_refused(tmp_path: Path, image: str) -> None:
    assert refusal_of(tmp_path, f"docker: {{base_image: '{image}'}}").key_path == "docker.base_image"


@pytest.mark.parametrize("image", [f"debian@sha256:{'0' * 64}", f"sha256:{'a' * 64}", "polarise/base:0123456789ab"])
def test_image_by_digest_is_taken(image: str) -> None:
    assert load_config(flags={"docker.base_image": image}).docker.base_image == image


def test_relative_paths_are_resolved_against_the_checkout() -> None:
    config = load_config(flags={"logging.file": "logs/x.log", "data_dir": "data/x"})
    assert config.logging.file == CHECKOUT / "logs/x.log"
    assert config.data_dir == CHECKOUT / "data/x"


def test_every_setting_can_be_set_by_a_variable_of_its_own() -> None:
    variables = [variable_of(path) for path in setting_paths()]
    assert len(set(variables)) == len(variables)


def test_every_setting_has_a_sentence_of_prose() -> None:
    def undescribed(model: type[BaseModel], prefix: str = "") -> list[str]:
        missing: list[str] = []
        for name, info in model.model_fields.items():
            if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
                missing += undescribed(info.annotation, f"{prefix}{name}.")
            elif not (info.description or "").strip().endswith((".", ".)")):
                missing.append(prefix + name)
        return missing

    assert undescribed(Config) == []


@pytest.mark.parametrize("name", ["config", "miner", "validator"])
def test_shipped_files_load(name: str) -> None:
    expected = RoleName.DEMO if name == "config" else RoleName(name)
    assert load_config(CHECKOUT / "config" / f"{name}.yaml").role is expected


def test_shipped_files_hold_no_secret() -> None:
    for path in (CHECKOUT / "config").glob("*.yaml"):
        assert "secret_key" not in (yaml.safe_load(path.read_text(encoding="utf-8")).get("security") or {})


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("network:\n  port: 1\nnetwork:\n  host: 127.0.0.1\n", "network", 3),
        ("network:\n  port: 1\n  host: localhost\n  port: 2\n", "port", 4),
        ("docker: {pids_limit: 64, pids_limit: 65}", "pids_limit", 1),
    ],
)
def test_key_that_stands_twice_is_refused_by_name_and_line(tmp_path: Path, text: str, key: str, line: int) -> None:
    error = refusal_of(tmp_path, text)
    assert (error.key_path, error.origin) == (key, str(tmp_path / "node.yaml"))
    assert f"in line {line}" in error.message


def test_key_that_stands_in_two_sections_is_not_twice(tmp_path: Path) -> None:
    text = "network: {host: localhost}\ndocker: {host: 'unix:///run/docker.sock'}\n"
    assert load_config(file_with(tmp_path, text)).network.host == "localhost"


def test_unhashable_key_is_not_yaml_for_us(tmp_path: Path) -> None:
    assert "not YAML" in str(refusal_of(tmp_path, "? [a]\n: 1\n"))


@pytest.mark.parametrize(
    "text",
    [
        "a: 2001-99-99",
        "a: 0x_",
        "a: !!int b",
        "a: !!bool b",
        "a: !!timestamp b",
        "a: " + "9" * 5000,
        "[" * 3000,
        "a: &a {b: *a}",
        "a: &a {x: 1}\nb: &b {x: *a, y: *a}\nc: &c {x: *b, y: *b}",
        "network: &a {port: *a}",
        "data_dir: ~nobody-of-this-name/x",
    ],
)
def test_what_yamls_reader_stumbles_over_is_refused_like_anything_else(tmp_path: Path, text: str) -> None:
    refusal_of(tmp_path, text)


def test_aliases_that_multiply_are_not_opened(tmp_path: Path) -> None:
    """Forty lines stand for 2^40 settings."""
    lines = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 40))]
    assert "a39" in str(refusal_of(tmp_path, "\n".join(lines)))


def test_a_file_beyond_any_settings_is_refused(tmp_path: Path) -> None:
    text = "network: {port: 1}\n"
    padded = text + "#" * (FILE_BYTES_MAX - len(text))
    assert load_config(file_with(tmp_path, padded)).network.port == 1
    assert "more than" in str(refusal_of(tmp_path, padded + "#"))


def test_a_variable_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "POLARISE_NETWORK_PORT" in str(refusal_of(tmp_path, environ={"POLARISE_NETWORK_PORT": "0x_"}))


@pytest.mark.parametrize(
    ("text", "mode"), [("off", "off"), ("'off'", "off"), ("auto", "auto"), ("required", "required")]
)
def test_word_that_yaml_takes_for_false_switches_the_firewall_off(tmp_path: Path, text: str, mode: str) -> None:
    config = load_config(file_with(tmp_path, f"network:\n  firewall: {text}\n"))
    assert config.network.firewall == mode
    assert load_config(environ={"POLARISE_NETWORK_FIREWALL": text}).network.firewall == mode


@pytest.mark.parametrize("text", ["on", "true", "none"])
def test_no_other_word_says_how_the_firewall_is(tmp_path: Path, text: str) -> None:
    assert refusal_of(tmp_path, f"network:\n  firewall: {text}\n").key_path == "network.firewall"


def test_cap_may_equal_the_claim_and_not_stay_one_bit_below(tmp_path: Path) -> None:
    """A validator that measures inside a lease would find less than the miner claims."""
    text = "miner: {network_bits_per_second: 1000}\nnetwork: {lease_%s_bits_per_second: %d}\n"
    for way in ("upload", "download"):
        load_config(file_with(tmp_path, text % (way, 1000)))
        assert f"network.lease_{way}_bits_per_second is below" in str(refusal_of(tmp_path, text % (way, 999)))


@pytest.mark.parametrize(
    ("network", "fix"),
    [
        ("host: 192.0.2.1, advertised_host: m.example, tls: off", "leave network.tls out"),
        ("host: 0.0.0.0, advertised_host: m.example, tls: 'off'", "use 127.0.0.1"),
        ("host: 0.0.0.0", "set it to the name or address they reach this host by"),
        ("host: 192.0.2.1, advertised_host: localhost", "set it to the name or address"),
        ("tls: maybe", "'auto', 'on' or 'off'"),
    ],
)
def test_what_would_serve_plain_http_to_others_is_refused_with_the_fix(tmp_path: Path, network: str, fix: str) -> None:
    error = refusal_of(tmp_path, f"network: {{{network}}}")
    assert error.key_path.startswith("network")
    assert fix in str(error)


@pytest.mark.parametrize(
    ("network", "is_tls"),
    [
        ("port: 1", False),
        ("host: 127.9.9.9", False),
        ("host: localhost, tls: off", False),
        ("tls: on", True),
        ("host: 0.0.0.0, advertised_host: 192.0.2.1", True),
        ("host: 192.0.2.1, advertised_host: m.example, tls: on", True),
    ],
)
def test_tls_is_on_wherever_others_listen(tmp_path: Path, network: str, is_tls: bool) -> None:
    """Also with the words that YAML reads as true and false."""
    assert load_config(file_with(tmp_path, f"network: {{{network}}}")).network.is_tls is is_tls
