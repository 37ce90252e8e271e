# SPDX-License-Identifier: Apache-2.0
"""The one error of the lab's own: a part of it does not do what it should."""

from __future__ import annotations

from vipbee.errors import VipbeeError


class LabError(VipbeeError):
    """A server, agent or probe of a lab ended, is not ready in time or cannot be started."""
