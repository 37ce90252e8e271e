# SPDX-License-Identifier: Apache-2.0
"""A table of any size: Services with a load balancer IP each, and established connections.

One half of the Services has its backend on this node, the other half elsewhere. Written in
batches as the agent and the datapath would have; the packets then are real ones.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import numpy as np

from bench.packets.driver import FRAME_SIZE, Drive, Driver
from bench.packets.speed import PASS, REDIRECT, Case
from tests.support.packet_bench import Bench
from tests.support.packet_model.generate import Segment
from tests.support.packet_model.lab import CLUSTER, ON_NODE, V4
from tests.support.packet_model.wire import TCP, Endpoint
from tests.support.packet_model.world import packed
from vipbee.abi import AddressFlag, ConntrackFlag, ConntrackSeen, FrontendKind
from vipbee.core.connection_age import reply_tuples
from vipbee.core.snapshot import Records
from vipbee.datapath import syscall

PLACES = ("remote", "local")
PORT, TARGET_PORT = 80, 8080
_VIP = {"remote": 0x0B000000, "local": 0x0B800000}
_BACKEND = {"remote": 0x0C000000, "local": 0x0D000000}
_CLIENT = {"remote": 0x64400000, "local": 0x64600000}
_FIRST_NEW = 1 << 20  # past every established flow, so that no reply tuple is taken
_CLIENT_SHIFT, _FIRST_PORT, _PORT_MASK = 12, 32_768, 0x7FFF
_FIRST_ID = 1000  # the lab has those before
_MAPPED = 0xFFFF


def sizes(services: int, flows: int) -> dict[str, int]:
    """max_entries for a Bench with so many, and room for what is measured."""
    rows = services + 4096
    tables = ("frontends", "addresses", "slots", "backends", "backend_counters")
    states = {f"{name}_outside": flows + 4096 for name in ("conntrack", "nat")}
    unfinished = {f"{name}_new_outside": 1 << 18 for name in ("conntrack", "nat")}
    return {**dict.fromkeys((*tables, "service_counters"), rows), **states, **unfinished}


def fill(bench: Bench, services: int, flows: int) -> None:
    """So many of each place, half of the whole."""
    for place in PLACES:
        _fill_services(bench, place, services)
        _fill_flows(bench, place, services, flows)


def cases(bench: Bench, services: int, flows: int) -> dict[str, Case]:
    """A packet of any established connection, and the first one of another client."""
    client = Endpoint(packed(V4.client), 40_000)
    vip = Endpoint(packed(V4.elsewhere), PORT)
    program = bench.datapath.program_fd("vipbee_uplink_in")
    found = {}
    for place in PLACES:
        verdict = REDIRECT if place == "remote" else PASS
        drive = Drive(
            Segment(client, vip, TCP, "A", 1001, 5001, bytes(FRAME_SIZE)).frame(),
            flows=flows,
            is_random=True,
            client=_CLIENT[place],
            client_shift=_CLIENT_SHIFT,
            port=_FIRST_PORT,
            port_mask=_PORT_MASK,
            server=_VIP[place],
            servers=services,
        )
        syn = Segment(client, vip, TCP, "S", payload=bytes(FRAME_SIZE)).frame()
        new = replace(drive, frame=syn, flows=1 << 31, is_random=False, first=_FIRST_NEW)
        ifindex = bench.ifindexes["up0"]
        found[f"established, {place}"] = Case(program, ifindex, drive, verdict)
        hot = replace(drive, flows=1)
        found[f"established, {place}, one flow"] = Case(program, ifindex, hot, verdict)
        found[f"new, {place}"] = Case(program, ifindex, new, verdict)
    return found


def first_and_second(driver: Driver, case: Case, *, rounds: int) -> tuple[float, float]:
    """Net ns of the first packet in a second, and of the next, of flows not in any cache.

    The first one of a second also refreshes both halves of the connection.
    """
    first, second = [], []
    size = min(1 << 17, 1 << (case.drive.flows.bit_length() - 1))
    drive = replace(case.drive, is_random=False, flows=size, stride=0x9E3779B1)
    for _ in range(rounds):
        noop = driver.run(driver.noop, drive, ifindex=case.ifindex, repeat=size).nanoseconds
        time.sleep(1.01 - time.clock_gettime(time.CLOCK_MONOTONIC) % 1)
        second_began = int(time.clock_gettime(time.CLOCK_MONOTONIC))
        passes = [
            driver.run(case.program_fd, drive, ifindex=case.ifindex, repeat=size).nanoseconds
            for _ in range(2)
        ]
        if int(time.clock_gettime(time.CLOCK_MONOTONIC)) == second_began:
            first.append(passes[0] - noop)
            second.append(passes[1] - noop)
    if not second:
        raise RuntimeError("the machine is too busy: two passes over the flows took a second")
    return statistics.median(first), statistics.median(second)


def _ids(place: str, services: int) -> np.ndarray:
    first = _FIRST_ID + PLACES.index(place) * services
    return np.arange(first, first + services, dtype=np.uint32)


def _put_addresses(field: Records, numbers: np.ndarray | int) -> None:
    field["word"][:, 2] = _MAPPED
    field["word"][:, 3] = numbers


def _fill_services(bench: Bench, place: str, services: int) -> None:
    layouts, ids = bench.tables.layouts, _ids(place, services)
    number = np.arange(services, dtype=np.uint32)
    backends = np.zeros(services, layouts["backend"])
    _put_addresses(backends["address"], _BACKEND[place] + number)
    backends["port"], backends["protocol"], backends["generation"] = TARGET_PORT, TCP, 1
    backends["flags"] = int(CLUSTER if place == "remote" else ON_NODE)
    backends["service_id"] = ids
    keys = np.zeros(services, layouts["frontend_key"])
    _put_addresses(keys["address"], _VIP[place] + number)
    keys["port"], keys["protocol"] = PORT, TCP
    frontends = np.zeros(services, layouts["frontend"])
    frontends["service_id"], frontends["kind"] = ids, int(FrontendKind.LOAD_BALANCER)
    frontends["cluster"]["first"], frontends["cluster"]["count"] = ids, 1
    addresses = np.full(services, int(AddressFlag.EXTERNAL), np.uint32)
    _put(bench, "backends", ids, backends)
    _put(bench, "slots", ids, ids)
    _put(bench, "frontends", keys, frontends)
    _put(bench, "addresses", np.ascontiguousarray(keys["address"]), addresses)


def _fill_flows(bench: Bench, place: str, services: int, flows: int) -> None:
    """Flow i as the driver makes its packets, both halves."""
    layouts, ids = bench.tables.layouts, _ids(place, services)
    number = np.arange(flows, dtype=np.uint32)
    keys = np.zeros(flows, layouts["flow_tuple"])
    _put_addresses(keys["source"], _CLIENT[place] + (number >> _CLIENT_SHIFT))
    _put_addresses(keys["destination"], _VIP[place] + number % services)
    keys["source_port"] = _FIRST_PORT + (number & _PORT_MASK)
    keys["destination_port"], keys["protocol"] = PORT, TCP
    values = np.zeros(flows, layouts["conntrack"])
    _put_addresses(values["backend"], _BACKEND[place] + number % services)
    values["backend_port"], values["source_port"] = TARGET_PORT, keys["source_port"]
    values["service_id"] = values["backend_id"] = ids[number % services]
    values["generation"] = 1
    values["last_seen"] = int(time.clock_gettime(time.CLOCK_MONOTONIC))
    values["client_seen"] = values["backend_seen"] = int(ConntrackSeen.PACKET | ConntrackSeen.SYN)
    if place == "remote":
        _put_addresses(values["source"], int.from_bytes(packed(V4.node)))
        values["flags"] = int(ConntrackFlag.SOURCE_NAT | ConntrackFlag.REDIRECT)
    else:
        values["source"] = keys["source"]
    halves = np.zeros(flows, layouts["nat"])
    halves["original"] = keys
    for field in ("service_id", "backend_id", "generation", "last_seen", "flags"):
        halves[field] = values[field]
    _put(bench, "conntrack_outside", keys, values)
    _put(bench, "nat_outside", reply_tuples(keys, values), halves)


def _put(bench: Bench, name: str, keys: np.ndarray, values: np.ndarray) -> None:
    done = syscall.map_update_batch(
        bench.tables.fd_of(name), np.ascontiguousarray(keys), np.ascontiguousarray(values)
    )
    if done != len(keys):
        raise RuntimeError(f"{name}: {done} of {len(keys)} entries")
