# SPDX-License-Identifier: Apache-2.0
"""Structured logs on stderr: `time [level] event key=value` for people, or JSON lines."""

from __future__ import annotations

import io
import logging
import sys
from typing import TYPE_CHECKING, TextIO

import structlog
from structlog.typing import Processor

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_STDERR = 2


def configure_logs(log_format: str, level: str) -> None:
    """Set up structlog, and the standard library's loggers (aiohttp) through it.

    `log_format` is "text" or "json"; `level` a name of `logging` in lower case.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering = _rendering(log_format)
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(stream := _lossy_stderr()),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    # asyncio and aiohttp speak rarely below warning, and then of themselves
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)


def _rendering(log_format: str) -> list[Processor]:
    if log_format == "json":
        return [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)]


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
