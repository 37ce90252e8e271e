# SPDX-License-Identifier: Apache-2.0
"""The narrow seam between deciding and doing: somebody who has the tables.

`datapath.kernel` has them in the kernel, `datapath.memory` in this process. Core code
never calls this; reconcile, sweep and tests do.
"""

from __future__ import annotations

from typing import Protocol

from vipbee.core.plan import Op
from vipbee.core.snapshot import Snapshot


class Tables(Protocol):
    def apply(self, op: Op) -> None:
        """Write or delete the entries of one operation, in their order.

        Deleting what is not there is no error. Raise CapacityError if a hash is full,
        KernelError for anything else; entries before the failing one stay written.
        """

    def snapshot(self) -> Snapshot:
        """Return everything the tables hold now."""
