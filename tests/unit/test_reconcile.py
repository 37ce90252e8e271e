# SPDX-License-Identifier: Apache-2.0
"""From sources that come, fail and change to tables: R7, R8, R90, R126, R128, R130, F35, F36."""

from __future__ import annotations

import errno

import pytest

from tests.support.services import endpoint, endpoint_slice, node, service
from vipbee.abi import MapName
from vipbee.address import parse_address
from vipbee.core.dump import dump
from vipbee.core.plan import Op
from vipbee.core.snapshot import Capacity, Snapshot
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.memory import MemoryTables
from vipbee.errors import KernelError
from vipbee.model import ApiObject, Problem
from vipbee.reconcile import Applied, NodeSettings, Reconciler

LAYOUTS = load_layouts()
CAPACITY = Capacity(frontends=24, addresses=24, slots=32, backends=24, services=8)
NOTHING = Applied(0, 0, False)
LOOPBACK = ["address ::1 NODE|HOST_ONLY|OWN", "address 127.0.0.1 NODE|HOST_ONLY|OWN"]


class FailingTables:
    """Memory tables of which one operation can be made to fail."""

    def __init__(self, memory: MemoryTables) -> None:
        self.memory = memory
        self.failing: MapName | None = None

    def apply(self, op: Op) -> None:
        if op.map == self.failing:
            raise KernelError(f"map {op.map} cannot be written", errno.ENOMEM)
        self.memory.apply(op)

    def snapshot(self) -> Snapshot:
        return self.memory.snapshot()


class Node:
    """A reconciler and the tables it keeps."""

    def __init__(self, tables: MemoryTables | None = None, addresses: str = "primary") -> None:
        self.tables = FailingTables(tables or MemoryTables(LAYOUTS, CAPACITY))
        settings = NodeSettings("node-a", addresses)
        self.reconciler = Reconciler(self.tables, LAYOUTS, CAPACITY, settings)
        self.replace, self.begin = self.reconciler.replace, self.reconciler.begin
        self.program, self.audit = self.reconciler.program, self.reconciler.audit

    def lines(self) -> list[str]:
        """The tables as text, without loopback."""
        lines = dump(self.tables.snapshot()).splitlines()
        return [line for line in lines if line not in LOOPBACK]

    def services(self) -> set[str]:
        """Names of Services that have a frontend."""
        lines = [line for line in self.lines() if "cluster=[" in line]
        return {word for line in lines for word in line.split() if word.startswith("default/")}

    def restarted(self) -> Node:
        """Another process on the same tables."""
        other = Node(self.tables.memory)
        other.reconciler.adopt()
        return other


def web(number: int = 10, name: str = "web", backend: int = 1) -> list[ApiObject]:
    """Service default/<name> on 10.96.0.<number> with one endpoint."""
    return [
        service(name, clusterIP=f"10.96.0.{number}"),
        endpoint_slice(f"10.244.0.{backend}", name=f"{name}-1", service=name),
    ]


WEB_LINES = [
    "10.96.0.10:80/TCP ClusterIP default/web: cluster=[10.244.0.1:8080] local=[]",
    "address 10.96.0.10 CLUSTER_IP",
    "backend default/web:/TCP 10.244.0.1:8080 SERVING|IN_CLUSTER|READY",
]


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
    """R7, R8: slices before their Service, from different sources."""
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


def test_only_new_tables_that_were_written_need_no_audit() -> None:
    """What an earlier process left may be damaged where adoption does not look."""
    first, failed = Node(), Node()
    first.replace("a", web())
    failed.replace("a", web())
    failed.tables.failing = MapName.SLOTS

    first.begin()
    with pytest.raises(KernelError):
        failed.begin()

    assert not first.reconciler.needs_audit
    assert failed.reconciler.needs_audit
    assert first.restarted().reconciler.needs_audit


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


# ---- writes that fail ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failing", [MapName.BACKENDS, MapName.SLOTS, MapName.SERVICES, MapName.FRONTENDS]
)
def test_failed_write_is_healed_by_an_audit(failing: MapName) -> None:
    """F36, R130: known as out of step until an audit has compared."""
    node_ = Node()
    node_.replace("a", web())
    node_.begin()
    node_.tables.failing = failing

    node_.replace("a", [*web(), *web(11, "other", 2)])
    with pytest.raises(KernelError):
        node_.program()
    out_of_step = node_.reconciler.out_of_step
    still = WEB_LINES[0] in node_.lines()
    node_.tables.failing = None
    node_.audit()

    fresh = Node()
    fresh.replace("a", [*web(), *web(11, "other", 2)])
    fresh.begin()
    assert out_of_step
    assert still
    assert not node_.reconciler.out_of_step
    assert node_.lines() == fresh.lines()
    assert node_.audit().entries == 0


