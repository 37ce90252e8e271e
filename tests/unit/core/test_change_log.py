# SPDX-License-Identifier: Apache-2.0
"""What waits to be in force, and since when (R106, R108)."""

from __future__ import annotations

import pytest

from tests.support.services import endpoint_slice, service
from vipbee.core.change_log import MAX_TRIGGERS, TRIGGER_ANNOTATION, ChangeLog, Trigger
from vipbee.core.store import Store
from vipbee.model import EndpointSlice

BORN, LATER = 1_540_231_200.0, "2018-10-22T18:00:01.500000001Z"


def triggered(text: str, *, family: str = "IPv4") -> EndpointSlice:
    made = endpoint_slice(family=family)
    made.metadata.annotations = {TRIGGER_ANNOTATION: text}
    return made


def test_trigger_is_kept_until_it_is_in_force() -> None:
    log = ChangeLog(BORN)

    log.note_slice(None, triggered(LATER))
    log.note_slice(None, triggered(LATER, family="IPv6"))

    assert log.settle() == [Trigger(4, BORN + 1.5), Trigger(6, BORN + 1.5)]
    assert log.settle() == []


@pytest.mark.parametrize("text", ["", "yesterday", "2018-10-22T17:59:59Z", "2018-99-22T18:00:00Z"])
def test_times_that_say_nothing_are_ignored(text: str) -> None:
    """R108: unparsable, and older than this process."""
    log = ChangeLog(BORN)

    log.note_slice(None, triggered(text))

    assert log.settle() == []
    assert log.endpoints.total[4] == 1


def test_slice_that_is_gone_waits_for_nothing() -> None:
    """R108."""
    log = ChangeLog(BORN)

    log.note_slice(triggered(LATER), None)

    assert log.settle() == []
    assert log.endpoints.total[4] == 1


def test_triggers_do_not_pile_up_while_nothing_can_be_programmed() -> None:
    log = ChangeLog(BORN)

    for _ in range(MAX_TRIGGERS + 1):
        log.note_slice(None, triggered(LATER))

    assert len(log.settle()) == MAX_TRIGGERS


def test_store_tells_what_became_another_and_nothing_else() -> None:
    """The same object again, and objects that do not count (R2, R3), are no changes."""
    log = ChangeLog()
    store = Store(log)
    dual = service(clusterIP="10.96.0.10", clusterIPs=["10.96.0.10", "fd00::10"])

    store.upsert("api", dual)
    store.upsert("api", dual)
    store.upsert("api", service("other", labels={"service.kubernetes.io/service-proxy-name": "x"}))
    store.upsert("api", endpoint_slice("10.0.0.1"))
    store.upsert("api", endpoint_slice("10.0.0.1"))
    store.upsert("api", endpoint_slice(service=None, name="nobodys"))
    store.delete("api", "EndpointSlice", "default", "web-1")

    assert log.services.total == {4: 1, 6: 1}
    assert log.endpoints.total == {4: 2}
