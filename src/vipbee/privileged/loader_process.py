# SPDX-License-Identifier: Apache-2.0
"""Loading in a process that ends with it, so that the helper never holds libbpf.

Forked early it gets ready (probing what the kernel can, having it verify the programs) while
the agent does its imports, and pins and attaches when told to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from vipbee.config import AgentConfig
from vipbee.privileged import failures
from vipbee.privileged.child import fork, run_child
from vipbee.privileged.requests import Answer, Failed, Started, decode_answer, encode

_GO = b"g"


class LoaderProcess:
    """A child that gets ready and waits for `result`; it ends when nobody waits any more."""

    def __init__(self, config: AgentConfig, close: Callable[[], None]) -> None:
        """`close` closes in the child what is not its business."""
        told, self._tell = os.pipe()
        self._answers, answer = os.pipe()
        self._pid = fork()
        if self._pid == 0:
            os.close(self._tell)
            os.close(self._answers)
            run_child(lambda: _write(answer, _run(config, told)), close)
        os.close(told)
        os.close(answer)

    def result(self) -> Started:
        """Let it load, and wait; raise what it raised."""
        with contextlib.suppress(BrokenPipeError):  # it has died: the other pipe says so
            os.write(self._tell, _GO)
        os.close(self._tell)
        with open(self._answers, "rb") as answers:
            said = answers.read()
        with contextlib.suppress(ChildProcessError):  # reaped already, if it died early
            os.waitpid(self._pid, 0)
        if not said:
            raise RuntimeError("the process that loads the datapath has died")
        answer = decode_answer(said)
        if isinstance(answer, Failed):
            raise failures.error_of(answer)
        assert isinstance(answer, Started)
        return answer


def _run(config: AgentConfig, told: int) -> Answer | None:
    """In the child: the answer, None if nobody asked."""
    asked = False
    try:
        from vipbee.datapath.loader import prepare
        from vipbee.privileged.loading import bring_up_datapath, load_request

        with prepare(load_request(config)) as prepared:
            asked = bool(os.read(told, 1))
            return bring_up_datapath(prepared) if asked else None
    except Exception as error:
        return failures.failed(error) if asked or os.read(told, 1) else None


def _write(fd: int, answer: Answer | None) -> None:
    if answer is not None:
        with open(fd, "wb") as file:
            file.write(encode(answer))