def test_only_what_was_written_is_in_force() -> None:
    """R103: a step that had nothing to do must not make a failed one forgotten."""
    node_ = Node()
    node_.replace("a", web())
    before = node_.reconciler.is_in_force
    node_.tables.failing = MapName.FRONTENDS

    with pytest.raises(KernelError):
        node_.begin()
    node_.reconciler.reclaim()
    failed = node_.reconciler.is_in_force
    node_.tables.failing = None
    node_.audit()

    assert (before, failed, node_.reconciler.is_in_force) == (False, False, True)


def test_audit_that_fails_leaves_it_out_of_step() -> None:
    """F36"""
    node_ = Node()
    node_.replace("a", web())
    node_.begin()
    snapshot = node_.tables.snapshot()
    node_.tables.apply(Op(MapName.FRONTENDS, snapshot.frontend_keys, None))
    node_.tables.failing = MapName.FRONTENDS

    with pytest.raises(KernelError):
        node_.audit()

    assert node_.reconciler.out_of_step


def test_audit_repairs_and_deletes_nothing_while_a_source_is_unknown() -> None:
    """R8, R130, F36: what the unread file says may be programmed already."""
    earlier = Node()
    earlier.replace("b", web(12, "other"))
    earlier.begin()
    node_ = Node(earlier.tables.memory)
    node_.reconciler.adopt()
    node_.reconciler.fail("b", Problem("b", "cannot be read", True))
    node_.replace("a", web())
    node_.tables.failing = MapName.FRONTENDS
    with pytest.raises(KernelError):
        node_.begin()
    node_.tables.failing = None

    node_.audit()

    assert node_.reconciler.is_in_force
    assert node_.services() == {"default/web:", "default/other:"}
    assert node_.audit().entries == 0


def test_audit_counts_what_it_repaired() -> None:
    """R130"""
    node_ = Node()
    node_.replace("a", web())
    node_.begin()
    snapshot = node_.tables.snapshot()
    node_.tables.apply(Op(MapName.FRONTENDS, snapshot.frontend_keys, None))

    applied = node_.audit()

    assert applied.entries == 1
    assert node_.lines() == WEB_LINES


# ---- what changes ------------------------------------------------------------------------------


def test_new_node_address_serves_node_ports() -> None:
    """R90"""
    node_ = Node(addresses="0.0.0.0/0")
    node_.reconciler.set_local_addresses([parse_address("172.30.0.1")])
    node_.replace("a", [service(type="NodePort", ports=[{"port": 80, "nodePort": 30080}])])
    node_.begin()

    def node_addresses() -> set[str]:
        return {line.split()[1] for line in node_.lines() if line.endswith("NODE|OWN")}

    before = node_addresses()
    node_.reconciler.set_local_addresses([parse_address("172.30.0.2")])
    node_.program()
    after = node_addresses()
    node_.reconciler.set_local_addresses([parse_address("172.30.0.2")])

    assert before == {"172.30.0.1"}
    assert after == {"172.30.0.2"}
    assert node_.program() == NOTHING


def test_node_zone_selects_endpoints() -> None:
    """R70, R75: a change of the Node object alone."""
    objects = [
        service(),
        endpoint_slice(endpoint("10.244.0.1", zones=["a"]), endpoint("10.244.0.2", zones=["b"])),
    ]
    node_ = Node()
    node_.replace("a", [*objects, node("node-a", zone="a")])
    node_.begin()

    node_.replace("a", [*objects, node("node-a", zone="b")])
    node_.program()

    assert "cluster=[10.244.0.2:8080]" in node_.lines()[0]


@pytest.mark.parametrize(
    ("after", "withdrawn"),
    [
        ([endpoint("10.244.0.1", ready=False, serving=False)], True),
        ([], True),
        ([endpoint("10.244.0.1", ready=False, serving=True, terminating=True)], False),
        (["10.244.0.1", "10.244.0.2"], False),
    ],
    ids=["not serving", "gone", "draining", "one more"],
)
def test_applied_says_whether_a_backend_was_withdrawn(
    after: list[dict[str, object] | str], withdrawn: bool
) -> None:
    """R111: only then UDP sockets may be stale."""
    node_ = Node()
    node_.replace("a", [service(), endpoint_slice("10.244.0.1")])
    node_.begin()

    node_.replace("a", [service(), endpoint_slice(*after)])
    applied = node_.program()

    assert applied.entries > 0
    assert applied.backends_withdrawn == withdrawn


def test_service_comes_back_under_its_name() -> None:
    """R126, R127: another ClusterIP, then the old one again."""
    node_ = Node()
    node_.replace("a", web())
    node_.begin()

    node_.replace("a", [])
    node_.program()
    empty = node_.lines()
    node_.replace("a", web(12))
    node_.program()
    elsewhere = node_.lines()[0]
    node_.replace("a", web())
    node_.program()

    assert empty == []
    assert elsewhere.startswith("10.96.0.12:80/TCP")
    assert node_.lines() == WEB_LINES


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
