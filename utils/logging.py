"""One log line per event: constant message plus fields, as text for people or JSON for machines.

Rules:
- Fields are passed with ``extra={...}``; nothing is formatted into the message.
- A field whose name says secret, password or token is written as ``***``.
- Line feeds in values are escaped, so that no peer can forge a line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Literal

from polarise.errors import ConfigError

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_SECRET_WORDS = ("secret", "password", "passphrase", "token")
_FILE_BYTES = 10 * 1024 * 1024


def configure_logging(level: str, style: Literal["text", "json"], file: Path | None) -> None:
    """Send every logger of this process to stderr and, if given, to a rotated file.

    Raises:
        ConfigError: The log file cannot be opened.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # Made here, because the log may open before a daemon has set its umask.
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
            handlers.append(RotatingFileHandler(file, maxBytes=_FILE_BYTES, backupCount=5, encoding="utf-8"))
        except OSError as err:
            raise ConfigError(
                f"cannot write the log file {file}: {err.strerror}", key_path="logging.file", allowed="a writable path"
            ) from err
    formatter = JsonFormatter() if style == "json" else TextFormatter()
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(level)
    # Libraries that log every connection or request at INFO would drown our own lines.
    for noisy in ("paramiko", "urllib3", "docker", "uvicorn", "asyncio", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class TextFormatter(logging.Formatter):
    """``2026-01-01T00:00:00.000Z INFO neurons.miner.node lease granted lease_id=…``."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one line; a traceback follows on lines of its own."""
        fields = " ".join(f"{name}={_plain(value)}" for name, value in _fields(record).items())
        message = _plain_message(record)
        line = f"{_stamp(record)} {record.levelname:<7} {record.name} {message} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, event, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one line."""
        entry: dict[str, object] = {
            "time": _stamp(record),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return {name: "***" if any(word in name for word in _SECRET_WORDS) else value for name, value in fields.items()}


def _plain(value: object) -> str:
    text = str(value)
    if not text.isprintable():
        # To ASCII, because JSON alone leaves NEL, U+2028 and the C1 controls as they are.
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False) if " " in text or not text else text


def _plain_message(record: logging.LogRecord) -> str:
    message = record.getMessage()
    return message if message.isprintable() else json.dumps(message)[1:-1]


def _stamp(record: logging.LogRecord) -> str:
    stamp = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return stamp.replace("+00:00", "Z")
