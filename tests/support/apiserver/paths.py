# SPDX-License-Identifier: Apache-2.0
"""Where the objects of a state file stand in an API server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tests.support.apiserver.objects import KINDS

SECTIONS = {"services": "services", "endpoints": "endpointslices", "nodes": "nodes"}
"""What a state file calls them → their plural."""

Manifest = Mapping[str, Any]
State = Mapping[str, list[Manifest]]


class Standing(NamedTuple):
    plural: str
    collection: str  # its path
    name: str
    manifest: Manifest


def standing(state: State) -> Iterator[Standing]:
    """Every object of a state, Services before their slices."""
    for section, plural in SECTIONS.items():
        kind = KINDS[plural]
        for manifest in state.get(section) or ():
            meta = manifest["metadata"]
            place = f"/namespaces/{meta.get('namespace', 'default')}" if kind.is_namespaced else ""
            yield Standing(plural, f"{kind.prefix}{place}/{plural}", meta["name"], manifest)
