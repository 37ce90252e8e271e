# SPDX-License-Identifier: Apache-2.0
"""EndpointSlices → the backends of one Service port, with their place in each set.

Two ways to the same result. `_read_plain` takes what nearly every Service is: every
endpoint Ready, none terminating, no hints, no address twice. `_join` takes everything
and is the definition; a property test compares the two.

Rules: joining R11–R13, merging R17–R25, conditions R26–R31, topology R68–R75,
serving R110.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

from vipbee.abi import BackendFlag
from vipbee.address import V4_PREFIX, family_of, parse_address
from vipbee.core.endpoint_sets import NO_HINTS, Member, Place, PortEndpoints, merge
from vipbee.core.nodes import NodeView
from vipbee.core.policy import SUSPECT_V4, SUSPECT_V6, refused_backend
from vipbee.model import Backend, Endpoint, EndpointSlice, Hint, Problem

_ADDRESS_TYPE = {4: "IPv4", 6: "IPv6"}
_PROTOCOLS = frozenset(("TCP", "UDP", "SCTP"))

_ON_NODE = int(BackendFlag.ON_NODE)
_PLAIN_REMOTE = int(BackendFlag.READY | BackendFlag.SERVING | BackendFlag.IN_CLUSTER)
_PLAIN_LOCAL = _PLAIN_REMOTE | _ON_NODE | int(BackendFlag.IN_LOCAL)

# Backend(*row) without the Python-level __new__ of NamedTuple: a fifth of select's time.
_to_backend = partial(tuple.__new__, Backend)


class EndpointTable:
    """The slices of one Service, read once for one family and asked port by port."""

    def __init__(self, slices: Sequence[EndpointSlice], *, family: int, node: NodeView) -> None:
        wanted = _ADDRESS_TYPE[family]  # FQDN and unknown types feed nobody (R20)
        mine = [item for item in slices if item.addressType == wanted]
        self._node = node
        self._plain = _read_plain(mine, family, node)
        self.problems: list[Problem] = []
        if self._plain is None:
            self._read = _read_all(mine, family, node, self.problems)

    def port(self, name: str, protocol: str) -> PortEndpoints:
        """The endpoints of Service port `name` ("" if it has none) and `protocol` ("TCP")."""
        if self._plain is not None:
            plain = _join_plain(self._plain, name, protocol)
            if plain is not None:
                return plain
            return _join(_unplain(self._plain), name, protocol, self._node)
        return _join(self._read, name, protocol, self._node)


# ---- the plain way -------------------------------------------------------------


class _PlainSlice(NamedTuple):
    ports: tuple[tuple[str, str, int], ...]  # name, protocol, number
    rows: tuple[tuple[bytes, int], ...]  # address, backend flags


def _read_plain(
    slices: Iterable[EndpointSlice], family: int, node: NodeView
) -> list[_PlainSlice] | None:
    """None if any endpoint or port needs a closer look, for whatever reason."""
    # Past the cache: a hundred thousand endpoints read once would only churn it.
    parse = parse_address.__wrapped__
    is_v4 = family == 4
    node_name = node.name
    permit = None if node.allowed.backends.cidrs is None else node.allowed.backends.permit
    telling = len(V4_PREFIX) if is_v4 else 0  # the byte SUSPECT_* are about
    suspects = SUSPECT_V4 if is_v4 else SUSPECT_V6
    result = []
    for item in slices:
        ports = []
        for port in item.ports or ():
            number = port.port
            if number is None or not 0 < number <= 65535:
                return None
            protocol = port.protocol or "TCP"
            if protocol not in _PROTOCOLS:
                return None
            ports.append((port.name or "", protocol, number))
        rows = []
        for endpoint in item.endpoints or ():
            if endpoint.hints is not None:
                return None
            conditions = endpoint.conditions
            if conditions is not None and (conditions.ready is False or conditions.terminating):
                return None
            try:
                address = parse(endpoint.addresses[0])
            except (ValueError, IndexError):
                return None
            if address.startswith(V4_PREFIX) is not is_v4 or (
                address[telling] in suspects and refused_backend(address)
            ):
                return None
            if permit is not None and not permit(address):
                return None
            is_local = endpoint.nodeName == node_name
            rows.append((address, _PLAIN_LOCAL if is_local else _PLAIN_REMOTE))
        result.append(_PlainSlice(tuple(ports), tuple(rows)))
    return result


def _join_plain(slices: list[_PlainSlice], name: str, protocol: str) -> PortEndpoints | None:
    """None if an address and port stands there twice."""
    rows = []
    for item in slices:
        for port_name, port_protocol, number in item.ports:
            if port_name == name and port_protocol == protocol:
                rows += [(address, number, flags) for address, flags in item.rows]
    rows.sort()
    previous = None
    for row in rows:
        if previous is not None and row[0] == previous[0] and row[1] == previous[1]:
            return None
        previous = row
    return PortEndpoints(tuple(map(_to_backend, rows)), len(rows))


# ---- the general way -------------------------------------------------------------


class _Slice(NamedTuple):
    ports: tuple[tuple[str, str, int], ...]
    members: tuple[Member, ...]
    refused: frozenset[bytes]  # addresses that are counted, but never used


def _read_all(
    slices: Iterable[EndpointSlice], family: int, node: NodeView, problems: list[Problem]
) -> list[_Slice]:
    result = []
    for item in slices:
        meta = item.metadata
        complain = partial(_complain, problems, f"EndpointSlice {meta.namespace}/{meta.name}")
        ports = []
        for index, port in enumerate(item.ports or ()):
            number = port.port
            if not number:
                continue  # R12: nil or 0 is not meant for us
            protocol = port.protocol or "TCP"
            if not 0 < number <= 65535:
                complain(f"ports[{index}].port {number} is not in 1..65535: the port is ignored")
            elif protocol not in _PROTOCOLS:
                complain(
                    f"ports[{index}].protocol {protocol!r} is not TCP, UDP or SCTP:"
                    " the port is ignored"
                )
            else:
                # The API server makes a nil name "" (R12); a state file has no API server.
                ports.append((port.name or "", protocol, number))
        members = []
        refused = set()
        for index, endpoint in enumerate(item.endpoints or ()):
            field = f"endpoints[{index}].addresses"
            if not endpoint.addresses:
                complain(f"{field} is empty: the endpoint is ignored")
                continue
            text = endpoint.addresses[0]  # R19
            try:
                address = parse_address(text)
            except ValueError as error:
                complain(f"{field}[0] {error}: the endpoint is ignored")
                continue
            reason = refused_backend(address)
            if family_of(address) != family:
                complain(
                    f"{field}[0] {text} is not {_ADDRESS_TYPE[family]}, the slice's addressType:"
                    " the endpoint is ignored"
                )
            elif reason:
                complain(f"{field}[0] {text} is {reason}: no Service may send traffic there")
                refused.add(address)
            elif not node.allowed.backends.permit(address):
                complain(f"{field}[0] {text} is not in the agent's backend-cidrs: it is not used")
                refused.add(address)
            else:
                members.append(_member(endpoint, address, node.name))
        result.append(_Slice(tuple(ports), tuple(members), frozenset(refused)))
    return result


def _member(endpoint: Endpoint, address: bytes, node_name: str) -> Member:
    conditions, hints = endpoint.conditions, endpoint.hints
    is_ready = conditions is None or conditions.ready is not False
    return Member(
        address=address,
        is_ready=is_ready,
        # A Ready endpoint is used whatever its other conditions say (R27).
        is_serving=is_ready or conditions is None or conditions.serving is not False,
        is_terminating=conditions is not None and conditions.terminating is True,
        is_local=endpoint.nodeName == node_name,
        zones=_hinted(hints.forZones) if hints else NO_HINTS,
        nodes=_hinted(hints.forNodes) if hints else NO_HINTS,
    )


def _hinted(hints: list[Hint] | None) -> frozenset[str]:
    return frozenset([hint.name for hint in hints]) if hints else NO_HINTS


def _unplain(slices: Iterable[_PlainSlice]) -> list[_Slice]:
    return [
        _Slice(
            item.ports,
            tuple(
                Member(address, True, True, False, bool(flags & _ON_NODE))
                for address, flags in item.rows
            ),
            frozenset(),
        )
        for item in slices
    ]


def _join(slices: Iterable[_Slice], name: str, protocol: str, node: NodeView) -> PortEndpoints:
    found: dict[Place, list[Member]] = {}
    refused: set[Place] = set()
    for item in slices:
        for port_name, port_protocol, number in item.ports:
            if port_name == name and port_protocol == protocol:
                for member in item.members:
                    found.setdefault((member.address, number), []).append(member)
                refused.update((address, number) for address in item.refused)
    return merge(found, refused, node)


def _complain(problems: list[Problem], name: str, message: str) -> None:
    problems.append(Problem(name, message, is_error=False))
