# SPDX-License-Identifier: Apache-2.0
"""abi.py says what bpf/abi.h says: every enum value, every map, no unnamed padding."""

from __future__ import annotations

import re
from enum import IntEnum, IntFlag
from pathlib import Path

import numpy as np
import pytest

from vipbee import abi
from vipbee.datapath.btf import open_btf
from vipbee.datapath.layouts import load_layouts

ROOT = Path(__file__).resolve().parents[2]

ENUMS: dict[str, tuple[type[IntEnum | IntFlag], str]] = {
    # C enum: (Python enum, prefix of the C names)
    "frontend_kind": (abi.FrontendKind, "FRONTEND_"),
    "frontend_flag": (abi.FrontendFlag, "FRONTEND_"),
    "address_flag": (abi.AddressFlag, "ADDRESS_"),
    "backend_flag": (abi.BackendFlag, "BACKEND_"),
    "reason": (abi.Reason, "REASON_"),
    "socket_flow_flag": (abi.SocketFlowFlag, "FLOW_"),
    "udp_flow_direction": (abi.UdpFlowDirection, "UDP_FLOW_"),
    "affinity_client": (abi.AffinityClient, "AFFINITY_"),
    "report_severity": (abi.ReportSeverity, "REPORT_"),
    "device_flag": (abi.DeviceFlag, "DEVICE_"),
    "conntrack_flag": (abi.ConntrackFlag, "CONNTRACK_"),
    "conntrack_seen": (abi.ConntrackSeen, "SEEN_"),
    "sweep_outcome": (abi.SweepOutcome, "SWEEP_"),
}
COUNTS = {"REASON_MAX"}
"""C values that count the others."""


@pytest.fixture(scope="module")
def c_enums() -> dict[str, dict[str, int]]:
    with open_btf() as btf:
        return btf.enums()


@pytest.mark.parametrize("name", ENUMS)
def test_python_enum_equals_the_compiled_one(name: str, c_enums: dict[str, dict[str, int]]) -> None:
    python, prefix = ENUMS[name]

    compiled = {key: value for key, value in c_enums[name].items() if key not in COUNTS}

    assert {f"{prefix}{member.name}": member.value for member in python} == compiled


def test_every_enum_of_the_header_has_its_python_twin() -> None:
    header = (ROOT / "bpf" / "abi.h").read_text()

    assert set(re.findall(r"^enum (\w+) \{", header, re.MULTILINE)) == set(ENUMS)


def test_every_map_of_the_header_is_named_in_python() -> None:
    header = (ROOT / "bpf" / "maps.h").read_text()

    defined = re.findall(r'^\} (\w+) SEC\("\.maps"\);', header, re.MULTILINE)

    assert sorted(defined) == sorted(map(str, abi.MapName))


def test_every_struct_of_the_header_has_a_layout() -> None:
    header = (ROOT / "bpf" / "abi.h").read_text()

    defined = set(re.findall(r"^struct (\w+) \{", header, re.MULTILINE))

    assert defined - set(load_layouts().structs) == set()


def test_no_struct_has_padding_without_a_name() -> None:
    """A hash key is compared byte by byte, so a hole would make equal keys differ."""
    header = (ROOT / "bpf" / "abi.h").read_text()

    with_holes = [
        name
        for name in re.findall(r"^struct (\w+) \{", header, re.MULTILINE)
        if sum(field_sizes(load_layouts()[name])) != load_layouts()[name].itemsize
    ]

    assert with_holes == []


def field_sizes(dtype: np.dtype) -> list[int]:
    assert dtype.fields is not None
    return [field.itemsize for field, *_ in dtype.fields.values()]


def test_constants_are_where_numpy_finds_them_too() -> None:
    """The process that loads writes struct config without NumPy."""
    layout = load_layouts()["config"]

    with open_btf() as btf:
        members = btf.integers("config")

    fields = {name: field for name, field in dict(layout.fields or {}).items() if name != "pad"}
    assert list(members) == list(fields)
    assert members == {name: (at, dtype.itemsize) for name, (dtype, at) in fields.items()}
