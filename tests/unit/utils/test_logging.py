"""The log: one line per event, secrets masked, and no line that a peer could forge."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from polarise.errors import ConfigError
from utils.logging import JsonFormatter, TextFormatter, configure_logging

BREAKS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"]


def record(message: str = "lease granted", **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("neurons.miner", logging.INFO, __file__, 1, message, None, None)
    vars(made).update(fields)
    return made


@pytest.fixture(name="root_logger")
def keep_root_logger() -> Iterator[logging.Logger]:
    """Give the root logger back as pytest had it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for handler in handlers:
        root.removeHandler(handler)
    yield root
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


def test_json_line_holds_message_and_fields() -> None:
    line = json.loads(JsonFormatter().format(record(lease_id="ab", ssh_port=22)))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO",
        "logger": "neurons.miner",
        "event": "lease granted",
        "lease_id": "ab",
        "ssh_port": 22,
    }


def test_text_line_holds_message_and_fields() -> None:
    line = TextFormatter().format(record(lease_id="ab", cause="two words"))
    assert line.endswith('INFO    neurons.miner lease granted lease_id=ab cause="two words"')


@pytest.mark.parametrize("name", ["secret", "secret_key", "ssh_password", "passphrase", "token", "token_secrets"])
@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
def test_field_whose_name_says_secret_is_masked(formatter: logging.Formatter, name: str) -> None:
    line = formatter.format(record(**{name: "hunter2"}))
    assert "hunter2" not in line
    assert "***" in line


@pytest.mark.parametrize("line_break", BREAKS, ids=ascii)
@pytest.mark.parametrize("place", ["field", "message"])
def test_value_cannot_begin_a_line_of_its_own(line_break: str, place: str) -> None:
    text = f"x{line_break}2026-01-01T00:00:00.000Z INFO forged"
    made = record(text) if place == "message" else record(cause=text)
    assert len(TextFormatter().format(made).splitlines()) == 1
    assert len(JsonFormatter().format(made).split("\n")) == 1


def test_terminal_controls_in_a_value_are_escaped() -> None:
    line = TextFormatter().format(record(cause="\x1b[2J\x9b2J\x7f"))
    assert line.isprintable()


def test_traceback_goes_with_its_line() -> None:
    try:
        raise ValueError("the cause")
    except ValueError as err:
        made = record()
        made.exc_info = (type(err), err, err.__traceback__)
    assert "ValueError: the cause" in json.loads(JsonFormatter().format(made))["traceback"]


def test_lines_go_to_the_file_as_well(tmp_path: Path, root_logger: logging.Logger) -> None:
    path = tmp_path / "logs" / "node.log"
    configure_logging("INFO", "json", path)
    logging.getLogger("test").info("hello", extra={"lease_id": "ab"})
    logging.getLogger("test").debug("too fine")
    assert [json.loads(line)["event"] for line in path.read_text(encoding="utf-8").splitlines()] == ["hello"]
    assert len(root_logger.handlers) == 2


@pytest.mark.usefixtures("root_logger")
def test_file_that_cannot_be_opened_is_the_operators_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        configure_logging("INFO", "text", tmp_path / "file" / "node.log")
    assert caught.value.key_path == "logging.file"


def test_log_file_is_the_owner_s_alone(tmp_path: Path, root_logger: logging.Logger) -> None:
    configure_logging("INFO", "text", tmp_path / "logs" / "node.log")
    root_logger.info("a line")
    assert (tmp_path / "logs" / "node.log").stat().st_mode & 0o777 == 0o600
