# SPDX-License-Identifier: Apache-2.0
"""What the agent would load while it runs, loaded before it gives up its rights.

It may not be able to read the place where it is installed afterwards: under /root, say.
"""

from __future__ import annotations

import importlib

from vipbee.datapath.layouts import load_layouts

_LATE = (
    # the standard library and NumPy import these when they are first needed
    "concurrent.futures.thread",
    "encodings.idna",
    "encodings.unicode_escape",
    "numpy.ma",
    "_strptime",
)


def preload() -> None:
    """Import what is imported late, and read what is read from the installation."""
    load_layouts()
    for name in _LATE:
        importlib.import_module(name)
