# SPDX-License-Identifier: Apache-2.0
"""A client process that keeps its sockets while the test changes Services.

def client() -> Callable[[str], str]:
    sock = socket.socket(...)
    return lambda request: ...

with dialogue(hooked, client) as ask:
    before = ask("request")
    hooked.program(...)
    after = ask("request")
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from typing import Any

from tests.support.hooked import Hooked

Answerer = Callable[..., Any]


@contextlib.contextmanager
def dialogue(
    hooked: Hooked,
    client: Callable[[], Answerer],
    *,
    new_netns: bool = False,
    timeout_s: float = 15.0,
) -> Iterator[Answerer]:
    """Run `client()` in the namespace and let the answerer it returns answer calls.

    Arguments and answers are pickled; an exception it raises is raised here.
    """
    ours, theirs = Pipe()

    def serve(ready: Callable[[], None]) -> None:
        ours.close()
        answer = client()
        ready()
        while True:
            arguments = theirs.recv()
            try:
                outcome: tuple[bool, object] = (True, answer(*arguments))
            except Exception as error:
                outcome = (False, error)
            theirs.send_bytes(pickle.dumps(outcome))

    child = hooked.start(serve, new_netns=new_netns)
    theirs.close()

    def ask(*arguments: object) -> Any:
        ours.send(arguments)
        if not ours.poll(timeout_s):
            raise TimeoutError(f"no answer within {timeout_s} s")
        succeeded, result = pickle.loads(ours.recv_bytes())
        if not succeeded:
            raise result
        return result

    try:
        yield ask
    finally:
        child.stop()
        ours.close()
