# SPDX-License-Identifier: Apache-2.0
"""The tables as text, with names and addresses and without ids: for people and tests.

Two tables that mean the same give the same text, whatever ids were given out. Broken
references are shown, not hidden.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vipbee.abi import AddressFlag, BackendFlag, FrontendFlag, FrontendKind
from vipbee.address import UNSPECIFIED_V4, UNSPECIFIED_V6, format_address, format_endpoint
from vipbee.core.snapshot import Records, Snapshot

_PROTOCOLS = {6: "TCP", 17: "UDP"}
_KINDS = {int(kind) for kind in FrontendKind}


def dump(snapshot: Snapshot) -> str:
    """Return sorted lines: frontends, then addresses, then backends.

    10.96.0.10:80/TCP ClusterIP default/web:http affinity=10800s cluster=[10.244.1.2:8080]
    address 10.96.0.10 CLUSTER_IP
    backend default/web:http/TCP 10.244.1.2:8080 SERVING|IN_CLUSTER|READY
    """
    names = _service_names(snapshot)
    sections = (_frontends(snapshot, names), _addresses(snapshot), _backends(snapshot, names))
    return "".join(f"{line}\n" for lines in sections for line in lines)


def _service_names(snapshot: Snapshot) -> dict[int, str]:
    columns = [snapshot.services[name].tolist() for name in ("namespace_", "name", "port_name")]
    names = {}
    for service_id, *texts in zip(snapshot.service_ids.tolist(), *columns, strict=True):
        namespace, name, port_name = (text.decode(errors="replace") for text in texts)
        names[service_id] = f"{namespace}/{name}:{port_name}"
    return names


def _frontends(snapshot: Snapshot, names: dict[int, str]) -> Iterable[str]:
    lines = []
    for key, value in zip(snapshot.frontend_keys, snapshot.frontends, strict=True):
        address, port = key["address"].tobytes(), int(key["port"])
        kind = int(value["kind"])
        words = [
            f"{_place(address, port)}/{_protocol(key)}",
            FrontendKind(kind).label if kind in _KINDS else f"kind{kind}",
            names.get(int(value["service_id"]), "?"),
        ]
        if value["flags"] & FrontendFlag.POLICY_LOCAL:
            words.append("iTP=Local" if kind == FrontendKind.CLUSTER_IP else "eTP=Local")
        if value["affinity_timeout_s"]:
            words.append(f"affinity={value['affinity_timeout_s']}s")
        words.append(f"cluster=[{_slots(snapshot, value, 'cluster')}]")
        words.append(f"local=[{_slots(snapshot, value, 'local')}]")
        lines.append((address, port, int(key["protocol"]), " ".join(words)))
    return (line for *_, line in sorted(lines))


def _slots(snapshot: Snapshot, frontend: np.void, name: str) -> str:
    """The backends of a range; sorted, for the order of slots means nothing."""
    first, count = frontend[name].item()
    ids = snapshot.slots[first : first + count]
    if len(ids) < count:
        return "out of range"
    backends = []
    for backend_id in ids.tolist():
        backend = snapshot.backends[backend_id] if backend_id < len(snapshot.backends) else None
        if backend is None or not backend["flags"]:
            backends.append((b"", 0, "dead"))
        elif backend["service_id"] != frontend["service_id"]:
            backends.append((b"", 0, "of another Service"))
        else:
            address, port = backend["address"].tobytes(), int(backend["port"])
            backends.append((address, port, format_endpoint(address, port)))
    return ",".join(text for *_, text in sorted(backends))


def _addresses(snapshot: Snapshot) -> Iterable[str]:
    rows = sorted(
        (key.tobytes(), int(flags))
        for key, flags in zip(snapshot.address_keys, snapshot.addresses, strict=True)
    )
    for address, flags in rows:
        yield f"address {format_address(address)} {_flags(AddressFlag(flags))}"


def _backends(snapshot: Snapshot, names: dict[int, str]) -> Iterable[str]:
    rows: list[tuple[str, bytes, int, str]] = []
    for backend in snapshot.backends[np.flatnonzero(snapshot.backends["flags"])]:
        service = f"{names.get(int(backend['service_id']), '?')}/{_protocol(backend)}"
        address, port = backend["address"].tobytes(), int(backend["port"])
        rows.append((service, address, port, _flags(BackendFlag(int(backend["flags"])))))
    for service, address, port, flags in sorted(rows):
        yield f"backend {service} {format_endpoint(address, port)} {flags}"


def _place(address: bytes, port: int) -> str:
    """A frontend's address and port; the unspecified address stands for the node's."""
    if address in (UNSPECIFIED_V4, UNSPECIFIED_V6):
        return f"{'node' if address == UNSPECIFIED_V4 else '[node]'}:{port}"
    return format_endpoint(address, port)


def _flags(flags: AddressFlag | BackendFlag) -> str:
    return "|".join(str(flag.name) for flag in flags)


def _protocol(row: np.void | Records) -> str:
    number = int(row["protocol"])
    return _PROTOCOLS.get(number, str(number))
