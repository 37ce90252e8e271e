# SPDX-License-Identifier: Apache-2.0
"""Structured logs on stderr: `time [level] event key=value` for people, or JSON lines.

    log = get_log()
    log.info("programmed", entries=3)

A thin layer over the standard library's logging, which asyncio and aiohttp speak as well.
structlog does the same, and imports rich for it: 45 ms of every start.
"""

from __future__ import annotations

import io
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_NAME = "vipbee"
_STDERR = 2
_FIELDS = "vipbee_fields"
_QUOTED = frozenset(" \t\r\n='\"")


class Log:
    """Events with fields. Nothing is shown below the level of `configure_logs`."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, /, **fields: object) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._log(logging.ERROR, event, fields)

    def _log(self, level: int, event: str, fields: dict[str, object]) -> None:
        # as an argument, because an event may contain a percent sign
        self._logger.log(level, "%s", event, extra={_FIELDS: fields})


def get_log() -> Log:
    return Log(logging.getLogger(_NAME))


def configure_logs(log_format: str, level: str) -> None:
    """Set up our loggers and everybody else's.

    `log_format` is "text" or "json"; `level` a name of `logging` in lower case.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    handler = logging.StreamHandler(_lossy_stderr())
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    # asyncio and aiohttp speak rarely below warning, and then of themselves
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)
    logging.getLogger(_NAME).setLevel(number)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            **_fields(record),
            "level": record.levelname.lower(),
            "timestamp": _time(record),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        words = [_time(record), f"[{record.levelname.lower():9}]", record.getMessage()]
        words += [f"{key}={_shown(value)}" for key, value in sorted(_fields(record).items())]
        line = " ".join(words)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, _FIELDS, {})
    return fields


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")


def _shown(value: object) -> str:
    """Text as it is, unless somebody could not tell where it ends."""
    if isinstance(value, str) and value and _QUOTED.isdisjoint(value):
        return value
    return repr(value)


def _lossy_stderr() -> TextIO:
    """What cannot be written, to a full disk or to nobody, is lost: it ends no agent (F66)."""
    raw = _Lossy(_STDERR, "w", closefd=False)
    return io.TextIOWrapper(raw, errors="backslashreplace", write_through=True)


class _Lossy(io.FileIO):
    """Unbuffered: a line is one write(2), and nothing waits for the end of the process."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes
