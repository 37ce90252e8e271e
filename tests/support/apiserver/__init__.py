# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes API server for tests: the resources vipbee reads, and faults on demand.

    selectors ─► objects (versions, history)  ─┐
                 faults  (what goes wrong)    ─┴─► server (HTTP) ─► __main__ (a process)

Behaves like the real one where a reflector could notice; see objects.py and server.py for
where the behaviour is taken from.
"""

from tests.support.apiserver.faults import Answer, Fault, Hang, Reset, Script, StallAfter
from tests.support.apiserver.objects import KINDS, Objects
from tests.support.apiserver.server import ApiServer

__all__ = [
    "KINDS",
    "Answer",
    "ApiServer",
    "Fault",
    "Hang",
    "Objects",
    "Reset",
    "Script",
    "StallAfter",
]
