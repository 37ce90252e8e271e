# SPDX-License-Identifier: Apache-2.0
"""Looks for kube-proxy once, and removes what it left. This is what takes rights."""

from __future__ import annotations

from vipbee.errors import VipbeeError
from vipbee.takeover.outcome import Step
from vipbee.takeover.rules import find_rules, remove_rules
from vipbee.takeover.running import find_running


def take_step() -> Step:
    """While a kube-proxy is alive its rules stay, as it would write them again."""
    if running := find_running():
        return Step(running=running)
    try:
        rules = find_rules()
        if not rules:
            return Step()
        removed = remove_rules(rules)
    except VipbeeError as error:
        return Step(error=str(error))
    return Step(found=str(rules), chains=removed.chains, kept=removed.kept)
