# SPDX-License-Identifier: Apache-2.0
"""Who the agent becomes."""

from __future__ import annotations

import pwd

import pytest

from vipbee.errors import UsageError
from vipbee.privileged.user import DEFAULT_ID, User, find_user

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture(autouse=True)
def started_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)


def known(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def getpwnam(name: str) -> pwd.struct_passwd:
        if name not in names:
            raise KeyError(name)
        return NOBODY

    monkeypatch.setattr("pwd.getpwnam", getpwnam)


def test_default_is_vipbee_if_there_is_such_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, "vipbee")

    assert find_user(None) == User(NOBODY.pw_name, NOBODY.pw_uid, NOBODY.pw_gid)


def test_default_is_nobodys_number_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)

    assert find_user(None) == User(str(DEFAULT_ID), DEFAULT_ID, DEFAULT_ID)


def test_a_name_or_a_number_is_taken() -> None:
    assert find_user("nobody").uid == NOBODY.pw_uid
    assert find_user(str(NOBODY.pw_uid)).gid == NOBODY.pw_gid
    assert find_user("4000001") == User("4000001", 4000001, 4000001)


@pytest.mark.parametrize("given", ["no-such-user", "4294967295", "99999999999", "-1", "１２"])
def test_a_user_that_cannot_be_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="no such user"):
        find_user(given)


@pytest.mark.parametrize("given", ["root", "0", "00"])
def test_root_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="--privileged"):
        find_user(given)


def test_who_is_not_root_stays_who_he_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: NOBODY.pw_uid)

    assert find_user(None).uid == find_user("nobody").uid == NOBODY.pw_uid
    with pytest.raises(UsageError, match="only root can become"):
        find_user("4000001")
