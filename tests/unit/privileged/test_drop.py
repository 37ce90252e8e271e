# SPDX-License-Identifier: Apache-2.0
"""Rights that were given up are gone: tried in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vipbee.privileged.drop import CAP_BPF, read_rights
from vipbee.privileged.user import User

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives up what only root has")

USER = User("4000001", 4000001, 4000002)
DROP = f"""
import ctypes, os, subprocess
from vipbee.privileged.drop import drop_rights, read_rights
from vipbee.privileged.user import User
drop_rights(User("x", {USER.uid}, {USER.gid}), keep=KEEP)
libc = ctypes.CDLL(None, use_errno=True)
rights = read_rights(os.getpid())
def fails(action):
    try:
        action()
    except PermissionError:
        return True
    return False
"""


def after_drop(code: str, *, keep: tuple[int, ...] = ()) -> str:
    program = DROP.replace("KEEP", repr(keep)) + code
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_user_group_or_capability_is_left() -> None:
    said = after_drop(
        "print(os.getresuid(), os.getresgid(), os.getgroups(), rights.uids, rights.permitted,"
        " rights.bounding, rights.has_no_new_privileges)"
    )

    ids = f"{(USER.uid,) * 3} {(USER.gid,) * 3} [] {{{USER.uid}}}"
    assert said == f"{ids} 0 0 True\n"


@pytest.mark.parametrize(
    "attempt",
    [
        "os.setuid(0)",
        "os.setgid(0)",
        "os.setgroups([0])",
        "open('/etc/shadow')",
        "os.chroot('/')",
        "open('/proc/1/mem')",
        "os.kill(os.getppid(), 0)",
    ],
)
def test_what_only_root_may_do_is_refused(attempt: str) -> None:
    assert after_drop(f"print(fails(lambda: {attempt}))") == "True\n"


def test_no_program_gives_rights_back() -> None:
    """Not even one with the setuid bit."""
    said = after_drop(
        "print(subprocess.run(['/bin/grep', '-E', '^(Uid|CapBnd|NoNewPrivs)', '/proc/self/status'],"
        " capture_output=True, text=True).stdout.split())"
    )

    uid = str(USER.uid)
    assert said == str(["Uid:", *[uid] * 4, "CapBnd:", "0" * 16, "NoNewPrivs:", "1"]) + "\n"


def test_the_smallest_set_is_kept_where_it_is_asked_for() -> None:
    """Below 5.19 maps take CAP_BPF."""
    said = after_drop("print(rights.permitted, rights.bounding)", keep=(CAP_BPF,))

    assert said == f"{1 << CAP_BPF} 0\n"


def test_rights_are_not_given_up_beside_another_thread() -> None:
    """They belong to threads: the other one would keep them."""
    code = f"""
import threading
from vipbee.privileged.drop import drop_rights
from vipbee.privileged.user import User
threading.Thread(target=threading.Event().wait, daemon=True).start()
drop_rights(User("x", {USER.uid}, {USER.gid}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert "the only thread" in done.stderr


def test_rights_of_a_process_that_is_gone_are_none() -> None:
    assert read_rights(1 << 30) is None
