# SPDX-License-Identifier: Apache-2.0
"""What the agent does without rights on this machine, and what one that runs still has."""

from __future__ import annotations

import os
import pwd

from vipbee.datapath import capabilities
from vipbee.datapath.finding import Finding, Result
from vipbee.privileged.drop import CAP_BPF, maps_need_capability, read_rights
from vipbee.privileged.user import find_user


def probe_rights() -> Finding:
    """A row of `vipbee check`; nothing of it blocks."""
    what = "rights of the agent"
    user = find_user(None)
    if user.uid != os.geteuid() and (names := capabilities.lacking_to_change_user()):
        kept = f"keeps all in one process: {', '.join(names)} not effective"
        return Finding(what, Result.FALLS_BACK, kept)
    if maps_need_capability():
        kept = f"runs as {user.name} with CAP_BPF: below 5.19 maps take it"
        return Finding(what, Result.FALLS_BACK, kept)
    return Finding(what, Result.OK, f"none: it runs as {user.name}, a helper acts for it")


def describe_rights(pid: int) -> str | None:
    """Of a running agent, for people; None if it is not visible here."""
    rights = read_rights(pid)
    if rights is None:
        return None
    (uid,) = rights.uids if len(rights.uids) == 1 else (-1,)
    if not rights.permitted:
        what = "none"
    elif rights.permitted == 1 << CAP_BPF:
        what = "CAP_BPF alone: below 5.19 maps take it"
    else:
        what = "its own, without a helper"
    return f"{what}, as user {_name_of(uid)}"


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
