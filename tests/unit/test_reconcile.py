# SPDX-License-Identifier: Apache-2.0
"""From sources that come, fail and go to tables: R7, R8, R128, R129, F35. What else changes or
fails: test_reconcile_changes.py, test_reconcile_repairs.py."""

from __future__ import annotations

from tests.support.reconciling import CAPACITY, NOTHING, WEB_LINES, Node, web
from tests.support.services import service
from vipbee.core.dump import dump
from vipbee.model import Problem

# ---- begin ------------------------------------------------------------------------------


def test_nothing_is_programmed_before_begin() -> None:
    """R8"""
    node_ = Node()

    node_.replace("a", web())
    programmed = node_.program()
    reclaimed = node_.reconciler.reclaim()
    audited = node_.audit()

    assert programmed == reclaimed == audited == NOTHING
    assert dump(node_.tables.snapshot()) == ""
    assert not node_.reconciler.begun


def test_begin_programs_everything_known() -> None:
    """F18, R7, R8: slices before their Service, from different sources."""
    node_ = Node()
    one, two = web()
    node_.replace("slices", [two])
    node_.replace("services", [one])

    applied = node_.begin()

    assert node_.lines() == WEB_LINES
    assert applied.services == 1
    assert node_.reconciler.counts() == (1, 1)


def test_programming_again_writes_nothing() -> None:
    node_ = Node()
    node_.replace("a", web())
    node_.begin()

    node_.replace("a", web())

    assert node_.program().entries == 0
    assert node_.program() == NOTHING


def test_begin_removes_what_an_earlier_process_left() -> None:
    """R128: objects deleted while no agent ran."""
    first = Node()
    first.replace("a", [*web(), *web(11, "gone")])
    first.begin()

    second = first.restarted()
    second.replace("a", web())
    second.begin()

    assert second.lines() == WEB_LINES


def test_restart_with_the_same_objects_writes_nothing() -> None:
    """R128: ids, slots and counters stay."""
    first = Node()
    first.replace("a", web())
    first.begin()

    second = first.restarted()
    second.replace("a", web())

    assert second.begin().entries == 0
    assert second.audit().entries == 0


# ---- sources that fail -----------------------------------------------------------------------


def test_source_that_never_delivered_keeps_adopted_services() -> None:
    """R128, R129: what was programmed may be that source's."""
    first = Node()
    first.replace("a", web())
    first.replace("b", web(11, "other", 2))
    first.begin()

    second = first.restarted()
    second.replace("a", web(10, "web", 3))
    second.reconciler.fail("b", Problem("b.yaml", "cannot be read", True))
    second.begin()
    kept = second.services()
    web_line = second.lines()[0]
    audited = second.audit()

    assert kept == {"default/web:", "default/other:"}
    assert "10.244.0.3:8080" in web_line
    assert audited == NOTHING


def test_source_that_delivers_late_settles_what_was_kept() -> None:
    """R128: from then on nothing but what the sources say."""
    first = Node()
    first.replace("a", [*web(), *web(12, "gone", 4)])
    first.replace("b", web(11, "other", 2))
    first.begin()
    second = first.restarted()
    second.replace("a", web())
    second.reconciler.fail("b", Problem("b.yaml", "cannot be read", True))
    second.begin()

    second.reconciler.fail("b", None)
    second.replace("b", web(11, "other", 2))
    second.program()

    assert second.services() == {"default/web:", "default/other:"}
    assert second.audit().entries == 0


def test_source_that_fails_later_keeps_its_objects() -> None:
    """R129: the last good state."""
    node_ = Node()
    node_.replace("a", web())
    node_.begin()

    node_.reconciler.fail("a", Problem("a.yaml", "line 3 is wrong", True))
    applied = node_.program()
    audited = node_.audit()

    assert applied.entries == audited.entries == 0
    assert node_.lines() == WEB_LINES
    assert node_.reconciler.problems() == [Problem("a.yaml", "line 3 is wrong", True)]


def test_removed_source_takes_its_objects_along() -> None:
    node_ = Node()
    node_.replace("a", web(), [Problem("a.yaml", "odd", False)])
    node_.replace("b", web(11, "other", 2))
    node_.begin()

    node_.reconciler.remove_source("a")
    node_.program()

    assert node_.services() == {"default/other:"}
    assert node_.reconciler.problems() == []


# ---- problems and room ---------------------------------------------------------------------


def test_problems_are_sorted_and_said_once() -> None:
    """From sources, selection and conflicts over a VIP alike."""
    node_ = Node()
    odd = Problem("z.yaml", "odd", False)
    sctp = service("sctp", clusterIP="10.96.0.13", ports=[{"port": 80, "protocol": "SCTP"}])
    node_.replace("a", [*web(), *web(10, "zweb"), sctp], [odd, odd])
    node_.begin()

    problems = node_.reconciler.problems()

    assert problems == sorted(set(problems))
    assert odd in problems
    assert {problem.object for problem in problems} == {
        "Service default/sctp",
        "Service default/zweb",
        "z.yaml",
    }


def test_problem_goes_with_its_cause() -> None:
    node_ = Node()
    sctp = service("sctp", clusterIP="10.96.0.13", ports=[{"port": 80, "protocol": "SCTP"}])
    node_.replace("a", [sctp])
    node_.begin()
    before = len(node_.reconciler.problems())

    node_.replace("a", web())
    node_.program()

    assert before == 1
    assert node_.reconciler.problems() == []


def test_service_that_did_not_fit_is_served_once_there_is_room() -> None:
    """F35: refused whole, reported; room is there two reclaims after another went."""
    node_ = Node()
    crowd = [o for n in range(1, CAPACITY.services) for o in web(n, f"web{n}", n)]
    node_.replace("a", crowd)
    node_.replace("late", web(100, "late", 20))
    node_.begin()
    refused = {problem.object for problem in node_.reconciler.problems()}

    node_.replace("a", crowd[2:])
    node_.program()
    for _ in range(3):
        node_.reconciler.reclaim()

    assert len(refused) == 1
    assert node_.reconciler.problems() == []
    assert "default/late:" in node_.services()
    assert node_.audit().entries == 0
