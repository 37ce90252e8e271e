# SPDX-License-Identifier: Apache-2.0
"""Who the agent becomes when it gives up its rights."""

from __future__ import annotations

import os
import pwd
from typing import NamedTuple

from vipbee.errors import UsageError

DEFAULT_NAME = "vipbee"
DEFAULT_ID = 60786
"""If there is no such user. Nobody's: not root's, not `nobody`'s, which others run as too, and
between the ranges that distributions and systemd give out (systemd's UIDS-GIDS.md: unused)."""


class User(NamedTuple):
    name: str  # for people
    uid: int
    gid: int


def find_user(given: str | None) -> User:
    """The user of `--user`, else `vipbee` if there is one, else a number of nobody's.

    An agent that was not started as root stays who it is.
    """
    uid = os.geteuid()
    if uid != 0:
        user = User(_name_of(uid), uid, os.getegid())
        if given is not None and (wanted := _lookup(given)).uid != uid:
            raise UsageError(
                f"--user {given}: only root can become {wanted.name}; this is {user.name}"
            )
        return user
    if given is not None:
        return _lookup(given)
    try:
        return _lookup(DEFAULT_NAME)
    except UsageError:
        return User(str(DEFAULT_ID), DEFAULT_ID, DEFAULT_ID)


def _lookup(given: str) -> User:
    is_number = given.isascii() and given.isdigit()
    try:
        entry = pwd.getpwuid(int(given)) if is_number else pwd.getpwnam(given)
        user = User(entry.pw_name, entry.pw_uid, entry.pw_gid)
    except (KeyError, OverflowError):
        if not is_number or int(given) >= (1 << 32) - 1:
            raise UsageError(f"--user {given}: there is no such user") from None
        user = User(given, int(given), int(given))
    if user.uid == 0:
        raise UsageError("--user wants one without rights; to keep them, use --privileged")
    return user


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
