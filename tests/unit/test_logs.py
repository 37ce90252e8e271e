# SPDX-License-Identifier: Apache-2.0
"""What a line of the log looks like, for people and for machines."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vipbee.logs import configure_logs, get_log


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Logging is the process's: leave it as it was for other tests."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.getLogger("vipbee").setLevel(logging.NOTSET)


def test_json_logs_are_one_object_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs("json", "info")

    get_log().info("programmed", entries=3)
    get_log().debug("not shown")
    logging.getLogger("aiohttp.server").error("from %s", "elsewhere")

    first, second = map(json.loads, capfd.readouterr().err.splitlines())
    assert (first["message"], first["level"], first["entries"]) == ("programmed", "info", 3)
    assert first["timestamp"].endswith("Z")
    assert (second["message"], second["level"]) == ("from elsewhere", "error")


def test_json_takes_values_it_has_no_type_for(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs("json", "info")

    get_log().info("100 %s sure", path=Path("/x"), message="not the event")

    line = json.loads(capfd.readouterr().err)
    assert (line["message"], line["path"]) == ("100 %s sure", "/x")


def test_text_logs_have_key_and_value(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs("text", "warning")

    get_log().info("not shown")
    get_log().warning("problem", object="Service a/b", took_ms=1.5, by="tcx", hint="")

    printed = capfd.readouterr().err
    assert "[warning  ] problem by=tcx hint='' object='Service a/b' took_ms=1.5\n" in printed
    assert "not shown" not in printed


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_exceptions_of_others_are_shown_whole(
    log_format: str, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logs(log_format, "info")

    try:
        raise ZeroDivisionError("why")
    except ZeroDivisionError:
        logging.getLogger("asyncio").exception("a task failed")

    printed = capfd.readouterr().err
    assert "ZeroDivisionError: why" in printed
    assert "test_exceptions_of_others" in printed


def test_lines_that_cannot_be_written_are_lost_and_nothing_else() -> None:
    """F66: a full disk; F69: whoever read the log is gone."""
    code = """
import logging
from vipbee.logs import configure_logs, get_log
configure_logs("text", "info")
get_log().info("lost", text="x" * 100_000)
logging.getLogger("asyncio").error("lost too")
print("works on")
"""
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full, open(writer, "w") as broken:
        for stderr in (full, broken):
            done = subprocess.run(
                [sys.executable, "-c", code],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stdout) == (0, "works on\n")
